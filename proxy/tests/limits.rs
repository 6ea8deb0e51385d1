//! Limits in whole flows: who is let in, who waits, who is turned away and what it is told.

#![allow(clippy::unwrap_used, reason = "a test that meets what it did not expect is to stop")]

mod flow;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use futures::future::join_all;
use tokio::sync::{Notify, Semaphore, mpsc};
use weir_proxy::{Config, Proxy};

use flow::{
    app, ask, client,
    control_plane::{ControlPlane, set},
    metric, proxy, until, url,
};

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

/// They were answered before anybody looked at their limits.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_route_answers_itself_is_limited_too() {
    let limits = "limits: { rate_limit: { rate_per_s: 0.001, burst: 2 } }";
    let routes = format!(
        "      - {{ name: said, match: {{ path_prefix: /said }}, respond: {{ status: 200 }}, {limits} }}
      - {{ name: free, respond: {{ status: 204 }} }}"
    );
    let service = "limits: { rate_limit: { rate_per_s: 0.001, burst: 1 } }";
    let proxy = proxy(held().await.address, &routes, service);
    let ask = async |path: &str| client().get(url(&proxy, path)).send().await.unwrap().status().as_u16();
    for (path, expected) in [("/said", [200, 200, 429]), ("/free", [204; 3])] {
        assert_eq!([ask(path).await, ask(path).await, ask(path).await], expected, "{path}");
    }
    assert_eq!(proxy.drain().await.shed, 1);
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
    // ten at once: on a busy machine as many one after the other do not fit into the window
    for _ in 0..30 {
        for answer in join_all((0..10).map(|_| go())).await {
            match answer {
                (500, _) => passed += 1,
                (503, reason) => {
                    assert_eq!(reason, "breaker_open");
                    shed += 1;
                }
                other => panic!("{other:?}"),
            }
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

/// A policy that sets one limit lifted all others, and the controller sends just such policies.
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

/// A request that a fault delays asked for a place as of its arrival.
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
