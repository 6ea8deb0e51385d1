//! What becomes of documents: routes and upstreams, or an error that says where.

use super::*;
use crate::config::{Balance, HashOn, Match, Protocol, Share, Upstream};

/// A proxy that calls `reviews` (9080) and `ratings` (9081), after `yaml`.
fn compiled(yaml: &str) -> Result<Config, ConfigError> {
    let reviews = "{ name: reviews, endpoints: [{ address: '10.0.0.1:9080', labels: { version: v1 } }, \
                   { address: '10.0.0.2:9080', labels: { version: v2 } }] }";
    compiled_for(&format!("[{reviews}, {{ name: ratings, endpoints: ['10.0.1.1:9081'] }}]"), yaml)
}

/// A proxy that calls `upstreams`, after `yaml`.
fn compiled_for(upstreams: &str, yaml: &str) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("istio.yaml");
    fs::write(&path, yaml).unwrap();
    let text = format!(
        "service: productpage\nupstreams: {upstreams}\n\
         listeners: [{{ address: '127.0.0.1:0', direction: outbound, istio: [{path:?}] }}]\n"
    );
    let config = Config::from_yaml(&text)?
        .with_istio()
        .map_err(|error| ConfigError(error.0.replace(&path.display().to_string(), "istio.yaml")))?;
    // rules alone route nothing, which a whole file may not do
    if yaml.contains("kind: VirtualService") {
        config.validate()?;
    }
    Ok(config)
}

fn virtual_service(http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: reviews }}\n\
         spec:\n  hosts: [reviews]\n  http: {http}\n"
    )
}

fn destination_rule(spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1beta1\nkind: DestinationRule\nmetadata: {{ name: reviews }}\n\
         spec: {{ host: reviews, {spec} }}\n"
    )
}

fn routes(http: &str) -> Vec<Route> {
    let subsets =
        destination_rule("subsets: [{ name: v1, labels: { version: v1 } }, { name: v2, labels: { version: v2 } }]");
    let yaml = format!("{}---\n{subsets}", virtual_service(http));
    compiled(&yaml).unwrap().listeners.remove(0).routes
}

fn upstream(policy: &str) -> Upstream {
    compiled(&destination_rule(&format!("trafficPolicy: {policy}")))
        .map(|mut config| config.upstreams.remove(0))
        .unwrap()
}

const TO_REVIEWS: &str = "route: [{ destination: { host: reviews } }]";

#[test]
fn weights_and_subsets_become_a_split_between_labelled_endpoints() {
    let to = "[{ route: [{ destination: { host: reviews, subset: v1 }, weight: 90 }, \
              { destination: { host: reviews.default.svc.cluster.local, subset: v2, port: { number: 9080 } }, weight: 10 }] }]";
    let routes = routes(to);
    let share = |upstream: &str, weight| Share { upstream: upstream.into(), weight, ..Share::default() };
    assert_eq!(routes.len(), 1);
    assert_eq!(routes[0].split, [share("reviews/v1", 90), share("reviews/v2", 10)]);
    let hosts = ["reviews", "reviews.default", "reviews.default.svc", "reviews.default.svc.cluster.local"];
    assert_eq!(routes[0].matches.hosts, hosts);
}

#[test]
fn every_look_of_a_match_becomes_one_of_a_route() {
    for (matches, expected) in [
        ("{ uri: { exact: /a } }", "path: /a"),
        ("{ uri: { prefix: /a }, ignoreUriCase: true }", "{ path_starts_with: /a, ignore_path_case: true }"),
        ("{ uri: { regex: '/a/.*' } }", "path_regex: '/a/.*'"),
        (
            "{ headers: { end-user: { exact: jason }, x-any: {} } }",
            "headers: { end-user: { exact: jason }, x-any: { present: true } }",
        ),
        ("{ withoutHeaders: { x-test: { prefix: a } } }", "without_headers: { x-test: { prefix: a } }"),
        ("{ queryParams: { v: { regex: '[0-9]+' } } }", "query: { v: { regex: '[0-9]+' } }"),
        ("{ method: { exact: GET } }", "methods: [GET]"),
        ("{ method: { regex: 'GET|PUT' } }", "methods: [GET, PUT]"),
        (
            "{ authority: { prefix: reviews }, port: 9080, scheme: { exact: http } }",
            "{ authority: { prefix: reviews }, port: 9080 }",
        ),
        ("{ name: named, gateways: [mesh] }", "{}"),
    ] {
        let route = routes(&format!("[{{ match: [{matches}], {TO_REVIEWS} }}]")).remove(0);
        let expected: Match = serde_saphyr::from_str(expected).unwrap();
        assert_eq!(route.matches, Match { hosts: route.matches.hosts.clone(), ..expected }, "{matches}");
    }
}

#[test]
fn rules_become_routes_with_everything_they_say() {
    let route = routes(
        "[{ name: main, match: [{ uri: { prefix: /api } }, { uri: { exact: /healthz } }], \
         rewrite: { uri: /v2, authority: reviews.internal }, timeout: 1.5s, \
         retries: { attempts: 3, perTryTimeout: 500ms, retryOn: 'gateway-error, connect-failure,reset,503', backoff: 10ms }, \
         fault: { delay: { fixedDelay: 5s, percentage: { value: 0.1 } }, abort: { httpStatus: 503, percentage: { value: 50 } } }, \
         mirror: { host: reviews, subset: v2 }, mirrorPercentage: { value: 12.5 }, \
         headers: { request: { set: { x-a: '1' }, add: { x-b: '2' }, remove: [x-c] }, response: { set: { x-d: '4' } } }, \
         route: [{ destination: { host: ratings, port: { number: 9081 } }, headers: { request: { set: { x-e: '5' } } } }] }]",
    )
    .remove(0);
    let expected: Route = serde_saphyr::from_str(
        "{ name: main, split: [{ upstream: ratings, weight: 1, request_headers: { set: { x-e: '5' } } }], match: { path_starts_with: /api }, rewrite: { path: /v2, host: reviews.internal }, \
         timeout_ms: 1500, answer_timeout_ms: 1500, \
         retries: { attempts: 3, per_try_timeout_ms: 500, on: [gateway-error, connect-failure, reset, '503'], backoff_ms: 10, max_backoff_ms: 100 }, \
         fault: { delay: { ms: 5000, percent: 0.1 }, abort: { status: 503, percent: 50 } }, \
         mirror: { upstream: reviews/v2, percent: 12.5 }, \
         request_headers: { set: { x-a: '1' }, add: { x-b: '2' }, remove: [x-c] }, response_headers: { set: { x-d: '4' } } }",
    )
    .unwrap();
    let expected =
        Route { matches: Match { hosts: route.matches.hosts.clone(), ..expected.matches.clone() }, ..expected };
    assert_eq!(format!("{route:#?}"), format!("{expected:#?}"));
}

#[test]
fn a_host_without_a_rule_for_a_request_is_not_found() {
    let names = |routes: Vec<Route>| routes.into_iter().filter_map(|route| route.name).collect::<Vec<_>>();
    let some = format!("[{{ match: [{{ uri: {{ exact: /a }} }}, {{ uri: {{ exact: /b }} }}], {TO_REVIEWS} }}]");
    let all = routes(&some);
    assert_eq!(all[2].respond.as_ref().map(|respond| respond.status), Some(404));
    assert_eq!(names(all), ["reviews", "reviews.2", "reviews.3"]);
    assert_eq!(names(routes(&format!("[{{ {TO_REVIEWS} }}]"))), ["reviews"]);
}

#[test]
fn exact_hosts_come_before_wildcards() {
    let of = |name: &str, host: &str| {
        virtual_service(&format!("[{{ {TO_REVIEWS} }}]"))
            .replace("name: reviews }", &format!("name: {name} }}"))
            .replace("[reviews]", host)
    };
    let yaml =
        [of("any", "['*']"), of("wide", "['*.example']"), of("near", "['*.a.example']"), of("exact", "[b.a.example]")];
    let routes = compiled(&yaml.join("---\n")).unwrap().listeners.remove(0).routes;
    let names: Vec<_> = routes.into_iter().filter_map(|route| route.name).collect();
    assert_eq!(names, ["exact", "near", "wide", "any"]);
}

#[test]
fn redirects_and_direct_responses_are_answered_here() {
    let route = routes("[{ redirect: { uri: /new, authority: other, port: 8080, scheme: https, redirectCode: 308 } }]")
        .remove(0);
    let redirect = route.redirect.unwrap();
    assert_eq!(
        (redirect.path.as_deref(), redirect.host.as_deref(), redirect.status),
        (Some("/new"), Some("other:8080"), 308)
    );
    let route = routes("[{ directResponse: { status: 418, body: { string: tea } } }]").remove(0);
    assert_eq!(route.respond.map(|respond| (respond.status, respond.body)), Some((418, "tea".into())));
    let edited = "[{ directResponse: { status: 200 }, headers: { response: { set: { content-type: a/b } } } }]";
    assert_eq!(routes(edited)[0].response_headers.set["content-type"], "a/b");
    let route = routes(&format!("[{{ rewrite: {{ uri: /v2 }}, {TO_REVIEWS} }}]")).remove(0);
    assert_eq!(route.matches.path_starts_with.as_deref(), Some("/"));
}

#[test]
fn retrying_what_is_not_idempotent_is_said_by_an_annotation() {
    let http = format!("[{{ retries: {{ attempts: 2 }}, {TO_REVIEWS} }}]");
    let asked = |yaml: &str| compiled(yaml).unwrap().listeners[0].routes[0].retries.clone().unwrap().non_idempotent;
    let plain = virtual_service(&http);
    assert!(!asked(&plain));
    assert!(asked(
        &plain.replace("name: reviews }", "name: reviews, annotations: { weir/retry-non-idempotent: 'true' } }")
    ));
}

/// It was as if nothing had been said, and what never arrived went out once more.
#[test]
fn no_attempts_are_no_attempts() {
    let route = routes(&format!("[{{ retries: {{ attempts: 0 }}, {TO_REVIEWS} }}]")).remove(0);
    assert_eq!(route.retries.map(|retries| retries.attempts), Some(0));
}

/// Where endpoints are found every port was taken.
#[test]
fn a_port_is_that_of_the_endpoints_also_where_they_are_found() {
    for (source, expected) in [
        ("endpoints: ['10.0.0.1:9080']", Ok("reviews")),
        ("discover: { dns: { name: reviews, port: 9080 } }", Ok("reviews")),
        ("discover: { dns: { name: reviews, port: 8080 } }", Err("have other ports than 9080")),
        ("discover: { dns_srv: { name: reviews } }", Err("known when its endpoints are found")),
        ("discover: { consul: { service: reviews } }", Err("name an upstream \"reviews:9080\"")),
        ("discover: { file: x }", Err("or leave port out")),
        ("subset_of: { upstream: all, labels: {} }", Err("have other ports than 9080")),
    ] {
        let upstreams = format!("[{{ name: reviews, {source} }}, {{ name: all, endpoints: ['10.0.0.2:1'] }}]");
        let to = |port: &str| format!("[{{ route: [{{ destination: {{ host: reviews{port} }} }}] }}]");
        let routed = compiled_for(&upstreams, &virtual_service(&to(", port: { number: 9080 }")));
        let found = routed.as_ref().map(|config| config.listeners[0].routes[0].split[0].upstream.as_str());
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{source}"),
            (Err(why), Err(expected)) => assert!(why.0.contains(expected), "{source}: {why}"),
            (found, _) => panic!("{source}: {found:?}"),
        }
        assert!(compiled_for(&upstreams, &virtual_service(&to(""))).is_ok(), "{source}: no port is said");
    }
}

/// Such subsets were taken, and every request got 503.
#[test]
fn what_dns_finds_has_no_subsets() {
    for (source, refused) in [
        ("dns: { name: reviews, port: 9080 }", true),
        ("dns_srv: { name: reviews }", true),
        ("consul: { service: reviews }", false),
        ("file: x", false),
    ] {
        let upstreams = format!("[{{ name: reviews, discover: {{ {source} }} }}]");
        let rule = |labels: &str| destination_rule(&format!("subsets: [{{ name: v1, labels: {{ {labels} }} }}]"));
        let why = compiled_for(&upstreams, &rule("version: v1")).err().map(|error| error.0);
        assert_eq!(why.is_some(), refused, "{source}: {why:?}");
        let named =
            |why: String| why.contains("spec.subsets[0].labels: upstream \"reviews\" finds its endpoints by DNS");
        assert!(why.is_none_or(named), "{source}");
        assert!(compiled_for(&upstreams, &rule("")).is_ok(), "{source}: all of them are a subset");
    }
}

#[test]
fn policies_become_keys_of_upstreams() {
    for (policy, expected) in [
        ("{ loadBalancer: { simple: ROUND_ROBIN } }", Balance::RoundRobin),
        ("{ loadBalancer: { simple: LEAST_REQUEST } }", Balance::LeastRequest),
        ("{ loadBalancer: { simple: RANDOM } }", Balance::Random),
        (
            "{ loadBalancer: { consistentHash: { httpHeaderName: x-user } } }",
            Balance::RingHash(HashOn::Header("x-user".into())),
        ),
        (
            "{ loadBalancer: { consistentHash: { useSourceIp: true, ringHash: {} } } }",
            Balance::RingHash(HashOn::SourceAddress),
        ),
        ("{ tls: { mode: DISABLE } }", Balance::P2cPeakEwma),
    ] {
        assert_eq!(upstream(policy).balance, expected, "{policy}");
    }
    let upstream = upstream(
        "{ connectionPool: { tcp: { connectTimeout: 30ms, maxConnections: 4 }, http: { http1MaxPendingRequests: 3, maxRequestsPerConnection: 2, idleTimeout: 7s, http2MaxRequests: 100, maxRetries: 5, h2UpgradePolicy: DEFAULT } }, \
         outlierDetection: { consecutive5xxErrors: 7, consecutiveGatewayErrors: 3, interval: 5m, baseEjectionTime: 15m, \
         maxEjectionPercent: 100, minHealthPercent: 30 }, retryBudget: { percent: 25, minRetryConcurrency: 1 } }",
    );
    let expected: Upstream = serde_saphyr::from_str(
        "{ name: reviews, connect_timeout_ms: 30, max_requests: 100, max_connections: 4, max_pending_requests: 3, max_requests_per_connection: 2, pool_idle_ms: 7000, panic_threshold_percent: 30, \
         retry_budget: { budget_percent: 25, min_retry_concurrency: 1, max_retries: 5 }, \
         outlier_detection: { consecutive_5xx: 7, consecutive_gateway_errors: 3, interval_ms: 300000, \
         base_ejection_time_ms: 900000, max_ejection_time_ms: 900000, max_ejection_percent: 100 } }",
    )
    .unwrap();
    let expected = Upstream { endpoints: upstream.endpoints.clone(), ..expected };
    assert_eq!(format!("{upstream:#?}"), format!("{expected:#?}"));
}

#[test]
fn a_subset_inherits_and_overrides() {
    let yaml = destination_rule(
        "trafficPolicy: { loadBalancer: { simple: RANDOM }, connectionPool: { http: { http2MaxRequests: 9 } } }, \
         subsets: [{ name: v1, labels: { version: v1 } }, { name: v2, labels: { version: v2 }, trafficPolicy: { loadBalancer: { simple: ROUND_ROBIN } } }]",
    );
    let upstreams = compiled(&yaml).unwrap().upstreams;
    let of = |name: &str| {
        let upstream = upstreams.iter().find(|upstream| upstream.name == name).unwrap();
        (upstream.service().to_owned(), upstream.balance.clone(), upstream.max_requests.map(std::num::NonZero::get))
    };
    assert_eq!(of("reviews/v1"), ("reviews".into(), Balance::Random, Some(9)));
    assert_eq!(of("reviews/v2"), ("reviews".into(), Balance::RoundRobin, Some(9)));
}

/// What the subset's block left out was taken from the rule's, where Istio takes the block's place.
#[test]
fn a_block_of_a_subset_takes_the_place_of_the_rule_s() {
    let upstreams = "[{ name: reviews, endpoints: ['10.0.0.1:9080'], max_requests: 7, connect_timeout_ms: 70 }]";
    let yaml = destination_rule(
        "trafficPolicy: { connectionPool: { tcp: { connectTimeout: 9ms }, http: { http2MaxRequests: 9, maxRetries: 9, h2UpgradePolicy: UPGRADE } }, \
         retryBudget: { percent: 9 } }, \
         subsets: [{ name: v1, trafficPolicy: { connectionPool: { http: { idleTimeout: 1s } } } }, \
         { name: v2, trafficPolicy: { retryBudget: { minRetryConcurrency: 1 } } }]",
    );
    let upstreams = compiled_for(upstreams, &yaml).unwrap().upstreams;
    let of = |n: usize| {
        let Upstream { connect_timeout_ms, max_requests, retry_budget, protocol, pool_idle_ms, .. } = &upstreams[n];
        let budget = [retry_budget.budget_percent, retry_budget.min_retry_concurrency];
        let max_requests = max_requests.map(std::num::NonZero::get);
        (*connect_timeout_ms, max_requests, *pool_idle_ms, *protocol, budget, retry_budget.max_retries)
    };
    assert_eq!(of(0), (Some(9), Some(9), None, Protocol::H2, [9, 3], Some(9)));
    assert_eq!(of(1), (Some(70), Some(7), Some(1_000), Protocol::Http1, [9, 3], None), "its own connectionPool");
    assert_eq!(of(2), (Some(9), Some(9), None, Protocol::H2, [20, 1], Some(9)), "its own retryBudget");
}

/// What is refused, below `spec`: the field, where the error says it is, and what it says to do.
#[test]
fn what_cannot_be_honoured_is_named_with_what_to_do() {
    let service = |http: &str| virtual_service(&format!("[{{ {http} }}]"));
    let matching = |what: &str| service(&format!("match: [{{ {what} }}], {TO_REVIEWS}"));
    let rule = |what: &str| service(&format!("{what}, {TO_REVIEWS}"));
    let top = |what: &str| virtual_service(&format!("[{{ {TO_REVIEWS} }}]\n  {what}"));
    let policy = |what: &str| destination_rule(&format!("trafficPolicy: {{ {what} }}"));
    for (yaml, place, advice) in [
        (top("tls: []"), "VirtualService \"reviews\": spec.tls", "route its plaintext"),
        (top("tcp: []"), "spec.tcp", "a listener of its own"),
        (top("gateways: [bookinfo]"), "spec.gateways[0]", "only \"mesh\""),
        (top("exportTo: [prod]"), "spec.exportTo[0]", "only \"*\" or \".\""),
        (top("hots: []"), "spec.hots", "not a field that is known here"),
        (matching("sourceLabels: { app: a }"), "spec.http[0].match[0].sourceLabels", "keep this rule in its file only"),
        (matching("sourceNamespace: a"), "match[0].sourceNamespace", "workloads"),
        (matching("statPrefix: a"), "match[0].statPrefix", "give the rule a name"),
        (matching("scheme: { exact: https }"), "match[0].scheme", "exact: http"),
        (matching("method: { prefix: G }"), "match[0].method", "regex: GET|PUT"),
        (matching("method: { regex: 'G.*' }"), "match[0].method", "regex: GET|PUT"),
        (matching("headers: { uri: { exact: /a } }"), "match[0].headers.uri", "beside headers"),
        (matching("uri: { suffix: /a }"), "match[0].uri.suffix", "not a field that is known here"),
        (matching("uri: { exact: /a, prefix: /b }"), "match[0].uri", "one of exact, prefix and regex"),
        (matching("uri: { regex: '(' }"), "spec.http[0]", "match.path_regex"),
        (matching("gateways: [edge]"), "match[0].gateways[0]", "only \"mesh\""),
        (rule("corsPolicy: {}"), "spec.http[0].corsPolicy", "in the application"),
        (rule("delegate: { name: a }"), "http[0].delegate", "put the rules of the delegate here"),
        (rule("mirrorPercent: 5"), "http[0].mirrorPercent", "mirrorPercentage"),
        (rule("rewrite: { uriRegexRewrite: {} }"), "rewrite.uriRegexRewrite", "say uri"),
        (rule("timeout: 0s"), "http[0].timeout", "a duration from 1ms"),
        (rule("timeout: 5"), "http[0].timeout", "must be text"),
        (rule("retries: { retryRemoteLocalities: true }"), "retries.retryRemoteLocalities", "wherever the balance"),
        (rule("retries: { retryIgnorePreviousHosts: false }"), "retries.retryIgnorePreviousHosts", "another endpoint"),
        (rule("retries: { retryOn: 'envoy-ratelimited' }"), "retries.retryOn", "is none of 5xx"),
        (rule("fault: { delay: { percent: 5, fixedDelay: 1s } }"), "fault.delay.percent", "percentage"),
        // with nothing said Istio injects nothing, and here it was everything
        (rule("fault: { delay: { fixedDelay: 1s } }"), "fault.delay", "percentage is missing"),
        (rule("fault: { abort: { httpStatus: 503 } }"), "fault.abort", "percentage is missing"),
        (rule("fault: { delay: { exponentialDelay: 1s, fixedDelay: 1s } }"), "delay.exponentialDelay", "fixedDelay"),
        (rule("fault: { abort: { grpcStatus: UNAVAILABLE } }"), "fault.abort.grpcStatus", "httpStatus"),
        (rule("fault: { abort: { httpStatus: 99 } }"), "fault.abort.httpStatus", "from 200 to 599"),
        (
            rule("fault: { abort: { httpStatus: 500, percentage: { value: 101 } } }"),
            "percentage.value",
            "from 0 to 100",
        ),
        (rule("headers: { request: { set: { Host: a } } }"), "headers.request.set.Host", "rewrite.authority"),
        (rule("headers: { request: { set: { x: '%START_TIME% %' } } }"), "headers.request.set.x", "a plain value"),
        (rule("mirror: { host: nowhere }"), "http[0].mirror.host", "no upstream of proxy.yaml"),
        (rule("redirect: { uri: /a }"), "spec.http[0]", "one of route, redirect and directResponse"),
        // beside these they were read and forgotten
        (service("redirect: { uri: /a }, timeout: 5s"), "spec.http[0].timeout", "beside redirect"),
        (service("directResponse: { status: 200 }, rewrite: { uri: /a }"), "http[0].rewrite", "beside directResponse"),
        (service("directResponse: { status: 200 }, retries: { attempts: 1 }"), "http[0].retries", "remove one of both"),
        (service("redirect: { uri: /a }, mirror: { host: reviews }"), "http[0].mirror", "beside redirect"),
        (service("redirect: { uri: /a }, mirrors: []"), "http[0].mirrors", "beside redirect"),
        (
            service("directResponse: { status: 200 }, headers: { request: { set: { x-a: '1' } } }"),
            "http[0].headers.request",
            "beside directResponse",
        ),
        (service("redirect: { derivePort: FROM_REQUEST_PORT }"), "redirect.derivePort", "say port"),
        (service("redirect: { uri: '%PREFIX()%/a' }"), "redirect.uri", "say a path"),
        (service("redirect: { port: 80 }"), "redirect.port", "authority"),
        (service("directResponse: { status: 200, body: { bytes: aa } }"), "body.bytes", "say string"),
        (
            service("route: [{ destination: { host: reviews, subset: v9 } }]"),
            "destination.subset",
            "has a subset \"v9\"",
        ),
        (
            service("route: [{ destination: { host: reviews, port: { number: 80 } } }]"),
            "destination.host",
            "\"reviews:80\"",
        ),
        (destination_rule("workloadSelector: {}"), "DestinationRule \"reviews\": spec.workloadSelector", "proxy.yaml"),
        (destination_rule("").replace("host: reviews", "host: nowhere"), "spec.host", "add it, or leave this out"),
        (policy("portLevelSettings: []"), "trafficPolicy.portLevelSettings", "give each port an upstream"),
        (policy("tls: { mode: ISTIO_MUTUAL }"), "trafficPolicy.tls", "mode: DISABLE"),
        // it was read as far as its mode
        (policy("tls: { mode: DISABLE, sni: a }"), "trafficPolicy.tls.sni", "not a field that is known here"),
        (policy("tunnel: {}"), "trafficPolicy.tunnel", "directly"),
        (policy("loadBalancer: { simple: PASSTHROUGH }"), "loadBalancer.simple", "not to where the client meant"),
        (policy("loadBalancer: { warmupDurationSecs: 5s }"), "loadBalancer.warmupDurationSecs", "tried at once"),
        (
            policy("loadBalancer: { consistentHash: { maglev: {}, useSourceIp: true } }"),
            "consistentHash.maglev",
            "ringHash",
        ),
        (
            policy("loadBalancer: { consistentHash: { useSourceIp: true, ringHash: { minimumRingSize: 9 } } }"),
            "ringHash.minimumRingSize",
            "160",
        ),
        (
            policy("loadBalancer: { localityLbSetting: { enabled: true } }"),
            "loadBalancer.localityLbSetting",
            "its key locality",
        ),
        (policy("loadBalancer: { localityLbSetting: { distribute: [] } }"), "localityLbSetting.distribute", "weights"),
        (policy("loadBalancer: { localityLbSetting: { failover: [] } }"), "localityLbSetting.failover", "priorities"),
        (policy("connectionPool: { tcp: { tcpKeepalive: {} } }"), "tcp.tcpKeepalive", "within 30 s"),
        (
            policy("connectionPool: { http: { useClientProtocol: true } }"),
            "http.useClientProtocol",
            "protocol in proxy.yaml",
        ),
        (
            policy("outlierDetection: { consecutiveErrors: 5 }"),
            "outlierDetection.consecutiveErrors",
            "consecutive5xxErrors",
        ),
        (
            policy("outlierDetection: { splitExternalLocalOriginErrors: true }"),
            "splitExternalLocalOriginErrors",
            "gateway error",
        ),
        (service("route: []").replace("VirtualService", "Gateway"), "kind", "leave it out"),
        (service("route: []").replace("networking.istio.io/v1", "networking.istio.io/v2"), "apiVersion", "v1beta1"),
        (policy("connectionPool: { tcp: { idleTimeout: 5s } }"), "tcp.idleTimeout", "say http.idleTimeout"),
        (
            policy("connectionPool: { tcp: { maxConnections: 1 }, http: { h2UpgradePolicy: UPGRADE } }"),
            "connectionPool",
            "say http.http2MaxRequests",
        ),
        (
            policy("connectionPool: { http: { maxConcurrentStreams: 1 } }"),
            "http.maxConcurrentStreams",
            "say http2MaxRequests",
        ),
    ] {
        let why = compiled(&yaml).map(|_| ()).unwrap_err().0;
        let said = why.starts_with("istio.yaml: ") && why.contains(place) && why.contains(advice);
        assert!(said, "{yaml}\nexpected {place:?} and {advice:?}, got: {why}");
    }
}

/// A second virtual service stood behind the 404 of the first, and nobody was told.
#[test]
fn a_host_has_one_virtual_service() {
    let to = format!("[{{ {TO_REVIEWS} }}]");
    let first = virtual_service(&to);
    let second = |hosts: &str, more: &str| {
        let other = first.replace("name: reviews }", &format!("name: other{more} }}"));
        other.replace("hosts: [reviews]", &format!("hosts: {hosts}"))
    };
    for (hosts, more, taken) in [
        ("[reviews]", "", true),
        ("[ratings, reviews.default.svc.cluster.local]", "", true),
        ("[ratings]", "", false),
        ("['*.example']", "", false),
        // both are called `reviews` by someone, and the first got it
        ("[reviews]", ", namespace: another", true),
        ("[reviews.another.svc.cluster.local]", "", true),
    ] {
        let result = compiled(&format!("{first}---\n{}", second(hosts, more)));
        let why = result.as_ref().err().map(|error| error.0.clone()).unwrap_or_default();
        assert_eq!(result.is_err(), taken, "{hosts}{more}: {why}");
        let named = why.contains("VirtualService \"other\": spec.hosts") && why.contains("VirtualService \"reviews\"");
        assert_eq!(named, taken, "{why}");
    }
}

/// Of two rules of one name in one file, which two namespaces may have, the second vanished.
#[test]
fn rules_of_one_name_are_both_applied() {
    let policy = destination_rule("trafficPolicy: { loadBalancer: { simple: RANDOM } }");
    let other = policy.replace("host: reviews", "host: ratings").replace("RANDOM", "ROUND_ROBIN");
    let upstreams = compiled(&format!("{policy}---\n{other}")).unwrap().upstreams;
    let balances: Vec<_> = upstreams.into_iter().map(|upstream| upstream.balance).collect();
    assert_eq!(balances, [Balance::Random, Balance::RoundRobin]);
}

/// It was accepted, and the upstream kept its TLS.
#[test]
fn tls_that_proxy_yaml_sets_up_is_not_disabled() {
    let upstreams = "[{ name: reviews, endpoints: ['10.0.0.1:9080'], tls: { trust: roots.pem } }]";
    let rule = destination_rule("trafficPolicy: { tls: { mode: DISABLE } }");
    let why = compiled_for(upstreams, &rule).map(|_| ()).unwrap_err().0;
    assert!(why.contains("spec.trafficPolicy.tls.mode: ") && why.contains("upstream \"reviews\" has tls"), "{why}");
}

/// The later was in force, and subsets made before did not have its policy.
#[test]
fn an_upstream_has_one_destination_rule() {
    let first = destination_rule("subsets: [{ name: v1, labels: { version: v1 } }]");
    let policy = destination_rule("trafficPolicy: { loadBalancer: { simple: RANDOM } }");
    let second = policy
        .replace("name: reviews }", "name: other, namespace: another }")
        .replace("host: reviews", "host: reviews.default.svc.cluster.local");
    let why = compiled(&format!("{first}---\n{second}")).map(|_| ()).unwrap_err().0;
    let (here, before) =
        ("document 2: DestinationRule \"other\": spec.host: ", "document 1: DestinationRule \"reviews\"");
    assert!(why.contains(here) && why.contains(before), "{why}");
}

/// An upstream that is named with its port never had the policy of its host.
#[test]
fn a_destination_rule_is_for_all_ports_of_its_host() {
    let upstream = |name: &str| format!("{{ name: '{name}', endpoints: ['10.0.0.1:80'] }}");
    let upstreams = ["reviews", "reviews:9080", "reviews:9443", "reviews2:9080", "my-reviews"].map(upstream).join(", ");
    let rule =
        destination_rule("trafficPolicy: { loadBalancer: { simple: RANDOM } }, subsets: [{ name: v1, labels: {} }]");
    let config = compiled_for(&format!("[{upstreams}]"), &rule).unwrap();
    let random = config.upstreams.iter().filter(|upstream| upstream.balance == Balance::Random);
    let names: Vec<_> = random.map(|upstream| upstream.name.as_str()).collect();
    let parts = ["reviews/v1", "reviews:9080/v1", "reviews:9443/v1"];
    assert_eq!(names, [&["reviews", "reviews:9080", "reviews:9443"], parts.as_slice()].concat());
}

/// `api.stripe.com` and `api.github.com` both meant an upstream `api`.
#[test]
fn only_services_of_a_cluster_have_short_names() {
    let upstreams =
        "[{ name: api, endpoints: ['10.0.0.1:80'] }, { name: api.github.com, endpoints: ['10.0.0.2:443'] }]";
    for (host, expected) in [
        ("api", Some("api")),
        ("api.prod.svc", Some("api")),
        ("api.prod.svc.cluster.local", Some("api")),
        ("api.prod.svc.example.org", Some("api")),
        ("api.github.com", Some("api.github.com")),
        ("api.stripe.com", None),
        ("api.prod", None),
    ] {
        let to = virtual_service(&format!("[{{ route: [{{ destination: {{ host: {host} }} }}] }}]"));
        let routed = compiled_for(upstreams, &to);
        let found = routed.as_ref().ok().map(|config| config.listeners[0].routes[0].split[0].upstream.as_str());
        assert_eq!(found, expected, "{host}");
        let rule = destination_rule("").replace("host: reviews", &format!("host: {host}"));
        let ruled = compiled_for(upstreams, &rule);
        assert_eq!(ruled.is_ok(), expected.is_some(), "{host}");
        for (result, place) in [(routed, "route[0].destination.host: "), (ruled, "spec.host: ")] {
            let why = result.err().map(|error| error.0);
            let named = |why: String| why.contains(&format!("{place}no upstream of proxy.yaml is named {host:?}: "));
            assert!(why.is_none_or(named), "{host}");
        }
    }
}

#[test]
fn a_file_named_twice_is_one() {
    let listener = "{ address: '127.0.0.1:0', direction: outbound, istio: [a.yaml, a.yaml] }";
    let config = format!(
        "{{ service: shop, listeners: [{listener}, {listener}], \
         upstreams: [{{ name: reviews, endpoints: ['10.0.0.1:80'] }}] }}"
    );
    let rule = destination_rule("subsets: [{ name: v1, labels: {} }]");
    let file = format!("{}---\n{rule}", virtual_service(&format!("[{{ {TO_REVIEWS} }}]")));
    let config = Config::from_yaml(&config).unwrap().with_istio_from(|_| Ok(file.clone())).unwrap();
    assert_eq!(config.listeners.iter().map(|listener| listener.routes.len()).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(config.upstreams.len(), 2);
}
