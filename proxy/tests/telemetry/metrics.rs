//! Metrics, over OTLP and as text.

use std::collections::{BTreeMap, BTreeSet};

use weir_proxy::{Config, Proxy};

use crate::{
    answers,
    flow::{
        admin, app, ask, client,
        collector::{Collector, attributes},
        url,
    },
};

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
    let mut series = BTreeSet::new();
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
            assert!(series.insert(line.rsplit_once(' ').unwrap().0), "twice: {line}");
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

/// Routes without a name are called after their upstream. Each was a series of its own, of which scrapers take one and drop the rest.
#[tokio::test(flavor = "multi_thread")]
async fn routes_of_one_name_are_counted_together() {
    use opentelemetry_proto::tonic::metrics::v1::metric::Data;
    let (collector, otlp) = Collector::start().await;
    let address = app(answers().await).await;
    let routes = "[{ match: { path_prefix: /ok }, upstream: app }, { upstream: app }]";
    let text = |more: &str| {
        format!(
            "service: shop\nthreads: 1\nadmin: 127.0.0.1:0\n\
             listeners: [{{ address: '127.0.0.1:0', direction: inbound, protocol: detect, upstream: app, routes: {routes} }}{more}]\n\
             upstreams: [{{ name: app, endpoints: ['{address}'] }}]\ntelemetry: {{ otlp: 'http://{otlp}', span_ratio: 0 }}"
        )
    };
    let proxy = Proxy::start(Config::from_yaml(&text("")).unwrap()).unwrap();
    let client = client();
    for more in ["", ", { address: '127.0.0.1:0', direction: inbound, routes: [{ upstream: app }] }"] {
        proxy.reload(Config::from_yaml(&text(more)).unwrap()).await.unwrap();
        for address in proxy.addresses() {
            for path in ["/ok", "/bad", "/ok"] {
                ask(client.get(format!("http://{address}{path}"))).await;
            }
        }
    }
    let (_, samples) = exposition(&admin(&proxy, "/metrics").await);
    let classes: Vec<_> = samples
        .iter()
        .filter(|(name, labels, value)| {
            name == "weir_proxy_responses_total" && labels["route"] == "app" && *value > 0.0
        })
        .map(|(_, labels, value)| (labels["class"].as_str(), *value))
        .collect();
    assert_eq!(classes, [("2", 6.0), ("5", 3.0)]);
    proxy.drain().await;
    let Some(Data::Histogram(histogram)) = collector.metric("http.server.request.duration").unwrap().data else {
        panic!("no histogram")
    };
    let mut counts: Vec<_> = histogram.data_points.iter().map(|point| point.count).collect();
    counts.sort_unstable();
    assert_eq!(counts, [3, 6]);
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
