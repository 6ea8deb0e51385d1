//! Telemetry in whole flows: traces in every form, access logs in files, metrics that a scraper can
//! read, and the live view.

#![allow(clippy::unwrap_used, reason = "a test that meets what it did not expect is to stop")]

mod flow;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, StatusCode},
    routing::get,
};
use futures::StreamExt;
use weir_proxy::{Config, Proxy};

use flow::{
    admin, app, ask, client,
    collector::{Collector, attributes},
    config, proxy, url,
};

/// Says what it was sent of traces.
async fn mirror(headers: HeaderMap) -> String {
    let about = |name: &str| name.contains("trace") || name.contains("b3") || name == "baggage";
    let fields = headers.iter().filter(|(name, _)| about(name.as_str()));
    fields.map(|(name, value)| format!("{name}={}\n", value.to_str().unwrap())).collect()
}

async fn answers() -> Router {
    Router::new()
        .route("/ok", get(async || "fine"))
        .route("/slow", get(async || tokio::time::sleep(Duration::from_millis(60)).await))
        .route("/bad", get(async || StatusCode::INTERNAL_SERVER_ERROR))
        .fallback(get(mirror))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_is_continued_in_the_forms_that_are_configured() {
    let (collector, otlp) = Collector::start().await;
    let telemetry = format!("telemetry: {{ otlp: \"http://{otlp}\", span_ratio: 0, propagation: [b3, tracecontext] }}");
    let proxy = proxy(app(answers().await).await, "      - { upstream: app }", &telemetry);
    let request = client().get(url(&proxy, "/"));
    let request = request.header("b3", "463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1");
    let request = request.header("baggage", "user=anna").header("x-b3-other", "kept");
    let seen = request.send().await.unwrap().text().await.unwrap();
    for expected in [
        "b3=463ac35c9f6413ad48485a3953bb6124-",
        "-a2fb4a1d1a96d312\n",
        "traceparent=00-463ac35c9f6413ad48485a3953bb6124-",
        "baggage=user=anna\n",
        "x-b3-other=kept\n",
    ] {
        assert!(seen.contains(expected), "{expected} in {seen}");
    }
    assert_eq!(ask(client().get(url(&proxy, "/"))).await.0, 200, "not sampled: the ratio is 0");
    let counters = proxy.drain().await;
    assert_eq!((counters.spans_recorded, counters.spans_sent), (1, 1), "{counters:?}");
    let span = &collector.spans()[0];
    assert_eq!(span.parent_span_id, [0xa2, 0xfb, 0x4a, 0x1d, 0x1a, 0x96, 0xd3, 0x12]);
}

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

/// Found in a review: no span said what it stood for, so a tenth of the spans was a tenth of the load.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_sampled_says_what_it_stands_for_and_what_callers_leave_out_is_counted() {
    const REQUESTS: u64 = 400;
    let (collector, otlp) = Collector::start().await;
    let telemetry = format!("telemetry: {{ otlp: \"http://{otlp}\", span_ratio: 0.25 }}");
    let proxy = proxy(app(answers().await).await, "      - { upstream: app }", &telemetry);
    let (client, mut told) = (client(), 0);
    for _ in 0..REQUESTS {
        let seen = client.get(url(&proxy, "/")).send().await.unwrap().text().await.unwrap();
        let kept = seen.lines().any(|line| line.starts_with("traceparent=") && line.ends_with("-01"));
        assert_eq!(seen.contains("tracestate=ot=th:c\n"), kept, "{seen}");
        told += u64::from(kept);
    }
    let trace = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";
    for (flags, state) in [("01", "vendor=1,ot=th:8"), ("00", "vendor=2")] {
        let request = client.get(url(&proxy, "/")).header("tracestate", state);
        let seen = request.header("traceparent", format!("00-{trace}-{flags}")).send().await.unwrap();
        let seen = seen.text().await.unwrap();
        assert!(seen.contains(&format!("tracestate={state}\n")), "the caller's choice goes on as it is: {seen}");
    }
    assert_eq!(flow::metric(&proxy, "weir_proxy_unsampled_here_total").await, (REQUESTS - told) as f64);
    assert_eq!(flow::metric(&proxy, "weir_proxy_unsampled_by_caller_total").await, 1.0);
    proxy.drain().await;
    let spans = collector.spans();
    let (callers, own): (Vec<_>, Vec<_>) = spans.iter().partition(|span| !span.parent_span_id.is_empty());
    assert!(own.iter().all(|span| span.trace_state == "ot=th:c") && own.len() as u64 == told);
    // 100 expected, 8.7 the standard deviation: six of them to either side
    assert!((48..=152).contains(&told), "{told} of {REQUESTS}, each for four");
    assert_eq!(callers.iter().map(|span| span.trace_state.as_str()).collect::<Vec<_>>(), ["vendor=1,ot=th:8"]);
    for (name, expected) in [("weir.proxy.unsampled_here", REQUESTS - told), ("weir.proxy.unsampled_by_caller", 1)] {
        use opentelemetry_proto::tonic::metrics::v1::metric::Data;
        let Some(Data::Sum(sum)) = collector.metric(name).unwrap().data else { panic!("{name} is no count") };
        assert_eq!(format!("{:?}", sum.data_points[0].value), format!("Some(AsInt({expected}))"), "{name}");
    }
}

/// Found in a review: what no route took left no trace, and attacks were seen as counters only.
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
async fn access_logs_are_lines_in_a_file_and_records_at_the_collector() {
    let (collector, otlp) = Collector::start().await;
    let folder = tempfile::tempdir().unwrap();
    for (format, which, expected) in [("json", "all", 4), ("text", "errors", 2)] {
        let path = folder.path().join(format);
        let telemetry = format!(
            "telemetry: {{ otlp: \"http://{otlp}\", access_log: {which}, access_log_file: {path:?}, access_log_format: {format} }}"
        );
        let proxy = proxy(app(answers().await).await, "      - { name: all, upstream: app }", &telemetry);
        for path in ["/ok", "/bad", "/ok", "/bad?secret=1"] {
            ask(client().get(url(&proxy, path)).header("x-weir-peer", "tokenizer/tokenizer-0")).await;
        }
        let counters = proxy.drain().await;
        assert_eq!((counters.logs_sent, counters.logs_dropped), (expected, 0), "{counters:?}");
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count() as u64, expected, "{text}");
        assert!(!text.contains("secret"), "{text}");
        for line in text.lines() {
            if format == "json" {
                let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"));
                assert_eq!((&line["weir.route"], &line["peer.service"]), (&"all".into(), &"tokenizer".into()));
                assert!(
                    line["duration_ns"].as_u64() > Some(0) && line["time"].as_str().unwrap().ends_with('Z'),
                    "{line}"
                );
                assert_eq!(line["trace_id"].as_str().unwrap().len(), 32);
            } else {
                assert!(line.contains("Z inbound all GET /bad 500 "), "{line}");
                assert!(line.contains(" admitted peer=\"tokenizer/tokenizer-0\" trace="), "{line}");
            }
        }
    }
    assert_eq!(collector.logs().len(), 6);
}

/// Found in a review: after a rotation the proxy went on writing to the file that had been moved away.
#[tokio::test(flavor = "multi_thread")]
async fn an_access_log_that_is_moved_away_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (path, old) = (folder.path().join("log"), folder.path().join("log.1"));
    let telemetry = format!("telemetry: {{ access_log: all, access_log_file: {path:?} }}");
    let proxy = proxy(app(answers().await).await, "      - { upstream: app }", &telemetry);
    let (client, mut asked) = (client(), 1);
    ask(client.get(url(&proxy, "/ok"))).await;
    flow::until("written", async || flow::metric(&proxy, "weir_proxy_log_lines_written_total").await == 1.0).await;
    std::fs::rename(&path, &old).unwrap();
    proxy.reopen_access_log();
    flow::until("there is another one", async || path.exists()).await;
    std::fs::remove_file(&path).unwrap();
    flow::until("and again, unasked", async || {
        ask(client.get(url(&proxy, "/ok"))).await;
        asked += 1;
        path.exists()
    })
    .await;
    ask(client.get(url(&proxy, "/slow"))).await;
    assert_eq!(proxy.drain().await.log_lines_written, asked + 1);
    assert_eq!(std::fs::read_to_string(&old).unwrap().lines().count(), 1);
    assert!(std::fs::read_to_string(&path).unwrap().lines().last().unwrap().contains("/slow"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_restarted_is_found_again() {
    let (first, second) = (Collector::default(), Collector::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let otlp = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(first.clone().serve(listener, async { drop(stopped.await) }));
    let telemetry = format!("telemetry: {{ otlp: \"http://{otlp}\", batch_age_ms: 10, flush_ms: 1 }}");
    let proxy = proxy(app(answers().await).await, "      - { upstream: app }", &telemetry);
    ask(client().get(url(&proxy, "/ok"))).await;
    flow::until("the first has it", async || first.spans().len() == 1).await;
    stop.send(()).unwrap();
    serving.await.unwrap();
    ask(client().get(url(&proxy, "/slow"))).await;
    let listener = tokio::net::TcpListener::bind(otlp).await.unwrap();
    tokio::spawn(second.clone().serve(listener, std::future::pending()));
    flow::until("the second has what waited", async || second.spans().len() == 1).await;
    flow::until("acknowledged", async || proxy.counters().spans_sent == 2).await;
    let counters = proxy.drain().await;
    assert_eq!((counters.spans_recorded, counters.spans_dropped), (2, 0), "{counters:?}");
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

#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_access_logs_is_a_share_and_needs_no_collector() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let telemetry = format!("telemetry: {{ access_log: all, access_log_ratio: 0.3, access_log_file: {path:?} }}");
    let proxy = proxy(app(answers().await).await, "      - { upstream: app }", &telemetry);
    let client = client();
    for _ in 0..300 {
        ask(client.get(url(&proxy, "/ok"))).await;
    }
    let counters = proxy.drain().await;
    assert_eq!((counters.requests, counters.spans_recorded), (300, 0));
    let lines = std::fs::read_to_string(&path).unwrap().lines().count();
    // 90 expected, 8 the standard deviation: six of them to either side
    assert!((42..=138).contains(&lines), "{lines} of 300");
}

/// All durations of a route were one series, so nobody saw its errors on a dashboard.
#[tokio::test(flavor = "multi_thread")]
async fn durations_are_told_apart_as_the_conventions_ask() {
    use opentelemetry_proto::tonic::metrics::v1::metric::Data;
    let (collector, otlp) = Collector::start().await;
    let address = app(answers().await).await;
    let text = format!(
        "service: shop\nthreads: 1\nlisteners:\n\
         - {{ address: '127.0.0.1:0', direction: inbound, routes: [{{ upstream: app }}] }}\n\
         - {{ address: '127.0.0.1:0', direction: outbound, routes: [{{ upstream: cart }}] }}\n\
         upstreams:\n- {{ name: app, endpoints: ['{address}'] }}\n- {{ name: cart, endpoints: ['{address}'] }}\n\
         telemetry: {{ otlp: 'http://{otlp}', span_ratio: 0, access_log: off }}"
    );
    let proxy = Proxy::start(Config::from_yaml(&text).unwrap()).unwrap();
    let client = client();
    for address in proxy.addresses() {
        for (method, path) in [("GET", "/ok"), ("GET", "/ok"), ("GET", "/bad"), ("BREW", "/ok")] {
            ask(client.request(method.parse().unwrap(), format!("http://{address}{path}"))).await;
        }
    }
    proxy.drain().await;
    let port = address.port().to_string();
    for (name, brewing, server) in [
        ("http.server.request.duration", None, None),
        ("http.client.request.duration", Some("405"), Some(("cart", port.as_str()))),
    ] {
        let Some(Data::Histogram(histogram)) = collector.metric(name).unwrap().data else { panic!("{name}") };
        let of = |point: &opentelemetry_proto::tonic::metrics::v1::HistogramDataPoint| {
            let said = attributes(&point.attributes);
            let of = |key: &str| said.get(key).cloned().unwrap_or_default();
            assert_eq!((of("url.scheme").as_str(), point.bucket_counts.iter().sum()), ("http", point.count));
            let server = said.contains_key("server.address").then(|| (of("server.address"), of("server.port")));
            let server = server.as_ref().map(|(address, port)| (address.clone(), port.clone()));
            (
                of("http.request.method"),
                of("http.response.status_code"),
                said.get("error.type").cloned(),
                server,
                point.count,
            )
        };
        let mut seen: Vec<_> = histogram.data_points.iter().map(of).collect();
        seen.sort();
        let server = server.map(|(address, port)| (address.to_owned(), port.to_owned()));
        let series = |method: &str, status: &str, error: Option<&str>, count| {
            (method.to_owned(), status.to_owned(), error.map(str::to_owned), server.clone(), count)
        };
        let expected =
            [series("GET", "200", None, 2), series("GET", "500", Some("500"), 1), series("_OTHER", "405", brewing, 1)];
        assert_eq!(seen, expected, "{name}");
    }
}

/// One sample: its name, its labels, its value.
type Sample = (String, BTreeMap<String, String>, f64);

/// Reads Prometheus text as its specification has it, and complains of what does not hold.
fn exposition(text: &str) -> (BTreeMap<String, String>, Vec<Sample>) {
    let (mut kinds, mut helped, mut samples, mut family) =
        (BTreeMap::new(), BTreeSet::new(), Vec::new(), String::new());
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            assert!(helped.insert(rest.split_once(' ').unwrap().0.to_owned()), "twice: {line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind) && helped.contains(name), "{line}");
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
            family = name.to_owned();
        } else {
            let sample = sample(line);
            let base = sample.0.strip_prefix(family.as_str()).unwrap_or_else(|| panic!("{line} under {family}"));
            assert!(["", "_bucket", "_sum", "_count"].contains(&base), "{line} under {family}");
            samples.push(sample);
        }
    }
    (kinds, samples)
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap();
    let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
    let Some((name, rest)) = series.split_once('{') else { return (series.to_owned(), BTreeMap::new(), value) };
    let mut labels = BTreeMap::new();
    let mut rest = rest.strip_suffix('}').unwrap();
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"").unwrap();
        assert!(label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{line}");
        let mut text = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next().unwrap() {
                (at, '"') => break at,
                (_, '\\') => match chars.next().unwrap().1 {
                    'n' => text.push('\n'),
                    c @ ('\\' | '"') => text.push(c),
                    c => panic!("\\{c} in {line}"),
                },
                (_, c) => text.push(c),
            }
        };
        assert!(labels.insert(label.to_owned(), text).is_none(), "{line}");
        rest = after[end + 1..].trim_start_matches(',');
    }
    (name.to_owned(), labels, value)
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_valid_and_count_what_happened() {
    let routes = r#"
      - { name: "od\"d\\", match: { path_prefix: /bad }, upstream: app }
      - { name: none, match: { path_prefix: /none }, upstream: gone }
      - { name: rest, upstream: app, limits: { rate_limit: { rate_per_s: 0.001, burst: 3 } } }"#;
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let address = app(answers().await).await;
    let text = format!(
        "service: tagger\nthreads: 1\nadmin: 127.0.0.1:0\nlisteners:\n  - address: 127.0.0.1:0\n    direction: inbound\n    routes:{routes}\n\
         upstreams:\n  - {{ name: app, endpoints: [\"{address}\"] }}\n  - {{ name: gone, endpoints: [\"{gone}\"] }}\n"
    );
    let proxy = Proxy::start(Config::from_yaml(&text).unwrap()).unwrap();
    let client = client();
    for path in ["/ok", "/ok", "/slow", "/ok", "/bad", "/none"] {
        ask(client.get(url(&proxy, path))).await;
    }
    let (kinds, samples) = exposition(&admin(&proxy, "/metrics").await);
    let value = |name: &str, wanted: &[(&str, &str)]| {
        let fits = |labels: &BTreeMap<String, String>| {
            wanted.iter().all(|(k, v)| labels.get(*k).map(String::as_str) == Some(v))
        };
        samples.iter().filter(|(n, labels, _)| n == name && fits(labels)).map(|(_, _, value)| value).sum::<f64>()
    };
    for (name, labels, expected) in [
        ("weir_proxy_requests_total", &[][..], 6.0),
        ("weir_proxy_shed_total", &[], 1.0),
        ("weir_proxy_responses_total", &[("route", "rest"), ("class", "2")], 3.0),
        ("weir_proxy_responses_total", &[("route", "rest"), ("class", "4")], 1.0),
        ("weir_proxy_responses_total", &[("route", "od\"d\\"), ("class", "5")], 1.0),
        ("weir_proxy_route_shed_total", &[("route", "rest"), ("reason", "rate_limited")], 1.0),
        ("weir_proxy_request_duration_seconds_count", &[("route", "rest")], 4.0),
        ("weir_proxy_request_duration_seconds_bucket", &[("route", "rest"), ("le", "+Inf")], 4.0),
        ("weir_proxy_endpoint_requests_total", &[("upstream", "app")], 4.0),
        ("weir_proxy_endpoint_failures_total", &[("upstream", "app")], 1.0),
        ("weir_proxy_endpoint_connects_total", &[("upstream", "app")], 1.0),
        ("weir_proxy_endpoint_connections_open", &[("upstream", "app")], 1.0),
        ("weir_proxy_endpoint_connections_idle", &[("upstream", "app")], 1.0),
        ("weir_proxy_endpoint_connect_failures_total", &[("upstream", "gone")], 1.0),
        ("weir_proxy_endpoint_in_flight", &[], 0.0),
    ] {
        assert_eq!(value(name, labels), expected, "{name} {labels:?}");
    }
    assert_eq!(kinds["weir_proxy_queue_wait_seconds"], "histogram");
    let slow = value("weir_proxy_request_duration_seconds_sum", &[("route", "rest")]);
    assert!(slow >= 0.06, "{slow}");
    for (name, labels, count) in samples.iter().filter(|(name, ..)| name.ends_with("_count")) {
        let (bucket, mut labels) = (name.replace("_count", "_bucket"), labels.clone());
        labels.insert("le".into(), "+Inf".into());
        let whole = samples.iter().find(|(n, l, _)| *n == bucket && *l == labels).unwrap();
        assert_eq!(whole.2, *count, "{name} {labels:?}");
    }
    proxy.drain().await;
}

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

/// More records than the ring and the queue behind it hold, and nobody who takes them: all are counted.
#[tokio::test(flavor = "multi_thread")]
async fn every_record_is_sent_or_counted_as_dropped() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (collector, here) = Collector::start().await;
    let address = app(answers().await).await;
    for (otlp, queue, sent) in [(gone, 8, 0), (here, 65_536, 300)] {
        let telemetry = format!(
            "telemetry: {{ otlp: \"http://{otlp}\", access_log: all, queue_records: {queue}, batch_spans: 4, retry_ms: 50, flush_ms: 2000 }}"
        );
        let proxy = proxy(address, "      - { upstream: app }", &telemetry);
        let client = client();
        for _ in 0..300 {
            ask(client.get(url(&proxy, "/ok"))).await;
        }
        let c = proxy.drain().await;
        if otlp == here {
            use opentelemetry_proto::tonic::metrics::v1::metric::Data;
            let Some(Data::Gauge(open)) = collector.metric("http.client.open_connections").unwrap().data else {
                panic!()
            };
            let states: Vec<_> =
                open.data_points.iter().map(|p| attributes(&p.attributes)["http.connection.state"].clone()).collect();
            assert_eq!(states, ["idle", "active"]);
            let Some(Data::Sum(requests)) = collector.metric("weir.proxy.endpoint.requests").unwrap().data else {
                panic!()
            };
            assert_eq!(format!("{:?}", requests.data_points[0].value), "Some(AsInt(300))");
        }
        assert_eq!((c.spans_recorded, c.spans_sent, c.spans_dropped), (300, sent, 300 - sent), "{c:?}");
        assert_eq!(c.logs_sent + c.logs_dropped, 300, "{c:?}");
    }
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Found in a review: records held slices of the buffers that requests were read into, so each kept a whole head alive
/// for as long as the collector was away.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_collector_is_away_records_wait_and_not_what_was_read() {
    const REQUESTS: usize = 2_000;
    const HEAD_BYTES: usize = 50_000;
    // it takes connections and says nothing
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let telemetry = format!("telemetry: {{ otlp: \"http://{}\", flush_ms: 1 }}", silent.local_addr().unwrap());
    let proxy = proxy(app(answers().await).await, "      - { upstream: app }", &telemetry);
    let (client, padding) = (client(), "x".repeat(HEAD_BYTES));
    let ask = async || ask(client.get(url(&proxy, "/ok")).header("x-padding", &padding)).await;
    assert_eq!(ask().await.0, 200);
    let before = resident_bytes();
    for _ in 0..REQUESTS {
        assert_eq!(ask().await.0, 200);
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < (REQUESTS * HEAD_BYTES / 2) as u64, "{grown} bytes more for {REQUESTS} records");
    let counters = proxy.drain().await;
    assert_eq!((counters.spans_recorded, counters.spans_sent), (REQUESTS as u64 + 1, 0), "{counters:?}");
}

/// Found in a review: a web page could read the admin address of whoever looked at it, and drain the proxy.
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

/// Found in a review: silent connections made a proxy that is well look ill.
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
