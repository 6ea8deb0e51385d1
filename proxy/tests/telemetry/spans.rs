//! Spans: who asks whom for what, and how it ended.

use std::sync::Arc;

use axum::{Router, body::Body, http::HeaderMap, routing::get};
use futures::StreamExt;
use weir_proxy::{Config, Proxy};

use crate::{
    answers,
    flow::{
        self, admin, app, ask, client,
        collector::{Collector, attributes},
        proxy, url,
    },
};

/// Attributes and their values; none where it is not said.
type Expected<'a> = &'a [(&'a str, Option<&'a str>)];

/// The client was nowhere: not in the request that the application got, nor in spans and access logs.
#[tokio::test(flavor = "multi_thread")]
async fn who_asks_whom_for_what_is_said_to_the_application_and_in_spans() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (collector, otlp) = Collector::start().await;
    let about = |name: &str| name.starts_with("x-forwarded-");
    let forwarded = get(async move |headers: HeaderMap| {
        let fields = headers.iter().filter(|(name, _)| about(name.as_str()));
        fields.map(|(name, value)| format!("{name}={}\n", value.to_str().unwrap())).collect::<String>()
    });
    let address = app(Router::new().route("/a", forwarded)).await;
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let text = format!(
        "service: shop\nthreads: 1\nlisteners:\n\
         - {{ address: '127.0.0.1:0', direction: inbound, connect: tunnelled, routes: [{{ upstream: app }}] }}\n\
         - {{ address: '127.0.0.1:0', direction: outbound, routes: [{{ upstream: cart-v2 }}] }}\n\
         - {{ address: '127.0.0.1:0', direction: inbound, protocol: tcp, upstream: app }}\n\
         upstreams:\n- {{ name: app, endpoints: ['{address}'] }}\n- {{ name: cart-v2, service: cart, endpoints: ['{address}'] }}\n\
         telemetry: {{ otlp: 'http://{otlp}', access_log: all, access_log_format: text, access_log_file: {log:?} }}"
    );
    let proxy = Proxy::start(Config::from_yaml(&text).unwrap()).unwrap();
    let get = |n: usize| {
        let request = client().get(format!("http://{}/a?secret=1", proxy.addresses()[n]));
        request.header("host", "shop.example:8080").header("user-agent", "curl/8").header("x-forwarded-for", "1.2.3.4")
    };
    let seen = get(0).send().await.unwrap().text().await.unwrap();
    assert_eq!(seen, "x-forwarded-for=1.2.3.4, 127.0.0.1\nx-forwarded-proto=http\n");
    assert_eq!(get(1).send().await.unwrap().text().await.unwrap(), "x-forwarded-for=1.2.3.4\n", "outbound");
    for (n, said) in [(0, "CONNECT db.example:5432 HTTP/1.1\r\nhost: db.example:5432\r\n\r\n"), (2, "")] {
        let mut stream = tokio::net::TcpStream::connect(proxy.addresses()[n]).await.unwrap();
        stream.write_all(format!("{said}GET /a HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("\r\n\r\n") && answer.contains("200 OK"), "{answer}");
    }
    proxy.drain().await;
    let spans = collector.spans();
    let span = |name: &str| {
        let span = spans.iter().find(|span| span.name == name);
        attributes(&span.unwrap_or_else(|| panic!("{name} in {spans:?}")).attributes)
    };
    let port = address.port().to_string();
    let all: [(&str, Expected<'_>); 4] = [
        (
            "GET app",
            &[
                ("client.address", Some("127.0.0.1")),
                ("user_agent.original", Some("curl/8")),
                ("server.address", Some("shop.example")),
                ("server.port", Some("8080")),
                ("url.scheme", Some("http")),
                ("url.path", Some("/a")),
                ("url.full", None),
                ("network.protocol.version", Some("1.1")),
                ("weir.subset", None),
            ],
        ),
        (
            "GET cart",
            &[
                ("client.address", None),
                ("server.address", Some("127.0.0.1")),
                ("server.port", Some(&port)),
                ("url.full", Some("http://shop.example:8080/a")),
                ("peer.service", Some("cart")),
                ("weir.subset", Some("cart-v2")),
            ],
        ),
        (
            "CONNECT app",
            &[
                ("http.request.method", Some("CONNECT")),
                ("server.address", Some("db.example")),
                ("server.port", Some("5432")),
                ("url.path", None),
            ],
        ),
        (
            "TCP app",
            &[
                ("network.transport", Some("tcp")),
                ("client.address", Some("127.0.0.1")),
                ("http.request.method", None),
                ("url.path", None),
                ("url.scheme", None),
            ],
        ),
    ];
    for (name, expected) in all {
        let said = span(name);
        for (key, value) in expected {
            assert_eq!(said.get(*key).map(String::as_str), *value, "{key} of {name}: {said:?}");
        }
    }
    let log = std::fs::read_to_string(log).unwrap();
    for expected in [
        " client=127.0.0.1 host=\"shop.example:8080\" agent=\"curl/8\" protocol=1.1\n",
        " client=- host=\"shop.example:8080\" agent=\"-\" protocol=1.1\n",
        " CONNECT - 200 ",
        " client=127.0.0.1 host=\"db.example:5432\" agent=\"-\" protocol=-\n",
    ] {
        assert!(log.contains(expected), "{expected} in {log}");
    }
}

/// A tunnel goes where its client says, whatever endpoint carries it; one that was refused goes nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_s_server_is_the_one_that_was_asked_for() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (collector, otlp) = Collector::start().await;
    let address = app(answers().await).await;
    let listener =
        |more: &str| format!("{{ address: '127.0.0.1:0', direction: outbound{more}, routes: [{{ upstream: app }}] }}");
    let text = format!(
        "service: shop\nthreads: 1\nlisteners: [{}, {}]\nupstreams: [{{ name: app, endpoints: ['{address}'] }}]\n\
         telemetry: {{ otlp: 'http://{otlp}' }}",
        listener(", connect: tunnelled"),
        listener("")
    );
    let proxy = Proxy::start(Config::from_yaml(&text).unwrap()).unwrap();
    for (n, host) in [(0, "db.example:5432"), (0, "[fd00::7]:443"), (1, "db.example:5432")] {
        let mut stream = tokio::net::TcpStream::connect(proxy.addresses()[n]).await.unwrap();
        let after = ["\r\nGET /ok HTTP/1.0\r\n\r\n", "connection: close\r\n\r\n"][n];
        let ask = format!("CONNECT {host} HTTP/1.1\r\nhost: {host}\r\n{after}");
        stream.write_all(ask.as_bytes()).await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    }
    proxy.drain().await;
    let mut seen: Vec<_> = collector
        .spans()
        .iter()
        .map(|span| {
            let said = attributes(&span.attributes);
            assert_eq!(said["http.request.method"], "CONNECT");
            ["http.response.status_code", "server.address", "server.port"].map(|key| said.get(key).cloned())
        })
        .collect();
    seen.sort();
    let expected =
        [["200", "db.example", "5432"], ["200", "fd00::7", "443"]].map(|texts| texts.map(|text| Some(text.to_owned())));
    assert_eq!(seen, [&expected[..], &[[Some("405".to_owned()), None, None]]].concat());
}

/// Behind a load balancer that was the client of every request.
#[tokio::test(flavor = "multi_thread")]
async fn behind_trusted_proxies_the_client_is_whom_they_name() {
    let (collector, otlp) = Collector::start().await;
    let forwarded = async |headers: HeaderMap| headers["x-forwarded-for"].to_str().unwrap().to_owned();
    let address = app(Router::new().fallback(forwarded)).await;
    let listener = |more: &str| {
        format!(
            "{{ address: '127.0.0.1:0', direction: inbound{more}, trusted_hops: 2, routes: [{{ upstream: app }}] }}"
        )
    };
    let text = format!(
        "service: shop\nthreads: 1\nlisteners: [{}, {}]\nupstreams: [{{ name: app, endpoints: ['{address}'] }}]\n\
         telemetry: {{ otlp: 'http://{otlp}' }}",
        listener(""),
        listener(", forwarded: replace")
    );
    let proxy = Proxy::start(Config::from_yaml(&text).unwrap()).unwrap();
    let client = client();
    for (n, path, came, told) in [
        (0, "/named", "6.6.6.6, 1.2.3.4, 10.0.0.1", "6.6.6.6, 1.2.3.4, 10.0.0.1, 127.0.0.1"),
        (1, "/named", "6.6.6.6, 1.2.3.4, 10.0.0.1", "1.2.3.4"),
        (0, "/too-few", "1.2.3.4", "1.2.3.4, 127.0.0.1"),
        (1, "/too-few", "1.2.3.4", "127.0.0.1"),
    ] {
        let request = client.get(format!("http://{}{path}", proxy.addresses()[n])).header("x-forwarded-for", came);
        assert_eq!(request.send().await.unwrap().text().await.unwrap(), told, "{n} {path}");
    }
    proxy.drain().await;
    let spans: Vec<_> = collector.spans().iter().map(|span| attributes(&span.attributes)).collect();
    let clients = |path: &str| -> Vec<&str> {
        spans.iter().filter(|span| span["url.path"] == path).map(|span| span["client.address"].as_str()).collect()
    };
    assert_eq!([clients("/named"), clients("/too-few")], [["1.2.3.4"; 2], ["127.0.0.1"; 2]]);
}

/// What no route took left no trace, and attacks were seen as counters only.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_route_has_the_say_on_is_seen_all_the_same() {
    let (collector, otlp) = Collector::start().await;
    let more = format!("telemetry: {{ otlp: \"http://{otlp}\" }}\nhttp: {{ max_body_bytes: 4 }}");
    let proxy = proxy(app(answers().await).await, "      - { match: { path: /ok }, upstream: app }", &more);
    let client = client();
    assert_eq!(ask(client.get(url(&proxy, "/ok"))).await.0, 200);
    assert_eq!(ask(client.get(url(&proxy, "/wp-admin"))).await, (404, "no_route".into()));
    assert_eq!(ask(client.post(url(&proxy, "/ok")).body("12345")).await, (413, "request_too_large".into()));
    let text = admin(&proxy, "/metrics").await;
    let counted = "weir_proxy_responses_total{direction=\"inbound\",route=\"(no route)\",class=\"4\"} 2\n";
    assert!(text.contains(counted), "{text}");
    let counters = proxy.drain().await;
    assert_eq!((counters.spans_sent, counters.logs_sent), (3, 2), "{counters:?}");
    let spans: Vec<_> = collector.spans().iter().map(|span| attributes(&span.attributes)).collect();
    for (path, status, reason) in [("/wp-admin", "404", "no_route"), ("/ok", "413", "request_too_large")] {
        let span = spans.iter().find(|span| span["url.path"] == path && span["http.response.status_code"] == status);
        let span = span.unwrap_or_else(|| panic!("{path} in {spans:?}"));
        assert_eq!((&*span["weir.policy_action"], &*span["error.type"]), ("rejected", reason));
        assert!(!span.contains_key("weir.upstream"), "{span:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn how_a_request_ended_is_said_whoever_ended_it() {
    let (collector, otlp) = Collector::start().await;
    let (entered, mut has_entered) = tokio::sync::mpsc::unbounded_channel::<()>();
    let hang = get(async move || {
        entered.send(()).unwrap();
        std::future::pending::<()>().await;
    });
    let begun = || futures::stream::once(async { Ok::<_, std::io::Error>("begun") });
    let stream = get(async move || Body::from_stream(begun().chain(futures::stream::pending())));
    let seen = Arc::new(tokio::sync::Notify::new());
    let cut = {
        let seen = seen.clone();
        let cut = move |seen: Arc<tokio::sync::Notify>| async move {
            seen.notified().await;
            Err(std::io::Error::other("cut"))
        };
        get(async move || Body::from_stream(begun().chain(futures::stream::once(cut(seen.clone())))))
    };
    let router = answers().await.route("/hang", hang).route("/stream", stream).route("/cut", cut);
    let routes = "
      - { match: { path: /ok }, upstream: app, limits: { rate_limit: { rate_per_s: 0.001, burst: 1 } } }
      - { name: rest, upstream: app }";
    let telemetry = format!("telemetry: {{ otlp: \"http://{otlp}\", batch_age_ms: 10 }}");
    let proxy = proxy(app(router).await, routes, &telemetry);
    let client = client();
    let hanging = tokio::spawn(client.get(url(&proxy, "/hang")).send());
    has_entered.recv().await.unwrap();
    hanging.abort();
    let begin = async |path: &str| {
        let mut stream = client.get(url(&proxy, path)).send().await.unwrap().bytes_stream();
        assert_eq!(stream.next().await.unwrap().unwrap(), "begun");
        stream
    };
    drop(begin("/stream").await);
    let mut cut = begin("/cut").await;
    seen.notify_one();
    assert!(cut.next().await.unwrap().is_err(), "nobody takes it for whole");
    assert_eq!(ask(client.get(url(&proxy, "/ok"))).await.0, 200);
    assert_eq!(ask(client.get(url(&proxy, "/ok"))).await.0, 429);
    flow::until("all have ended", async || collector.spans().len() == 5).await;
    proxy.drain().await;
    let mut seen: Vec<_> = collector
        .spans()
        .iter()
        .map(|span| {
            let said = attributes(&span.attributes);
            let of = |key: &str| said.get(key).cloned().unwrap_or_default();
            let code = span.status.as_ref().map_or(0, |status| status.code);
            (of("url.path"), of("http.response.status_code"), of("error.type"), of("weir.policy_action"), code)
        })
        .collect();
    seen.sort();
    let expected = [
        ("/cut", "200", "upstream_reset", "admitted", 2),
        ("/hang", "499", "client_disconnected", "admitted", 2),
        ("/ok", "200", "", "admitted", 0),
        ("/ok", "429", "rate_limited", "rate_limited", 0),
        // so people stop a model, and it is nobody's failure
        ("/stream", "200", "client_disconnected", "admitted", 0),
    ];
    let expected = expected.map(|(path, status, kind, action, code)| {
        (path.to_owned(), status.to_owned(), kind.to_owned(), action.to_owned(), code)
    });
    assert_eq!(seen, expected);
}

/// An upstream was told to have reset what its client did, and a tunnel that a drain had cut to have carried nothing.
#[tokio::test(flavor = "multi_thread")]
async fn tunnels_say_who_left_them_and_what_they_carried() {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };
    let (collector, otlp) = Collector::start().await;
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let text = format!(
        "service: shop\nthreads: 1\ntimeouts: {{ drain_ms: 50 }}\n\
         listeners: [{{ address: '127.0.0.1:0', direction: inbound, protocol: tcp, upstream: app }}]\n\
         upstreams: [{{ name: app, endpoints: ['{}'] }}]\n\
         telemetry: {{ otlp: 'http://{otlp}', batch_age_ms: 10 }}",
        app.local_addr().unwrap()
    );
    let proxy = Proxy::start(Config::from_yaml(&text).unwrap()).unwrap();
    let tunnel = async |said: &str| {
        let mut client = TcpStream::connect(proxy.addresses()[0]).await.unwrap();
        let mut server = app.accept().await.unwrap().0;
        server.write_all(said.as_bytes()).await.unwrap();
        client.read_exact(&mut vec![0; said.len()]).await.unwrap();
        (client, server)
    };
    let (client, _server) = tunnel("abc").await;
    client.set_zero_linger().unwrap();
    drop(client);
    flow::until("the reset is seen", async || collector.spans().len() == 1).await;
    let (_client, server) = tunnel("abcd").await;
    server.set_zero_linger().unwrap();
    drop(server);
    flow::until("the other reset is seen", async || collector.spans().len() == 2).await;
    let _cut = tunnel("abcde").await;
    proxy.drain().await;
    let ends = collector.spans().into_iter().map(|span| {
        let said = attributes(&span.attributes);
        (said.get("error.type").cloned().unwrap_or_default(), said["http.response.body.size"].clone())
    });
    let ends: Vec<_> = ends.collect();
    let expected = [("client_disconnected", "3"), ("upstream_reset", "4"), ("client_disconnected", "5")];
    assert_eq!(ends, expected.map(|(why, bytes)| (why.to_owned(), bytes.to_owned())));
}
