//! Timeouts: what counts against the upstream, from when, and to what end.

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    routing::{any, post},
};
use futures::{StreamExt, stream};
use tokio::{net::TcpListener, time::Instant};

use crate::{
    flaky,
    support::{admin, client, serve, start, url},
    upstream,
};

/// An endpoint that never saw a request was ejected, because a fault's delay was longer than the timeout.
#[tokio::test(flavor = "multi_thread")]
async fn a_delay_made_on_purpose_is_no_part_of_the_timeout() {
    let (address, seen) = flaky(0, 503, None).await;
    let proxy = start("{ upstream: app, timeout_ms: 500, fault: { delay: { ms: 700 } } }", &upstream(address), "");
    let begun = Instant::now();
    assert_eq!(client().get(url(&proxy, "/")).send().await.unwrap().status(), 200);
    assert!(begun.elapsed() >= Duration::from_millis(700) && seen.lock().len() == 1);
    proxy.drain().await;
}

/// 75 bytes in 0.9 s, of a client on a slow line.
fn slowly() -> reqwest::Body {
    let pieces = stream::unfold(0, async |n| {
        tokio::time::sleep(Duration::from_millis(60)).await;
        (n < 15).then(|| (Ok::<_, Infallible>("piece"), n + 1))
    });
    reqwest::Body::wrap_stream(pieces.boxed())
}

/// The route's timeout ran while the client was still sending, and the upstream was blamed.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_client_sends_no_time_counts_against_the_upstream() {
    let (address, seen) = flaky(0, 503, None).await;
    let endpoint = format!("{{ name: app, endpoints: ['{address}'] }}");
    for retries in ["", ", retries: { on: [5xx], non_idempotent: true, per_try_timeout_ms: 300 }"] {
        let proxy = start(&format!("{{ upstream: app, timeout_ms: 300{retries} }}"), &endpoint, "");
        let answer = client().post(url(&proxy, "/")).body(slowly()).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.bytes().await.unwrap().len()), (200, 75), "{retries}");
        let text = admin(&proxy, "/metrics").await;
        let failures = text.lines().find(|line| line.starts_with("weir_proxy_endpoint_failures_total{")).unwrap();
        assert!(failures.ends_with(" 0"), "{failures}");
        proxy.drain().await;
    }
    assert_eq!(seen.lock().len(), 2);
}

/// An upstream that takes nothing of the body, or all of it, and then is silent is still cut off in time.
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_stalls_is_cut_whatever_was_sent() {
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let never = serve(Router::new().fallback(async |body: Bytes| {
        drop(body);
        std::future::pending::<()>().await;
    }))
    .await;
    for (address, bytes) in [(deaf.local_addr().unwrap(), 32 << 20), (never, 1_000), (never, 0)] {
        let proxy = start("{ upstream: app, timeout_ms: 300 }", &upstream(address), "");
        let begun = Instant::now();
        let answer = client().post(url(&proxy, "/")).body(vec![b'x'; bytes]).send().await.unwrap();
        let reason = answer.headers()["x-weir-reason"].to_str().unwrap().to_owned();
        assert_eq!((answer.status().as_u16(), reason.as_str()), (504, "upstream_timeout"), "{bytes}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{bytes}");
        proxy.drain().await;
    }
}

/// What Istio calls `timeout`.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_bounded_as_a_whole_from_when_all_was_sent() {
    let begun = || stream::once(async { Ok::<_, Infallible>("begun, ") });
    let late = || {
        stream::once(async {
            tokio::time::sleep(Duration::from_millis(900)).await;
            Ok("over")
        })
    };
    let app = Router::new()
        .route("/never", any(async || std::future::pending::<()>().await))
        .route("/late", any(async move || Body::from_stream(begun().chain(late()))))
        .route("/echo", post(async |body: Bytes| body));
    let upstreams = upstream(serve(app).await);
    let (bounded, whole) = (", answer_timeout_ms: 300", Some("begun, over"));
    for (route, path, status, body) in [
        ("", "/late", 200, whole),
        (", timeout_ms: 300", "/late", 200, whole),
        (", timeout_ms: 300", "/never", 504, Some("weir: the upstream did not answer in time\n")),
        (bounded, "/late", 200, None),
        // the head, too, although the default timeout is longer
        (bounded, "/never", 504, Some("weir: the upstream did not answer in time\n")),
        (bounded, "/echo", 200, Some(&*"piece".repeat(15))),
    ] {
        let proxy = start(&format!("{{ upstream: app{route} }}"), &upstreams, "");
        let request = client().post(url(&proxy, path)).body(if path == "/echo" { slowly() } else { "".into() });
        let sent = Instant::now();
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), status, "{route} {path}");
        assert_eq!(answer.text().await.ok().as_deref(), body, "{route} {path}");
        let whole_s = sent.elapsed().as_secs_f64();
        assert!((0.3..10.0).contains(&whole_s), "{route} {path}: {whole_s} s");
        proxy.drain().await;
    }
}
