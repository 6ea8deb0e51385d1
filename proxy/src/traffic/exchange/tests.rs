//! Exchanges without a network: what a record holds, and what one that is left says.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Uri};
use tokio::{
    net::{TcpListener, TcpStream},
    task::LocalSet,
};
use tokio_util::{either::Either, task::TaskTracker};

use super::*;
use crate::{
    Config,
    counters::Tally,
    security::Security,
    telemetry::{Rings, rings},
    traffic::{headers::PEER, pool::Pool, tunnel, upload::Watch},
};

fn worker(more: &str) -> (Rc<Worker>, Rings) {
    let text = format!(
        "service: tagger\nlisteners: [{{ address: '127.0.0.1:0', direction: inbound, routes: [{{ upstream: app }}] }}]\n\
         upstreams: [{{ name: app, endpoints: ['127.0.0.1:9001'] }}]\n{more}"
    );
    let config = Config::from_yaml(&text).unwrap();
    let (mut recorders, rings) = rings(&config.telemetry, &Arc::default(), 1);
    let first = "127.0.0.1:80".parse().unwrap();
    let workload = Workload::new(&config, first, Arc::new(Tally::default()), Security::default());
    let pool = Rc::new(Pool::new(config.timeouts, config.http));
    let recorder = Rc::new(recorders.remove(0));
    (Worker::new(Arc::new(workload), pool, recorder, TaskTracker::new()), rings)
}

fn client() -> Client {
    Client::new("10.0.0.7".parse().unwrap(), None)
}

/// hyper hands out slices of the buffer it reads into; one that is kept keeps all of it.
#[test]
fn a_record_holds_none_of_the_bytes_that_were_read() {
    let (worker, _rings) = worker("telemetry: { otlp: 'http://127.0.0.1:1' }");
    let route = worker.workload.listeners[0][0].clone();
    let read = Bytes::from(b"/work?secret=1 tagger/tagger-0 vendor=1 websocket".to_vec());
    let mut request = Request::builder().uri(Uri::from_maybe_shared(read.slice(..14)).unwrap()).body(()).unwrap();
    let parent = HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    request.headers_mut().insert("traceparent", parent);
    let slice = |from: usize, to: usize| HeaderValue::from_maybe_shared(read.slice(from..to)).unwrap();
    request.headers_mut().insert(PEER, slice(15, 30));
    request.headers_mut().insert(HeaderName::from_static("tracestate"), slice(31, 39));
    let mut exchange = Exchange::begin(&worker, route, None, &client(), &request);
    exchange.tunnels(&slice(40, 49));
    drop(request);
    assert!(read.is_unique(), "the buffer is free as soon as the request is");
    let SpanRecord { said, tunnel, trace, .. } = exchange.seen();
    let kept = [said.path(), said.caller(), tunnel.as_deref(), trace.state.as_deref()];
    assert_eq!(kept, [Some("/work"), Some("tagger/tagger-0"), Some("websocket"), Some("vendor=1")]);
}

#[test]
fn what_nobody_reads_is_not_copied_and_what_is_copied_is_cut() {
    let request = Request::builder().uri("/x").header(PEER, "p".repeat(10_000)).body(()).unwrap();
    for (more, copied) in [("", false), ("telemetry: { otlp: 'http://127.0.0.1:1' }", true)] {
        let (worker, _rings) = worker(more);
        let exchange = Exchange::begin(&worker, worker.workload.listeners[0][0].clone(), None, &client(), &request);
        let said = &exchange.seen().said;
        assert_eq!((said.path().is_some(), said.address().is_some()), (copied, copied), "{more}");
        assert_eq!(said.caller().map(str::len), copied.then_some(128));
    }
}

#[tokio::test(start_paused = true)]
async fn only_one_that_asked_to_be_let_in_has_waited() {
    let (worker, _rings) = worker("");
    let route = worker.workload.listeners[0][0].clone();
    let request = Request::builder().uri("/x").body(()).unwrap();
    for (asks, waited) in [(false, 0), (true, 1)] {
        let before = route.stats.queue_wait_ns.load(std::sync::atomic::Ordering::Relaxed);
        let mut exchange = Exchange::begin(&worker, route.clone(), None, &client(), &request);
        tokio::time::advance(Duration::from_secs(5)).await;
        if asks {
            exchange.asks_now();
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        drop(exchange);
        let after = route.stats.queue_wait_ns.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!((after - before) / 1_000_000_000, waited, "a fault's delay is no wait");
    }
}

/// A tunnel whose client had left before it began was told as a reset by its upstream.
#[tokio::test]
async fn an_upstream_is_not_to_blame_for_a_client_that_left_its_tunnel() {
    let (worker, _rings) = worker("");
    let route = worker.workload.listeners[0][0].clone();
    let pick = route.next_target().unwrap().upstream.pick(None, &[], Instant::now()).unwrap();
    let endpoint = pick.endpoint.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let wire = Either::Left(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
    let mut exchange = Exchange::begin(&worker, route, None, &client(), &Request::new(()));
    exchange.picked(pick);
    let ends = async {
        // nobody is there to become a tunnel
        let left = hyper::upgrade::on(Request::new(()));
        tunnel::open(&worker, exchange, left, (None, None), wire);
        worker.tasks.close();
        worker.tasks.wait().await;
    };
    LocalSet::new().run_until(ends).await;
    assert_eq!(endpoint.stats.resets.load(std::sync::atomic::Ordering::Relaxed), 0);
}

/// A rest that an upstream asked for was taken for its own slowness.
#[tokio::test(start_paused = true)]
async fn nobody_is_waited_for_between_two_attempts() {
    let (worker, _rings) = worker("");
    let (route, latencies) = (worker.workload.listeners[0][0].clone(), &worker.workload.latencies);
    latencies.want();
    let upstream = route.next_target().unwrap().upstream.clone();
    let request = Request::builder().uri("/x").body(()).unwrap();
    let waited = || latencies.behind(0, Instant::now()).map(|waited| waited.as_millis());
    let pick = || upstream.pick(None, &[], Instant::now()).unwrap();
    for body in [None, Some(Watch::new(&worker.workload, true))] {
        let mut exchange = Exchange::begin(&worker, route.clone(), None, &client(), &request);
        exchange.uploads(body.as_ref().map(|body| body.upload.clone()));
        exchange.picked(pick());
        body.iter().for_each(Watch::ended);
        tokio::time::advance(Duration::from_millis(50)).await;
        assert!(waited() >= Some(45), "{:?}", waited());
        exchange.retried(Outcome::Failed(Failure::UpstreamReset));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(waited(), None, "it has not been sent again yet");
        exchange.picked(pick());
        tokio::time::advance(Duration::from_millis(20)).await;
        assert!(waited() >= Some(15) && waited() <= Some(20), "{:?}", waited());
    }
}

/// What a wait in our own queue left of the timeout was too short, and the endpoint was ejected for it.
#[tokio::test(start_paused = true)]
async fn an_endpoint_is_to_blame_when_it_had_time_of_its_own() {
    let (worker, _rings) = worker("timeouts: { response_ms: 1000 }");
    let route = worker.workload.listeners[0][0].clone();
    let upstream = route.next_target().unwrap().upstream.clone();
    let request = Request::builder().uri("/x").body(()).unwrap();
    for (queued_ms, sends_ms, blamed) in [(0, 0, 1), (300, 0, 1), (900, 0, 0), (0, 5_000, 1), (900, 5_000, 1)] {
        let upload = (sends_ms > 0).then(|| Watch::new(&worker.workload, true));
        let mut exchange = Exchange::begin(&worker, route.clone(), None, &client(), &request);
        exchange.uploads(upload.as_ref().map(|upload| upload.upload.clone()));
        exchange.asks_now();
        tokio::time::advance(Duration::from_millis(queued_ms)).await;
        exchange.picked(upstream.pick(None, &[], Instant::now()).unwrap());
        tokio::time::advance(Duration::from_millis(sends_ms)).await;
        upload.iter().for_each(Watch::ended);
        let rest_ms = if sends_ms > 0 { 1_000 } else { 1_000 - queued_ms };
        tokio::time::advance(Duration::from_millis(rest_ms)).await;
        let failures = || upstream.endpoints()[0].stats.failures.load(std::sync::atomic::Ordering::Relaxed);
        let before = failures();
        exchange.end(End::Failed { failure: Failure::UpstreamTimeout, status: 504 });
        assert_eq!(failures() - before, blamed, "{queued_ms} ms in a queue, {sends_ms} ms of sending");
    }
}
