//! What a proxy cannot be told, and how it says so.

use super::*;

/// Two upstreams, and one route with `route` beside its destination.
fn config(route: &str, upstream: &str, more: &str) -> Result<Config, ConfigError> {
    Config::from_yaml(&format!(
        "service: shop\nlisteners: [{{ address: '127.0.0.1:0', direction: outbound, routes: [{{ {route} }}] }}]\n\
         upstreams: [{{ name: a, {upstream} }}, {{ name: b, endpoints: ['b:1'] }}]\n{more}"
    ))
}

const ENDPOINT: &str = "endpoints: ['a:1']";

#[test]
fn what_a_route_cannot_say_is_named() {
    for (route, expected) in [
        ("name: x", "routes[0].upstream, split, redirect or respond"),
        ("upstream: a, redirect: { host: x }", "routes[0].upstream, split, redirect or respond"),
        ("upstream: c", "routes[0].upstream: no upstream is named \"c\""),
        ("split: [{ upstream: a, weight: 1 }, { upstream: c, weight: 1 }]", "routes[0].split[1].upstream"),
        ("split: [{ upstream: a, weight: 0 }]", "split: every weight is 0"),
        ("split: [{ upstream: a, weight: 1, request_headers: { remove: [host] } }]", "split[0].request_headers"),
        ("redirect: { status: 200 }", "redirect.status is 200"),
        ("respond: { status: 99 }", "respond.status is 99"),
        ("upstream: a, rewrite: { host: 'a b' }", "rewrite.host"),
        ("upstream: a, fault: { delay: { ms: 5, percent: 101 } }", "fault.delay.percent"),
        ("upstream: a, fault: { abort: { status: 700 } }", "fault.abort.status is 700"),
        ("upstream: a, timeout_ms: 0", "timeout_ms is Some(0)"),
        ("upstream: a, idle_timeout_ms: 18446744073709551615", "idle_timeout_ms"),
        ("upstream: a, retries: { on: [5XX] }", "retries.on: \"5XX\""),
        ("upstream: a, retries: { per_try_timeout_ms: 0 }", "retries.per_try_timeout_ms"),
        ("upstream: a, retries: { atempts: 1 }", "did you mean `attempts`?"),
        ("upstream: a, mirror: { upstream: c }", "mirror.upstream"),
        ("upstream: a, mirror: { upstream: b, percent: -1 }", "mirror.percent"),
        ("upstream: a, mirror: { upstream: b, max_in_flight: 0 }", "mirror.max_in_flight"),
        (
            "respond: { status: 200 }, limits: { breaker: { error_ratio: 0.5, min_requests: 1, window_ms: 9 } }",
            "routes[0].limits.breaker: redirect and respond",
        ),
        (
            "redirect: { host: x }, limits: { concurrency_limit: { limit: 1, queue: 0, queue_timeout_ms: 1 } }",
            "routes[0].limits.concurrency_limit: redirect and respond are answered here at once",
        ),
        ("upstream: a, match: { path: /a, path_starts_with: /b }", "not several"),
    ] {
        let why = config(route, ENDPOINT, "").unwrap_err().0;
        assert!(why.contains(expected), "{route}: {why}");
    }
}

/// They were ignored beside `respond` and `redirect`, as Istio's were.
#[test]
fn what_is_said_of_requests_that_go_on_is_refused_where_they_are_answered() {
    for said in [
        "rewrite: { path: / }",
        "rewrite: { host: x }",
        "request_headers: { remove: [x-a] }",
        "timeout_ms: 5",
        "max_stream_duration_ms: 5",
        "answer_timeout_ms: 5",
        "idle_timeout_ms: 5",
        "retries: {}",
        "retries: { per_try_timeout_ms: 5 }",
        "mirror: { upstream: b }",
    ] {
        assert!(config(&format!("upstream: a, {said}"), ENDPOINT, "").is_ok(), "{said}");
        for (here, place) in [("redirect", "redirect: { host: x }"), ("respond", "respond: { status: 200 }")] {
            let why = config(&format!("{place}, {said}"), ENDPOINT, "").unwrap_err().0;
            let key = said.split(':').next().unwrap();
            let expected = format!("listeners[0].routes[0].{key}: cannot be honoured beside {here}, ");
            assert!(why.starts_with(&expected), "{said}: {why}");
        }
    }
    for said in ["response_headers: { set: { x-a: b } }", "fault: { delay: { ms: 5 } }", "match: { path: /a }, name: n"]
    {
        assert!(config(&format!("respond: {{ status: 200 }}, {said}"), ENDPOINT, "").is_ok(), "{said}");
    }
}

#[test]
fn what_an_upstream_cannot_say_is_named() {
    for (upstream, expected) in [
        ("service: x", "upstreams[0].endpoints is empty"),
        ("endpoints: ['a:1'], discover: { file: x }", "upstreams[0].endpoints, discover and subset_of"),
        ("endpoints: ['a:0']", "upstreams[0].endpoints[0] is \"a:0\""),
        ("endpoints: [{ adress: 'a:1' }]", "did you mean `address`?"),
        ("endpoints: [5]", "host:port"),
        ("subset_of: { upstream: c, labels: {} }", "upstreams[0].subset_of.upstream: \"c\""),
        (
            "discover: { dns: { name: a, port: 1 } } }, { name: v, subset_of: { upstream: a, labels: { v: '1' } }",
            "upstreams[1].subset_of.labels: upstream \"a\" finds its endpoints by DNS",
        ),
        ("endpoints: ['a:1'], balance: least_requests", "least_request"),
        ("endpoints: ['a:1'], balance: { ring_hash: { header: 'a b' } }", "balance.ring_hash.header"),
        ("endpoints: ['a:1'], panic_threshold_percent: 101", "panic_threshold_percent"),
        (
            "endpoints: ['a:1'], outlier_detection: { max_ejection_percent: 101 }",
            "outlier_detection.max_ejection_percent",
        ),
        ("endpoints: ['a:1'], connect_timeout_ms: 0", "connect_timeout_ms is 0"),
        ("endpoints: ['a:1'], max_connections: 0", "max_connections"),
        ("endpoints: ['a:1'], protocol: h2, max_connections: 1", "only with protocol http1"),
        ("endpoints: ['a:1'], ping_ms: 60000", "ping_ms: only with protocol h2"),
        ("endpoints: ['a:1'], protocol: h2, ping_ms: 10", "ping_ms is Some(10)"),
        ("discover: { dns: { name: '', port: 1 } }", "discover.dns.name is empty"),
        ("discover: { dns: { name: a, port: 0 } }", "discover.dns.port is 0"),
        ("discover: { consul: { service: a, address: 'ftp://a' } }", "discover.consul.address"),
        ("discover: { consul: { service: a, tls: {} } }", "discover.consul.tls: discover.consul.address is \"http://"),
        ("discover: { consul: { service: a, wait_ms: 0 } }", "discover.consul.wait_ms"),
        ("discover: { zookeeper: x }", "zookeeper"),
        ("endpoints: ['a:1'], keep_endpoints_ms: 1", "keep_endpoints_ms: only with discover"),
    ] {
        let why = config("upstream: b", upstream, "").unwrap_err().0;
        assert!(why.contains(expected), "{upstream}: {why}");
    }
}

#[test]
fn an_endpoint_is_an_address_or_a_map() {
    let upstream =
        "endpoints: ['a:1', { address: 'a:2', weight: 3, priority: 1, locality: { zone: z }, labels: { v: '1' } }]";
    let endpoints = config("upstream: a", upstream, "").unwrap().upstreams.remove(0).endpoints;
    let locality = Some(Locality { zone: "z".into(), ..Locality::default() });
    let second =
        Endpoint { weight: 3, priority: 1, locality, labels: [("v".into(), "1".into())].into(), .."a:2".into() };
    assert_eq!(endpoints, ["a:1".into(), second]);
}

#[test]
fn the_workload_itself_is_no_client_to_be_told_of() {
    for (listener, expected) in [
        (
            "direction: outbound, forwarded: replace, routes: [{ upstream: a }]",
            "forwarded: only at an inbound listener",
        ),
        (
            "direction: outbound, trusted_hops: 1, routes: [{ upstream: a }]",
            "trusted_hops: only at an inbound listener",
        ),
        ("direction: inbound, trusted_hops: 1, protocol: tcp, upstream: a", "trusted_hops: plain TCP has no"),
    ] {
        let why = Config::from_yaml(&format!(
            "service: shop\nlisteners: [{{ address: '127.0.0.1:0', {listener} }}]\n\
             upstreams: [{{ name: a, endpoints: ['a:1'] }}]",
        ));
        let why = why.unwrap_err().0;
        assert!(why.starts_with(&format!("listeners[0].{expected}")), "{why}");
    }
}

#[test]
fn istio_is_for_outbound_listeners() {
    let text =
        "service: shop\nlisteners: [{ address: '127.0.0.1:0', direction: inbound, istio: [x.yaml] }]\nupstreams: []";
    let why = Config::from_yaml(text).unwrap_err().0;
    assert_eq!(why, "listeners[0].istio: only at an outbound listener");
    let missing = Config::from_yaml(&text.replace("inbound", "outbound")).unwrap().with_istio().unwrap_err().0;
    assert!(missing.starts_with("istio: x.yaml: "), "{missing}");
}
