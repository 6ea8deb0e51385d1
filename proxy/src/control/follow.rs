//! [`Follower`]: follows the policy stream, applies each set whole, and answers what became of it.
//!
//! A set that cannot be enforced is refused whole and the one before stays. Any message is news; when
//! none came for the set's TTL, limits decay to the static configuration, never to "unlimited".

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};
use weir_policy::{
    ConcurrencyLimit, PolicySet,
    wire::proto::{self, policy_service_client::PolicyServiceClient},
};

use crate::{
    control::{Keeper, Reach, StateFile, state::Kept},
    counters::add,
    telemetry::jittered,
    workload::{Current, Origin, Workload},
};

/// The first wait before the stream is opened again; it doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(100);

/// 5 s: a control plane that restarts finds its proxies soon.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Statuses that wait to be sent, one a set; in a storm of sets the next one tells of those before it.
const STATUSES: usize = 16;

/// The loop that follows.
pub(crate) struct Follower {
    current: Current,
    reach: Reach,
    /// No policy may hold a service to fewer requests per second.
    min_rate_per_s: f64,
    keeper: Option<Keeper>,
    /// The newest set accepted: its sequence and when it was issued.
    newest: (u64, u64),
    /// When the set in force decays.
    decays: Option<Instant>,
}

/// What is enforced of an earlier run until the control plane speaks.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    newest: (u64, u64),
    decays: Option<Instant>,
}

enum Event {
    Set(proto::PolicySet),
    Decay,
    Ended(Status),
    Stop,
}

impl Remembered {
    /// Enforces what was kept of the last run, unless it has outlived its time since it was last heard.
    pub(crate) fn enforce(Kept { set, age }: Kept, current: &Current) -> Self {
        let (newest, now) = ((set.sequence, set.issued_unix_nano), Instant::now());
        let left = set.ttl().map(|ttl| ttl.saturating_sub(age));
        if left.is_some_and(|left| left.is_zero()) {
            warn!(
                sequence = set.sequence,
                "the policy kept from the last run has outlived its time; the static limits hold"
            );
            Workload::decay(current);
            return Self { newest, decays: None };
        }
        info!(sequence = set.sequence, "enforcing the policy kept from the last run");
        Workload::enforce(current, Origin::Disk, Arc::new(set));
        add(&current.load().tally.policies_applied, 1);
        Self { newest, decays: left.map(|left| now + left) }
    }
}

impl Follower {
    /// Goes on from what is `remembered`; within a runtime.
    pub(crate) fn new(
        current: Current,
        reach: Reach,
        min_rate_per_s: f64,
        state: Option<StateFile>,
        remembered: Remembered,
    ) -> Self {
        let Remembered { newest, decays } = remembered;
        Self { current, reach, min_rate_per_s, keeper: state.map(Keeper::start), newest, decays }
    }

    /// Follows until `stop`; the newest set is on disk when it returns, with what another one would go on from.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Remembered {
        self.follow_until(stop).await;
        if let Some(keeper) = self.keeper {
            keeper.finish().await;
        }
        Remembered { newest: self.newest, decays: self.decays }
    }

    async fn follow_until(&mut self, stop: CancellationToken) {
        let mut backoff = MIN_BACKOFF;
        loop {
            let opened = tokio::select! {
                () = stop.cancelled() => return,
                () = decay_at(self.decays) => { self.decay(); continue }
                opened = self.open() => opened,
            };
            match opened {
                Ok((statuses, sets)) => {
                    backoff = MIN_BACKOFF;
                    if self.follow(&statuses, sets, &stop).await.is_none() {
                        return;
                    }
                }
                Err(error) => debug!(%error, "no policy stream"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = decay_at(self.decays) => self.decay(),
                () = tokio::time::sleep(jittered(backoff)) => backoff = (backoff * 2).min(MAX_BACKOFF),
            }
        }
    }

    async fn open(&self) -> Result<(mpsc::Sender<proto::ProxyStatus>, Streaming<proto::PolicySet>), Status> {
        let (statuses, outgoing) = mpsc::channel(STATUSES);
        // there is room: the channel is new
        let _ = statuses.try_send(self.status(String::new()));
        // a connection of its own: the one before may be dead without a word
        let mut client = PolicyServiceClient::new(self.reach.channel());
        let sets = client.subscribe(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok((statuses, sets))
    }

    /// `None` when told to stop.
    async fn follow(
        &mut self,
        statuses: &mpsc::Sender<proto::ProxyStatus>,
        mut sets: Streaming<proto::PolicySet>,
        stop: &CancellationToken,
    ) -> Option<()> {
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => Event::Stop,
                () = decay_at(self.decays) => Event::Decay,
                set = sets.message() => match set {
                    Ok(Some(set)) => Event::Set(set),
                    Ok(None) => Event::Ended(Status::unavailable("the control plane closed the stream")),
                    Err(error) => Event::Ended(error),
                },
            };
            match event {
                Event::Set(set) => {
                    let refused = self.take(set).err().unwrap_or_default();
                    // a full channel means that the control plane reads slowly; it is told with the next set
                    let _ = statuses.try_send(self.status(refused));
                }
                Event::Decay => self.decay(),
                Event::Ended(error) => {
                    warn!(%error, "the policy stream ended; the last good policy holds");
                    return Some(());
                }
                Event::Stop => return None,
            }
        }
    }

    /// Enforces a set, or says why not.
    fn take(&mut self, set: proto::PolicySet) -> Result<(), String> {
        let set = PolicySet::try_from(set).map_err(|error| error.to_string());
        let set = set.and_then(|set| self.bearable(set)).inspect_err(|error| {
            add(&self.current.load().tally.policies_refused, 1);
            warn!(%error, "policy refused whole; the one before stays");
        })?;
        // the same set may come with another share of it
        let in_force = set.sequence == self.newest.0
            && set.issued_unix_nano == self.newest.1
            && self.is_regulated()
            && set == **self.current.load().applied.load();
        // a control plane that lost its count issues lower numbers, but later
        let outdated = set.sequence < self.newest.0 && set.issued_unix_nano <= self.newest.1;
        if outdated {
            return Err(format!("sequence {} is older than {}", set.sequence, self.newest.0));
        }
        // a control plane of which nothing can be enforced regulates no more than one that is silent
        self.current.load().policy_news.send_replace(Some(Instant::now()));
        if in_force {
            self.decays = set.ttl().map(|ttl| Instant::now() + ttl);
            self.keeper.iter().for_each(Keeper::heard);
            return Ok(());
        }
        info!(sequence = set.sequence, policies = set.policies.len(), "policy in force");
        self.enforce(set, Origin::ControlPlane);
        // a sync takes longer than a swap may: the set holds first and is kept beside
        if let Some(keeper) = &self.keeper {
            keeper.keep(self.current.load().applied.load_full());
        }
        Ok(())
    }

    /// A set that does not strangle this service: a rate below the least is refused, and a concurrency limit is not let
    /// leave workers idle.
    fn bearable(&self, mut set: PolicySet) -> Result<PolicySet, String> {
        let workload = self.current.load();
        let servers = workload.servers.and_then(NonZeroU32::new);
        for (index, policy) in set.policies.iter_mut().enumerate().filter(|(_, p)| p.service == workload.service) {
            let rate_per_s = policy.rate_limit.map(|rate| rate.rate_per_s());
            if let Some(rate_per_s) = rate_per_s.filter(|rate| *rate < self.min_rate_per_s) {
                let (min, key) = (self.min_rate_per_s, "rate_limit.rate_per_s");
                return Err(format!("policies[{index}].{key} is {rate_per_s}: policy.min_rate_per_s is {min}"));
            }
            if let (None, Some(asked), Some(servers)) = (&policy.route, policy.concurrency_limit, servers)
                && asked.limit < servers
            {
                // the same set comes again as a sign of life
                if set.sequence != self.newest.0 {
                    warn!(asked = asked.limit, %servers, "a policy would leave workers idle; the limit is their number");
                }
                policy.concurrency_limit = Some(ConcurrencyLimit { limit: servers, ..asked });
            }
        }
        Ok(set)
    }

    /// Whether a set is in force that was not made of the file.
    fn is_regulated(&self) -> bool {
        matches!(self.current.load().origin.lock().0, Origin::ControlPlane | Origin::Disk)
    }

    fn enforce(&mut self, set: PolicySet, origin: Origin) {
        self.newest = (set.sequence, set.issued_unix_nano);
        self.decays = set.ttl().map(|ttl| Instant::now() + ttl);
        Workload::enforce(&self.current, origin, Arc::new(set));
        add(&self.current.load().tally.policies_applied, 1);
    }

    fn decay(&mut self) {
        warn!(sequence = self.newest.0, "no news of the policy for its time to live; the static limits hold");
        self.decays = None;
        Workload::decay(&self.current);
    }

    fn status(&self, refused: String) -> proto::ProxyStatus {
        let workload = self.current.load();
        let Workload { service, instance, .. } = &**workload;
        let (service, instance) = (service.clone(), instance.clone());
        proto::ProxyStatus { service, instance, applied_sequence: self.newest.0, refused }
    }
}

async fn decay_at(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use weir_policy::wire::proto;

    use super::*;
    use crate::{Config, counters::Tally, security::Security};

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
        let reach = Reach::new("http://127.0.0.1:1".to_owned(), None).unwrap();
        Follower::new(current, reach, 0.5, None, Remembered::default())
    }

    fn set(sequence: u64, rate_per_s: f64, limit: u32) -> proto::PolicySet {
        let rate_limit = Some(proto::RateLimit { rate_per_s, burst: 1 });
        let concurrency_limit = Some(proto::ConcurrencyLimit { limit, queue: 1, queue_timeout_ms: 1 });
        let policy = proto::Policy { service: "tagger".into(), rate_limit, concurrency_limit, ..Default::default() };
        proto::PolicySet { sequence, policies: vec![policy], ..Default::default() }
    }

    /// Found in a review: a control plane that sends only what is refused silenced the local limiter.
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
        for (ttl_ms, age_s, origin, left_s) in [
            (60_000, 10, Origin::Disk, Some(50)),
            (60_000, 60, Origin::Decayed, None),
            (0, 1_000_000, Origin::Disk, None),
        ] {
            let current = follower().current;
            let set = PolicySet { sequence: 7, ttl_ms, ..PolicySet::default() };
            let remembered = Remembered::enforce(Kept { set, age: Duration::from_secs(age_s) }, &current);
            assert_eq!(current.load().origin.lock().0, origin, "{ttl_ms} {age_s}");
            let left = remembered.decays.map(|at| at.duration_since(Instant::now()).as_secs());
            assert_eq!((remembered.newest.0, left), (7, left_s));
        }
    }
}
