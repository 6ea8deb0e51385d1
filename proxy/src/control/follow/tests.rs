//! What becomes of sets: in force, refused, a sign of life, decayed.

use std::{future::pending, pin::Pin};

use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, transport::Server};
use weir_policy::wire::proto::{
    self,
    policy_service_server::{PolicyService, PolicyServiceServer},
};

use super::*;
use crate::{Config, counters::Tally, security::Security};

const FROM: &str = "http://127.0.0.1:1";

fn follower() -> Follower {
    follower_with("")
}

fn follower_with(limits: &str) -> Follower {
    let text = format!(
        "service: tagger\nservers: 4\n\
        listeners: [{{ address: '127.0.0.1:0', direction: inbound, routes: [{{ upstream: app }}] }}]\n\
        upstreams: [{{ name: app, endpoints: ['127.0.0.1:9001'] }}]\n{limits}"
    );
    let config = Config::from_yaml(&text).unwrap();
    let first = "127.0.0.1:80".parse().unwrap();
    let workload = Workload::new(&config, first, Arc::new(Tally::default()), Security::default());
    let current = Arc::new(arc_swap::ArcSwap::from_pointee(workload));
    follower_of(FROM, current, Remembered::default())
}

fn follower_of(from: &str, current: Current, remembered: Remembered) -> Follower {
    let source = serde_json::from_value(serde_json::json!({ "from": from, "min_rate_per_s": 0.5 })).unwrap();
    Follower::new(current, source, None, remembered).unwrap()
}

fn set(sequence: u64, rate_per_s: f64, limit: u32) -> proto::PolicySet {
    let rate_limit = Some(proto::RateLimit { rate_per_s, burst: 1 });
    let concurrency_limit = Some(proto::ConcurrencyLimit { limit, queue: 1, queue_timeout_ms: 1 });
    let policy = proto::Policy { service: "tagger".into(), rate_limit, concurrency_limit, ..Default::default() };
    proto::PolicySet { sequence, policies: vec![policy], ..Default::default() }
}

/// A control plane that sends only what is refused silenced the local limiter.
#[tokio::test]
async fn only_what_is_enforced_is_news() {
    let mut follower = follower();
    let news = |follower: &Follower| follower.current.load().policy_news.borrow().is_some();
    for bad in [f64::NAN, -1.0, 1e-300] {
        assert!(follower.take(set(7, bad, 9)).is_err() && !news(&follower), "{bad}");
    }
    follower.take(set(7, 10.0, 9)).unwrap();
    assert!(news(&follower));
    follower.current.load().policy_news.send_replace(None);
    assert!(follower.take(set(3, 10.0, 9)).is_err() && !news(&follower), "an old one");
}

/// A set whose sequence is that of the one in force was taken for a sign of life, whatever it said.
#[tokio::test(start_paused = true)]
async fn another_share_of_the_same_set_is_enforced() {
    let mut follower = follower();
    let limit = |follower: &Follower| follower.current.load().applied.load().policies[0].concurrency_limit.unwrap();
    for (share, applied) in [(9, 1), (9, 1), (5, 2)] {
        follower.take(proto::PolicySet { ttl_ms: 30_000, ..set(7, 10.0, share) }).unwrap();
        let counted = follower.current.load().tally.read().policies_applied;
        assert_eq!((limit(&follower).limit.get(), counted), (share, applied));
    }
}

/// A set that lives for ever was put in force and on disk again with each sign of life.
#[tokio::test(start_paused = true)]
async fn the_same_set_is_a_sign_of_life_until_it_has_decayed() {
    for ttl_ms in [0, 30_000] {
        let mut follower = follower();
        let again = || proto::PolicySet { ttl_ms, ..set(7, 10.0, 9) };
        let counted = |follower: &Follower| follower.current.load().tally.read().policies_applied;
        for _ in 0..3 {
            follower.take(again()).unwrap();
            assert_eq!(counted(&follower), 1, "{ttl_ms}");
        }
        follower.decay();
        follower.take(again()).unwrap();
        assert_eq!(counted(&follower), 2, "{ttl_ms}: it is in force again");
    }
}

#[tokio::test]
async fn a_policy_cannot_strangle_the_service() {
    let mut follower = follower();
    let refused = follower.take(set(1, 0.1, 9)).unwrap_err();
    assert_eq!(refused, "policies[0].rate_limit.rate_per_s is 0.1: policy.min_rate_per_s is 0.5");
    for (asked, held_to) in [(1, 4), (4, 4), (9, 9)] {
        follower.take(set(10 + u64::from(asked), 1.0, asked)).unwrap();
        let applied = follower.current.load().applied.load_full();
        assert_eq!(applied.policies[0].concurrency_limit.unwrap().limit.get(), held_to, "{asked} asked");
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_without_news_gives_way_to_the_limits_of_the_file() {
    let limits = "limits: { concurrency_limit: { limit: 7, queue: 0, queue_timeout_ms: 0 } }";
    let mut follower = follower_with(limits);
    follower.take(proto::PolicySet { ttl_ms: 30_000, ..set(9, 10.0, 90) }).unwrap();
    let (current, stop) = (follower.current.clone(), CancellationToken::new());
    let following = tokio::spawn(follower.run(stop.clone()));
    for (after_ms, origin, limit, has_rate) in
        [(29_900, Origin::ControlPlane, 90, true), (200, Origin::Decayed, 7, false)]
    {
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        let workload = current.load();
        let applied = workload.applied.load();
        assert_eq!((workload.origin.lock().0, applied.sequence), (origin, 9));
        assert_eq!(applied.policies[0].concurrency_limit.unwrap().limit.get(), limit);
        assert_eq!(applied.policies[0].rate_limit.is_some(), has_rate);
        assert!(workload.gate.is_bounded(), "never unlimited");
    }
    stop.cancel();
    following.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_lives_on_for_what_is_left() {
    for (ttl_ms, age_s, origin, left_s) in
        [(60_000, 10, Origin::Disk, Some(50)), (60_000, 60, Origin::Decayed, None), (0, 1_000_000, Origin::Disk, None)]
    {
        let current = follower().current;
        let set = PolicySet { sequence: 7, ttl_ms, ..PolicySet::default() };
        let kept = Kept { set, from: None, age: Duration::from_secs(age_s) };
        let remembered = Remembered::enforce(kept, &current);
        assert_eq!(current.load().origin.lock().0, origin, "{ttl_ms} {age_s}");
        let left = remembered.decays.map(|at| at.duration_since(Instant::now()).as_secs());
        assert_eq!((remembered.newest.0, left), (7, left_s));
    }
}

/// Sets of another control plane were once refused until it had counted further than the one before.
#[tokio::test(start_paused = true)]
async fn a_number_counts_for_the_control_plane_that_gave_it() {
    for (kept_from, from, sequence, taken) in [
        (Some(FROM), FROM, 3, false),
        (Some(FROM), "http://127.0.0.1:2", 3, true),
        (Some(FROM), "http://127.0.0.1:2", 7, true),
        (None, FROM, 3, false),
    ] {
        let current = follower().current;
        let set_of_before = PolicySet { sequence: 7, ttl_ms: 60_000, ..PolicySet::default() };
        let kept = Kept { set: set_of_before, from: kept_from.map(str::to_owned), age: Duration::from_secs(10) };
        let remembered = Remembered::enforce(kept, &current);
        let mut follower = follower_of(from, current.clone(), remembered);
        // a control plane that is told so does not take it for one without limits
        assert_eq!(follower.status(String::new()).applied_sequence, 7, "it holds until the other one speaks");
        assert_eq!(follower.last.decays.map(|at| at.duration_since(Instant::now()).as_secs()), Some(50));
        assert_eq!(follower.take(set(sequence, 10.0, 9)).is_ok(), taken, "{kept_from:?} {from} {sequence}");
        let rate_limit = current.load().applied.load().for_service("tagger").and_then(|policy| policy.rate_limit);
        assert_eq!(rate_limit.is_some(), taken);
        assert!(follower.take(set(2, 10.0, 9)).is_err(), "from then on its own numbers count");
    }
}

/// Whoever came back from a control plane that had said nothing took an older set while a newer one was in force.
#[tokio::test]
async fn a_control_plane_that_says_nothing_takes_no_numbers_away() {
    let mut first = follower();
    first.take(set(7, 10.0, 9)).unwrap();
    let (current, stop) = (first.current.clone(), CancellationToken::new());
    stop.cancel();
    let silent = follower_of("http://127.0.0.1:2", current.clone(), first.run(stop.clone()).await);
    let mut back = follower_of(FROM, current.clone(), silent.run(stop.clone()).await);
    assert!(back.take(set(3, 10.0, 9)).is_err(), "7 is in force");
    back.take(set(8, 10.0, 9)).unwrap();
    let mut another = follower_of("http://127.0.0.1:2", current, back.run(stop).await);
    another.take(set(1, 10.0, 9)).unwrap();
}

/// Lets everybody in, tells the test, and answers nobody.
struct Mute(mpsc::UnboundedSender<()>);

#[tonic::async_trait]
impl PolicyService for Mute {
    type SubscribeStream = Pin<Box<dyn tokio_stream::Stream<Item = Result<proto::PolicySet, Status>> + Send>>;

    async fn subscribe(
        &self,
        _: Request<Streaming<proto::ProxyStatus>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        self.0.send(()).unwrap();
        pending().await
    }
}

/// A control plane that took the subscription and never answered it was waited for as long as its connection lived.
#[tokio::test]
async fn a_control_plane_that_does_not_answer_is_asked_again_and_the_policy_holds() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let from = format!("http://{}", listener.local_addr().unwrap());
    let (asked, mut asks) = mpsc::unbounded_channel();
    let server = Server::builder().add_service(PolicyServiceServer::new(Mute(asked)));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let mut follower = follower_of(&from, follower().current, Remembered::default());
    follower.take(set(7, 10.0, 9)).unwrap();
    let (current, stop) = (follower.current.clone(), CancellationToken::new());
    let news = *current.load().policy_news.borrow();
    let following = tokio::spawn(follower.run(stop.clone()));
    for _ in 0..3 {
        let again = tokio::time::timeout(Duration::from_secs(10), asks.recv()).await;
        assert_eq!(again, Ok(Some(())));
        let workload = current.load();
        assert_eq!((workload.origin.lock().0, workload.applied.load().sequence), (Origin::ControlPlane, 7));
        assert_eq!(*workload.policy_news.borrow(), news, "the local limiter hears that nobody speaks");
        // only the clock of the answer: sockets move in real time
        tokio::time::pause();
        tokio::time::advance(ANSWER_TIMEOUT).await;
        tokio::time::resume();
    }
    stop.cancel();
    following.await.unwrap();
}
