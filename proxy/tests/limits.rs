//! Limits in whole flows: who is let in, who waits, who is turned away and what it is told, and where
//! the limits come from.

#![allow(clippy::unwrap_used, reason = "a test that meets what it did not expect is to stop")]

mod flow;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use futures::{StreamExt, future::join_all, stream::BoxStream};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};
use weir_policy::wire::proto::{
    self,
    policy_service_server::{PolicyService, PolicyServiceServer},
};
use weir_proxy::{Config, Proxy};

use flow::{admin, app, ask, client, config, metric, proxy, until, url};

/// An application that says when a request is in and holds it until told.
struct Held {
    address: SocketAddr,
    go_on: Arc<Notify>,
    entered: mpsc::UnboundedReceiver<()>,
}

async fn held() -> Held {
    let (go_on, (entered_in, entered)) = (Arc::new(Notify::new()), mpsc::unbounded_channel());
    let work = async |State((go_on, entered)): State<(Arc<Notify>, mpsc::UnboundedSender<()>)>| {
        entered.send(()).unwrap();
        go_on.notified().await;
    };
    let router = Router::new().fallback(get(work)).with_state((go_on.clone(), entered_in));
    Held { address: app(router).await, go_on, entered }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_has_limits_of_its_own() {
    let mut app = held().await;
    let routes = "
      - { name: small, match: { path_prefix: /small }, upstream: app,
          limits: { concurrency_limit: { limit: 1, queue: 0, queue_timeout_ms: 1000 } } }
      - { name: rare, match: { path_prefix: /rare }, upstream: app,
          limits: { rate_limit: { rate_per_s: 0.001, burst: 1 } } }
      - { name: rest, upstream: app }";
    let proxy =
        proxy(app.address, routes, "limits: { concurrency_limit: { limit: 4, queue: 0, queue_timeout_ms: 0 } }");
    let go = |path: &str| tokio::spawn(ask(client().get(url(&proxy, path))));
    let mut under_way = vec![go("/small")];
    app.entered.recv().await.unwrap();
    assert_eq!(ask(client().get(url(&proxy, "/small"))).await, (503, "queue_full".into()));
    under_way.push(go("/rare"));
    app.entered.recv().await.unwrap();
    assert_eq!(ask(client().get(url(&proxy, "/rare"))).await, (429, "rate_limited".into()));
    for _ in 0..2 {
        under_way.push(go("/rest"));
        app.entered.recv().await.unwrap();
    }
    assert_eq!(ask(client().get(url(&proxy, "/rest"))).await, (503, "queue_full".into()), "the service's limit");
    app.go_on.notify_waiters();
    for answer in join_all(under_way).await {
        assert_eq!(answer.unwrap(), (200, String::new()));
    }
    assert_eq!(proxy.drain().await.shed, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_the_measured_wait_cannot_meet_is_refused_at_once() {
    let mut app = held().await;
    let limits = "limits: { concurrency_limit: { limit: 1, queue: 9, queue_timeout_ms: 60000 } }";
    let proxy = proxy(app.address, "      - { upstream: app }", limits);
    let client = client();
    let go = || tokio::spawn(ask(client.get(url(&proxy, "/"))));
    for _ in 0..10 {
        let one = go();
        app.entered.recv().await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await; // the service time that the proxy is to measure
        app.go_on.notify_one();
        assert_eq!(one.await.unwrap().0, 200);
    }
    let (first, second) = (go(), go());
    app.entered.recv().await.unwrap();
    until("queued", async || metric(&proxy, "weir_proxy_queued").await == 1.0).await;
    assert!(metric(&proxy, "weir_proxy_expected_wait_ns").await >= 2.0 * 15e6, "two more have to finish first");
    let unix_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    for (header, value) in [
        ("grpc-timeout", "1m".to_owned()),
        ("x-envoy-expected-rq-timeout-ms", "1".to_owned()),
        ("x-request-deadline", (unix_ms + 5).to_string()),
    ] {
        let refused = ask(client.get(url(&proxy, "/")).header(header, value)).await;
        assert_eq!(refused, (503, "deadline_unmeetable".into()), "{header}");
    }
    app.go_on.notify_one();
    app.entered.recv().await.unwrap();
    app.go_on.notify_one();
    assert_eq!((first.await.unwrap().0, second.await.unwrap().0), (200, 200));
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_higher_priority_takes_the_place_of_the_lower_one_in_the_queue() {
    let mut app = held().await;
    let routes = "
      - { name: batch, match: { path_prefix: /batch }, upstream: app, limits: { priority: low } }
      - { name: rest, upstream: app }";
    let limits =
        "limits:\n  priority_header: x-priority\n  concurrency_limit: { limit: 1, queue: 1, queue_timeout_ms: 60000 }";
    let proxy = proxy(app.address, routes, limits);
    let go = |path: &str, priority: &'static str| {
        tokio::spawn(ask(client().get(url(&proxy, path)).header("x-priority", priority)))
    };
    let first = go("/", "normal");
    app.entered.recv().await.unwrap();
    let batch = go("/batch", "");
    until("queued", async || metric(&proxy, "weir_proxy_queued").await == 1.0).await;
    let urgent = go("/batch", "u=0");
    assert_eq!(batch.await.unwrap(), (503, "displaced".into()));
    assert_eq!(go("/", "normal").await.unwrap(), (503, "queue_full".into()));
    app.go_on.notify_one();
    app.entered.recv().await.unwrap();
    app.go_on.notify_one();
    assert_eq!((first.await.unwrap().0, urgent.await.unwrap().0), (200, 200));
    proxy.drain().await;
}

/// What leaves is limited by the route it takes, and shed when the callee fails, until probes say that it is back.
#[tokio::test(flavor = "multi_thread")]
async fn calls_to_a_failing_service_are_shed_until_it_is_back() {
    let well = Arc::new(AtomicBool::new(false));
    let work = async |State(well): State<Arc<AtomicBool>>| {
        if well.load(Relaxed) { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR }
    };
    let address = app(Router::new().fallback(get(work)).with_state(well.clone())).await;
    let text = format!(
        "service: tagger\nthreads: 1\nadmin: 127.0.0.1:0\nlisteners:\n  - address: 127.0.0.1:0\n    direction: outbound\n    routes:\n      \
         - {{ name: rare, match: {{ path_prefix: /rare }}, upstream: parser, limits: {{ rate_limit: {{ rate_per_s: 0.001, burst: 1 }} }} }}\n      \
         - {{ name: rest, upstream: parser, limits: {{ breaker: {{ error_ratio: 0.5, min_requests: 10, window_ms: 500 }} }} }}\n\
         upstreams:\n  - {{ name: parser, endpoints: [\"{address}\"] }}\n"
    );
    let proxy = Proxy::start(Config::from_yaml(&text).unwrap()).unwrap();
    let client = client();
    let go = async || ask(client.get(url(&proxy, "/"))).await;
    let (mut passed, mut shed) = (0, 0);
    for _ in 0..300 {
        match go().await {
            (500, _) => passed += 1,
            (503, reason) => {
                assert_eq!(reason, "breaker_open");
                shed += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(shed > passed && passed >= 10, "{passed} passed, {shed} shed");
    well.store(true, Relaxed);
    // one good slot after the other wins a tenth back: twenty in a row mean that all pass
    let mut in_a_row = 0;
    let back = async {
        while in_a_row < 20 {
            in_a_row = if go().await.0 == 200 { in_a_row + 1 } else { 0 };
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), back).await.expect("traffic comes back");
    let rare = async || ask(client.get(url(&proxy, "/rare"))).await;
    assert_eq!((rare().await.0, rare().await), (200, (429, "rate_limited".into())));
    proxy.drain().await;
}

/// A service of two workers is asked by sixty clients at once, and nobody says a limit.
#[tokio::test(flavor = "multi_thread")]
async fn an_overloaded_service_is_limited_without_a_control_plane() {
    let workers = Arc::new(Semaphore::new(2));
    let work = async |State(workers): State<Arc<Semaphore>>| {
        let _worker = workers.acquire().await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let address = app(Router::new().fallback(get(work)).with_state(workers)).await;
    let limits = "servers: 2\nlimits: { local_limit: { queue_wait_ms: 20, queue: 4 } }";
    let proxy = proxy(address, "      - { upstream: app }", limits);
    let client = client();
    for _ in 0..10 {
        assert_eq!(ask(client.get(url(&proxy, "/"))).await.0, 200);
    }
    assert_eq!(metric(&proxy, "weir_proxy_local_limit").await, 0.0, "no need, no limit");
    let load = (0..60).map(|_| async {
        let mut shed = 0;
        for _ in 0..20 {
            shed += u32::from(ask(client.get(url(&proxy, "/"))).await.0 == 503);
        }
        shed
    });
    let shed: u32 = join_all(load).await.into_iter().sum();
    let limit = metric(&proxy, "weir_proxy_local_limit").await;
    println!("{shed} of 1200 shed, limit {limit}");
    assert!(shed > 0 && (2.0..40.0).contains(&limit), "{shed} shed, limit {limit}");
    proxy.drain().await;
}

type SetSender = mpsc::Sender<Result<proto::PolicySet, Status>>;

/// A control plane that sends what the test gives it and keeps what proxies say.
#[derive(Clone, Default)]
struct ControlPlane {
    subscriptions: Arc<AtomicUsize>,
    sets: Arc<Mutex<Option<SetSender>>>,
    statuses: Arc<Mutex<Vec<proto::ProxyStatus>>>,
}

#[tonic::async_trait]
impl PolicyService for ControlPlane {
    type SubscribeStream = BoxStream<'static, Result<proto::PolicySet, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<proto::ProxyStatus>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let (sets, stream) = mpsc::channel(4_096);
        *self.sets.lock().unwrap() = Some(sets);
        self.subscriptions.fetch_add(1, Relaxed);
        let (kept, mut statuses) = (self.statuses.clone(), request.into_inner());
        tokio::spawn(async move {
            while let Ok(Some(status)) = statuses.message().await {
                kept.lock().unwrap().push(status);
            }
        });
        Ok(Response::new(ReceiverStream::new(stream).boxed()))
    }
}

impl ControlPlane {
    async fn start(&self) -> (SocketAddr, tokio::task::JoinHandle<()>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder().add_service(PolicyServiceServer::new(self.clone()));
        let serving = tokio::spawn(async move {
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        (address, serving)
    }

    fn send(&self, set: proto::PolicySet) {
        self.sets.lock().unwrap().as_ref().unwrap().try_send(Ok(set)).unwrap();
    }

    fn last_status(&self) -> Option<proto::ProxyStatus> {
        self.statuses.lock().unwrap().last().cloned()
    }
}

fn set(sequence: u64, rate_per_s: f64) -> proto::PolicySet {
    let rate_limit = Some(proto::RateLimit { rate_per_s, burst: 1 });
    let policy = proto::Policy { service: "tagger".into(), rate_limit, ..Default::default() };
    proto::PolicySet { sequence, policies: vec![policy], ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_obeyed_whole_or_refused_whole_and_outlives_the_control_plane() {
    let state = tempfile::tempdir().unwrap();
    let app = app(Router::new().fallback(get(async || "ok"))).await;
    let control = ControlPlane::default();
    let (address, serving) = control.start().await;
    let more = format!("policy: {{ from: \"http://{address}\", state_dir: {:?} }}\n", state.path());
    let start = || Proxy::start(config(app, "      - { upstream: app }", &more)).unwrap();
    let first = start();
    until("subscribed", async || control.last_status().is_some()).await;
    control.send(set(7, 0.001));
    until("applied", async || control.last_status().unwrap().applied_sequence == 7).await;
    assert_eq!(ask(client().get(url(&first, "/"))).await.0, 200, "the burst");
    assert_eq!(ask(client().get(url(&first, "/"))).await, (429, "rate_limited".into()));

    control.send(set(8, f64::NAN));
    until("refused", async || !control.last_status().unwrap().refused.is_empty()).await;
    let status = control.last_status().unwrap();
    assert_eq!(status.applied_sequence, 7);
    assert!(status.refused.starts_with("policies[0].rate_limit.rate_per_s is NaN"), "{}", status.refused);
    assert_eq!(first.policy().sequence, 7, "the one before stays");
    assert_eq!(ask(client().get(url(&first, "/"))).await.0, 429);
    let counters = first.drain().await;
    assert_eq!((counters.policies_applied, counters.policies_refused), (1, 1));

    serving.abort();
    let second = start();
    until("the kept policy", async || second.policy().sequence == 7).await;
    assert_eq!(ask(client().get(url(&second, "/"))).await.0, 200);
    assert_eq!(ask(client().get(url(&second, "/"))).await.0, 429);
    second.drain().await;
}

/// A thousand changes, each in force soon, while requests pass; the newest is the one that is kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_policies_costs_no_request() {
    let state = tempfile::tempdir().unwrap();
    let app = app(Router::new().fallback(get(async || "ok"))).await;
    let control = ControlPlane::default();
    let (address, _serving) = control.start().await;
    let more = format!("policy: {{ from: \"http://{address}\", state_dir: {:?} }}\n", state.path());
    let proxy = Proxy::start(config(app, "      - { upstream: app }", &more)).unwrap();
    until("subscribed", async || control.last_status().is_some()).await;
    let load = tokio::spawn({
        let (client, url) = (client(), url(&proxy, "/"));
        async move { join_all((0..200).map(|_| ask(client.get(&url)))).await }
    });
    let began = Instant::now();
    for sequence in 1..=1_000 {
        control.send(set(sequence, 1e6 + sequence as f64));
    }
    until("the last one", async || proxy.policy().sequence == 1_000).await;
    println!("1000 policies in {:?}", began.elapsed());
    // from the sending of a policy that changes what is let in to the first request that feels it
    let (client, mut times) = (client(), Vec::new());
    for n in 0..20 {
        let (rate_per_s, expected) = if n % 2 == 0 { (0.001, 429) } else { (1e9, 200) };
        let began = Instant::now();
        control.send(set(1_001 + n, rate_per_s));
        let obeyed = async { while ask(client.get(url(&proxy, "/"))).await.0 != expected {} };
        tokio::time::timeout(Duration::from_secs(30), obeyed).await.expect("it is obeyed");
        times.push(began.elapsed());
    }
    times.sort_unstable();
    println!(
        "from a policy to the first request that feels it: {:?} in the median, {:?} at most",
        times[10], times[19]
    );
    for (status, reason) in load.await.unwrap() {
        assert!(status == 200 || reason == "rate_limited", "{status} {reason}");
    }
    assert_eq!(proxy.drain().await.policies_applied, 1_020);
    let kept = std::fs::read_to_string(state.path().join("tagger.policy")).unwrap();
    assert!(kept.contains("\"sequence\":1020"), "{kept}");
}

/// Found in a review: a policy that sets one limit lifted all others, and the controller sends just such policies.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_sets_one_limit_leaves_the_others_of_the_file() {
    let mut app = held().await;
    let control = ControlPlane::default();
    let (address, _serving) = control.start().await;
    let more = format!(
        "limits: {{ concurrency_limit: {{ limit: 1, queue: 0, queue_timeout_ms: 0 }} }}\npolicy: {{ from: \"http://{address}\" }}\n"
    );
    let proxy = proxy(app.address, "      - { upstream: app }", &more);
    until("subscribed", async || control.last_status().is_some()).await;
    control.send(set(1, 1e6));
    until("applied", async || proxy.policy().sequence == 1).await;
    let first = tokio::spawn(ask(client().get(url(&proxy, "/"))));
    app.entered.recv().await.unwrap();
    assert_eq!(ask(client().get(url(&proxy, "/"))).await, (503, "queue_full".into()));
    app.go_on.notify_one();
    assert_eq!(first.await.unwrap().0, 200);
    proxy.drain().await;
}

/// Found in a review: a reload could put an older set back and report the newer one.
#[tokio::test(flavor = "multi_thread")]
async fn reloads_and_policies_take_turns() {
    let app = app(Router::new().fallback(get(async || "ok"))).await;
    let control = ControlPlane::default();
    let (address, _serving) = control.start().await;
    let more = format!("policy: {{ from: \"http://{address}\" }}\n");
    let proxy = Proxy::start(config(app, "      - { upstream: app }", &more)).unwrap();
    until("subscribed", async || control.last_status().is_some()).await;
    for round in 0..20 {
        for n in 1..=50 {
            control.send(set(round * 50 + n, 1e6));
        }
        proxy.reload(config(app, "      - { upstream: app }", &more)).await.unwrap();
    }
    until("the last one", async || proxy.policy().sequence == 1_000).await;
    proxy.drain().await;
}

/// Found in a review: a request that a fault delays asked for a place as of its arrival.
#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_request_asks_when_its_delay_is_over() {
    let app = app(Router::new().fallback(get(async || "ok"))).await;
    let routes = "
      - { name: slow, match: { path_prefix: /slow }, upstream: app, fault: { delay: { ms: 500 } } }
      - { name: fast, upstream: app }";
    let proxy = proxy(app, routes, "limits: { rate_limit: { rate_per_s: 2000, burst: 100 } }");
    let (client, mut passed) = (client(), 0);
    let slow = tokio::spawn(ask(client.get(url(&proxy, "/slow"))));
    while !slow.is_finished() {
        passed += usize::from(ask(client.get(url(&proxy, "/"))).await.0 == 200);
    }
    assert_eq!(slow.await.unwrap(), (200, String::new()), "{passed} passed it");
    assert!(metric(&proxy, "weir_proxy_shed_total").await == 0.0 && passed > 0);
    proxy.drain().await;
}

/// Passes bytes on until it is told to hold them, without closing anything; connections that come later pass.
async fn relay(to: SocketAddr) -> (SocketAddr, Arc<AtomicBool>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, dead) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
    let holds = dead.clone();
    tokio::spawn(async move {
        let mut first = true;
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let (holds, ends) = (holds.clone(), std::mem::take(&mut first));
            tokio::spawn(async move {
                let mut server = tokio::net::TcpStream::connect(to).await.unwrap();
                let pass = tokio::io::copy_bidirectional(&mut client, &mut server);
                if !ends {
                    return drop(pass.await);
                }
                let told = async {
                    while !holds.load(Relaxed) {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                };
                tokio::select! { _ = pass => return, () = told => {} }
                std::future::pending::<()>().await;
                drop((client, server));
            });
        }
    });
    (address, dead)
}

/// Found in a review: a stream whose other end vanished without a word was never opened again.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_stream_that_died_silently_is_opened_again() {
    let app = app(Router::new().fallback(get(async || "ok"))).await;
    let control = ControlPlane::default();
    let (address, _serving) = control.start().await;
    let (relay, dead) = relay(address).await;
    let proxy = proxy(app, "      - { upstream: app }", &format!("policy: {{ from: \"http://{relay}\" }}\n"));
    until("subscribed", async || control.last_status().is_some()).await;
    control.send(set(1, 1e6));
    until("applied", async || proxy.policy().sequence == 1).await;
    dead.store(true, Relaxed);
    until("another stream is opened", async || control.subscriptions.load(Relaxed) == 2).await;
    control.send(set(2, 1e6));
    until("it brings the next one", async || proxy.policy().sequence == 2).await;
    proxy.drain().await;
}

/// Found in a review: an expired policy came back with each start.
#[tokio::test(flavor = "multi_thread")]
async fn a_kept_policy_is_as_old_as_it_is() {
    let state = tempfile::tempdir().unwrap();
    let app = app(Router::new().fallback(get(async || "ok"))).await;
    let control = ControlPlane::default();
    let (address, serving) = control.start().await;
    let more = format!("policy: {{ from: \"http://{address}\", state_dir: {:?} }}\n", state.path());
    let start = || Proxy::start(config(app, "      - { upstream: app }", &more)).unwrap();
    let first = start();
    until("subscribed", async || control.last_status().is_some()).await;
    control.send(proto::PolicySet { ttl_ms: 60_000, ..set(7, 1.0) });
    until("applied", async || first.policy().sequence == 7).await;
    first.drain().await;
    serving.abort();
    let kept = std::fs::read_dir(state.path()).unwrap().map(|file| file.unwrap().path()).next().unwrap();
    for (age_s, source, second_passes) in [(1, "disk", false), (3_600, "decayed", true)] {
        let heard = std::time::SystemTime::now() - Duration::from_secs(age_s);
        std::fs::File::options().write(true).open(&kept).unwrap().set_modified(heard).unwrap();
        let proxy = start();
        // in force before the first request
        let statuses = [ask(client().get(url(&proxy, "/"))).await.0, ask(client().get(url(&proxy, "/"))).await.0];
        assert_eq!(statuses, [200, if second_passes { 200 } else { 429 }], "{age_s} s old");
        let told = admin(&proxy, "/policy").await;
        assert!(told.contains(&format!("\"source\": \"{source}\"")), "{age_s} s old: {told}");
        proxy.drain().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_policy_that_is_damaged_is_not_used_and_the_limits_of_the_file_hold() {
    let state = tempfile::tempdir().unwrap();
    std::fs::write(state.path().join("tagger.policy"), "00000000\n{\"sequence\":7,\"policies\":[]}").unwrap();
    let app = app(Router::new().fallback(get(async || "ok"))).await;
    let more = format!(
        "limits: {{ rate_limit: {{ rate_per_s: 0.001, burst: 1 }} }}\n\
         policy: {{ from: \"http://127.0.0.1:1\", state_dir: {:?} }}\n",
        state.path()
    );
    let proxy = proxy(app, "      - { upstream: app }", &more);
    assert_eq!(ask(client().get(url(&proxy, "/"))).await.0, 200);
    assert_eq!(ask(client().get(url(&proxy, "/"))).await, (429, "rate_limited".into()));
    let told = admin(&proxy, "/policy").await;
    assert!(told.contains("\"source\": \"static\"") && told.contains("\"sequence\": 0"), "{told}");
    proxy.drain().await;
}
