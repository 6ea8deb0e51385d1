//! Mirrors: which requests are copied, and what becomes of the copies.

use axum::{Router, http::HeaderMap};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use weir_proxy::{Config, Proxy};

use crate::{
    flaky,
    support::{client, nobody, serve, start, until, url, yaml},
    upstream,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_gets_copies_and_slows_nobody() {
    let ((app, seen), (shadow, copies)) = (flaky(0, 503, None).await, flaky(usize::MAX, 500, None).await);
    let upstreams = format!("{}, {{ name: shadow, endpoints: ['{shadow}'] }}", upstream(app));
    let routes = "{ match: { path: /half }, upstream: app, mirror: { upstream: shadow, percent: 50 } },
                  { upstream: app, mirror: { upstream: shadow, body_bytes: 1000 } }";
    let proxy = start(routes, &upstreams, "");
    let client = client();
    for (bytes, mirrored) in [(0, 1), (1_000, 2), (1_001, 2), (100_000, 2)] {
        let answer = client.post(url(&proxy, "/")).body(vec![b'x'; bytes]).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.bytes().await.unwrap().len()), (200, bytes));
        until("copies", async || copies.lock().len() == mirrored).await;
    }
    assert!(copies.lock().iter().all(|(method, host, _)| method == "POST" && host.starts_with("127.0.0.1-shadow:")));
    assert_eq!(copies.lock()[1].2.len(), 1_000);
    until("what was too long is counted", async || proxy.counters().mirrors_dropped == 2).await;
    for _ in 0..400 {
        client.get(url(&proxy, "/half")).send().await.unwrap();
    }
    until("half of them", async || (152..=252).contains(&copies.lock().len())).await;
    assert_eq!(seen.lock().len(), 404);
    proxy.drain().await;

    let gone = nobody().await;
    let upstreams = format!("{}, {{ name: shadow, endpoints: ['{gone}'] }}", upstream(app));
    let proxy = start("{ upstream: app, mirror: { upstream: shadow } }", &upstreams, "");
    assert_eq!(client.get(url(&proxy, "/")).send().await.unwrap().status(), 200, "a mirror that is away harms nobody");
    until("it is counted", async || proxy.counters().mirrors_dropped == 1).await;
    proxy.drain().await;
}

/// Nobody looked at what became of copies, so a dead endpoint of a mirror kept its share of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_endpoint_of_a_mirror_gets_no_more_copies() {
    let ((app, _), (shadow, copies), gone) = (flaky(0, 503, None).await, flaky(0, 500, None).await, nobody().await);
    let ejects = "outlier_detection: { consecutive_5xx: 1, consecutive_gateway_errors: 1, max_ejection_percent: 50 }";
    let mirror = format!("{{ name: shadow, endpoints: ['{shadow}', '{gone}'], balance: round_robin, {ejects} }}");
    let upstreams = format!("{}, {mirror}", upstream(app));
    let proxy = start("{ upstream: app, mirror: { upstream: shadow } }", &upstreams, "");
    let client = client();
    for sent in 1..=40 {
        client.get(url(&proxy, "/")).send().await.unwrap();
        // one after the other, so that each finds what became of those before
        let done = async || proxy.counters().mirrored + proxy.counters().mirrors_dropped == sent;
        until("the copy has arrived or not", done).await;
    }
    let counters = proxy.counters();
    assert_eq!((counters.mirrors_dropped, copies.lock().len()), (1, 39), "{counters:?}");
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_hangs_is_bounded_and_holds_nobody_up() {
    let (app, seen) = flaky(0, 503, None).await;
    let shadow = serve(Router::new().fallback(async || std::future::pending::<()>().await)).await;
    // the upstream's own bound was for requests that somebody waits for, and copies went beyond it
    for (of_mirror, of_upstream) in [(", max_in_flight: 2", ""), ("", ", max_requests: 2")] {
        let upstreams = format!("{}, {{ name: shadow, endpoints: ['{shadow}']{of_upstream} }}", upstream(app));
        let text = yaml(&format!("{{ upstream: app, mirror: {{ upstream: shadow{of_mirror} }} }}"), &upstreams, "");
        let text = text.replace("threads: 2", "threads: 1");
        let proxy = Proxy::start(Config::from_yaml(&text).unwrap()).unwrap();
        let before = seen.lock().len();
        for _ in 0..5 {
            assert_eq!(client().get(url(&proxy, "/")).send().await.unwrap().status(), 200);
        }
        until("three of five are dropped", async || proxy.counters().mirrors_dropped == 3).await;
        assert_eq!(seen.lock().len() - before, 5);
        proxy.drain().await;
    }
}

/// It was signed as the upstream of its request has it, so where that wants no `Via` it came round for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_comes_round_is_ended() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let itself = free.local_addr().unwrap();
    drop(free);
    for (send_via, protocol) in [(false, "http1"), (false, "h2"), (true, "http1")] {
        let (app, seen) = flaky(0, 503, None).await;
        let upstreams = format!(
            "{{ name: app, endpoints: ['{app}'], send_via: {send_via} }}, \
             {{ name: itself, endpoints: ['{itself}'], protocol: {protocol} }}"
        );
        let text = yaml("{ upstream: app, mirror: { upstream: itself } }", &upstreams, "");
        let text = text.replacen("127.0.0.1:0', direction", &format!("{itself}', direction"), 1);
        let proxy = Proxy::start(Config::from_yaml(&text).unwrap()).unwrap();
        assert_eq!(client().get(url(&proxy, "/")).send().await.unwrap().status(), 200);
        until("the copy has its answer", async || proxy.counters().mirrored > 0).await;
        let counters = proxy.drain().await;
        let expected = (1, 1, 2, 0);
        let came = (seen.lock().len(), counters.mirrored, counters.requests, counters.mirrors_dropped);
        assert_eq!(came, expected, "{send_via} {protocol}: once out, once back");
    }
}

/// RFC 9110 §7.6.3: with the version of the message that was received. It was always 1.1.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_says_by_which_version_its_request_came() {
    let (said, mut copies) = mpsc::unbounded_channel();
    let shadow = serve(Router::new().fallback(async move |headers: HeaderMap| {
        let via = headers.get_all("via").iter().map(|via| via.to_str().unwrap().to_owned());
        said.send(via.collect::<Vec<_>>()).unwrap();
    }));
    let (app, shadow) = (flaky(0, 503, None).await.0, shadow.await);
    for send_via in [false, true] {
        let upstreams = format!(
            "{{ name: app, endpoints: ['{app}'], send_via: {send_via} }}, {{ name: shadow, endpoints: ['{shadow}'] }}"
        );
        let proxy = start("{ upstream: app, mirror: { upstream: shadow } }", &upstreams, "");
        for version in ["1.0", "1.1"] {
            let mut stream = TcpStream::connect(proxy.addresses()[0]).await.unwrap();
            let ask = format!("GET / HTTP/{version}\r\nhost: a\r\nvia: 1.1 edge\r\nconnection: close\r\n\r\n");
            stream.write_all(ask.as_bytes()).await.unwrap();
            stream.read_to_end(&mut Vec::new()).await.unwrap();
            let via = copies.recv().await.unwrap();
            let signed = via.len() == 2 && via[0] == "1.1 edge" && via[1].starts_with(&format!("{version} weir-"));
            assert!(signed, "{send_via} {version}: {via:?}");
        }
        proxy.drain().await;
    }
}
