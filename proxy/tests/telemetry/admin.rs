//! The admin address: taps, what is in force, and who may ask.

use std::time::Duration;

use futures::StreamExt;
use weir_proxy::Proxy;

use crate::{
    answers,
    flow::{self, admin, app, ask, client, config, proxy, url},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_tap_shows_what_it_is_asked_for_and_drops_the_rest() {
    let routes = "
      - { name: bad, match: { path_prefix: /bad }, upstream: app }
      - { name: rest, upstream: app }";
    let proxy = proxy(app(answers().await).await, routes, "");
    let tap = async |query: &str| {
        let address = proxy.admin_address().unwrap();
        let response = client().get(format!("http://{address}/tap?{query}")).send().await.unwrap();
        assert_eq!(response.status(), 200, "{query}");
        response.bytes_stream()
    };
    let mut taps = Vec::new();
    for query in ["status=5xx", "route=rest&min_duration_ms=50", "path_prefix=/o&rate_per_s=2"] {
        taps.push(tap(query).await);
    }
    let client = client();
    for path in ["/ok", "/slow", "/bad", "/ok", "/ok", "/ok"] {
        ask(client.get(url(&proxy, path))).await;
    }
    let mut paths = Vec::new();
    for tap in &mut taps {
        let line: serde_json::Value = serde_json::from_slice(&tap.next().await.unwrap().unwrap()).unwrap();
        paths.push((line["url.path"].as_str().unwrap().to_owned(), line["dropped"].as_u64()));
    }
    assert_eq!(paths, ["/bad", "/slow", "/ok"].map(|path| (path.to_owned(), Some(0))));
    let second: serde_json::Value = serde_json::from_slice(&taps[2].next().await.unwrap().unwrap()).unwrap();
    assert_eq!(second["url.path"], "/ok");
    // two a second were asked for, four came at once; the next that is shown says how many were not
    let dropped = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            ask(client.get(url(&proxy, "/ok"))).await;
            if let Ok(Some(line)) = tokio::time::timeout(Duration::from_millis(100), taps[2].next()).await {
                let line: serde_json::Value = serde_json::from_slice(&line.unwrap()).unwrap();
                return line["dropped"].as_u64().unwrap();
            }
        }
    });
    assert!(dropped.await.unwrap() >= 2);
    let refused = admin(&proxy, "/tap?who=me").await;
    assert!(refused.contains("\"who\" is not known"), "{refused}");
    let mut more = Vec::new();
    for _ in 3..8 {
        more.push(tap("").await);
    }
    assert!(admin(&proxy, "/tap").await.contains("8 tap already"));
    drop((taps, more));
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_loopback_the_admin_address_asks_for_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "hush\n").unwrap();
    let app = app(answers().await).await;
    for token in ["admin_token: hush".to_owned(), format!("admin_token_file: {file:?}")] {
        let mut config = config(app, "      - { upstream: app }", &token);
        assert!(!format!("{config:?}").contains("hush"));
        config.admin = Some("0.0.0.0:0".parse().unwrap());
        let proxy = Proxy::start(config).unwrap();
        let address = format!("http://127.0.0.1:{}", proxy.admin_address().unwrap().port());
        for (path, token, expected) in [
            ("/metrics", Some("Bearer hush"), 200),
            ("/metrics", Some("Bearer hus"), 401),
            ("/metrics", Some("hush"), 401),
            ("/metrics", None, 401),
            ("/policy", None, 401),
            ("/tap", None, 401),
            ("/nowhere", None, 401),
            ("/healthz", None, 200),
            ("/healthz/live", None, 200),
        ] {
            let request = client().get(format!("{address}{path}"));
            let request = token.into_iter().fold(request, |request, token| request.header("authorization", token));
            assert_eq!(request.send().await.unwrap().status(), expected, "{path} {token:?}");
        }
        proxy.drain().await;
    }
    std::fs::write(&file, "\n").unwrap();
    let empty = Proxy::start(config(app, "      - { upstream: app }", &format!("admin_token_file: {file:?}"))).err();
    assert!(empty.unwrap().to_string().starts_with("admin_token_file "));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_address_says_what_is_in_force_and_whether_it_is_ready() {
    let limits = "limits: { rate_limit: { rate_per_s: 5.0, burst: 1 } }";
    let proxy = proxy(app(answers().await).await, "      - { upstream: app }", limits);
    let policy: serde_json::Value = serde_json::from_str(&admin(&proxy, "/policy").await).unwrap();
    assert_eq!(policy["source"], "static");
    assert!(policy["age_ms"].is_u64(), "{policy}");
    assert_eq!(policy["policies"][0]["rate_limit"]["rate_per_s"], 5.0);
    assert_eq!(admin(&proxy, "/healthz/ready").await, "ok\n");
    let address = proxy.admin_address().unwrap();
    client().post(format!("http://{address}/drain")).send().await.unwrap();
    proxy.drain_requested().await;
    assert_eq!(admin(&proxy, "/healthz/live").await, "ok\n");
    assert_eq!(admin(&proxy, "/healthz/ready").await, "draining\n");
    proxy.drain().await;
}

/// A web page could read the admin address of whoever looked at it, and drain the proxy.
#[tokio::test(flavor = "multi_thread")]
async fn no_web_page_reaches_the_admin_address() {
    let proxy = proxy(app(answers().await).await, "      - { upstream: app }", "");
    let address = proxy.admin_address().unwrap();
    let ask = async |host: &str, origin: Option<&str>, path: &str| {
        let mut request = client().post(format!("http://{address}{path}")).header("host", host);
        if path != "/drain" {
            request = client().get(format!("http://{address}{path}")).header("host", host);
        }
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        request.send().await.unwrap().status().as_u16()
    };
    for (host, origin, path, expected) in [
        ("localhost", None, "/metrics", 200),
        ("[::1]:15021", None, "/metrics", 200),
        ("10.0.0.1", None, "/config", 200),
        ("evil.example", None, "/config", 403),
        ("evil.example", None, "/drain", 403),
        ("127.0.0.1", Some("http://evil.example"), "/drain", 403),
        ("evil.example", None, "/healthz", 200),
        ("127.0.0.1", None, "/drain", 202),
    ] {
        assert_eq!(ask(host, origin, path).await, expected, "{host} {origin:?} {path}");
    }
    proxy.drain().await;
}

/// Silent connections made a proxy that is well look ill.
#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_however_many_connect() {
    let proxy = proxy(app(answers().await).await, "      - { upstream: app }", "");
    let address = proxy.admin_address().unwrap();
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    let ask =
        async |path: &str| client().get(format!("http://{address}{path}")).send().await.map(|r| r.status().as_u16());
    assert_eq!((ask("/healthz").await.unwrap(), ask("/metrics").await.unwrap()), (200, 503));
    flow::until("they are not waited for", async || matches!(ask("/metrics").await, Ok(200))).await;
    proxy.drain().await;
}
