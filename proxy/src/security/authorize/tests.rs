//! Rules as a table: the YAML of a listener, a request, and what is decided.

use http::Method;
use serde_json::{Value, json};
use weir_policy::SpiffeId;

use super::*;
use crate::{Config, security::claims::Claims};

/// A listener with all that rules can ask for.
fn listener(rules: &str) -> Result<Authorization, String> {
    let text = format!(
        "service: tagger\nlisteners:\n  - address: 127.0.0.1:0\n    direction: inbound\n    routes: [{{ upstream: u }}]\n    \
         tls: {{ certificate: c, key: k, trust: t, trust_domains: [mesh.local] }}\n    \
         jwt: {{ issuers: [{{ issuer: \"https://idp\", audiences: [api], jwks: {{ file: keys }} }}] }}\n    \
         authorization: {{ rules: {rules} }}\nupstreams: [{{ name: u, endpoints: [\"127.0.0.1:1\"] }}]\n"
    );
    let config = Config::from_yaml(&text).map_err(|error| error.to_string())?;
    Ok(config.listeners[0].authorization.clone().unwrap())
}

struct Request {
    principal: &'static str,
    method: Method,
    host: &'static str,
    path: &'static str,
    claims: Value,
}

fn request() -> Request {
    let principal = "spiffe://mesh.local/ns/shop/sa/tagger";
    Request { principal, method: Method::GET, host: "parser", path: "/orders/1", claims: json!({}) }
}

fn decide(rules: &str, request: &Request) -> (bool, Option<String>) {
    let rules = Rules::new(&listener(rules).unwrap());
    let principal: Option<SpiffeId> = request.principal.parse().ok();
    let claims = request.claims.as_object().cloned().map(Claims::new);
    let asked = Asked {
        principal: principal.as_ref(),
        method: &request.method,
        host: Some(request.host),
        claims: claims.as_ref(),
    };
    let decision = rules.decide(&asked, request.path);
    (decision.allowed, decision.rule.clone())
}

#[test]
fn each_condition_matches_what_it_says() {
    let claims =
        json!({"iss": "https://idp", "sub": "ann", "groups": ["dev", "ops"], "age": 7, "realm": {"role": "admin"}});
    let request = Request { claims, ..request() };
    for (condition, expected) in [
        ("principals: [mesh.local/ns/shop/sa/tagger]", true),
        ("principals: [\"spiffe://mesh.local/ns/shop/sa/tagger\"]", true),
        ("principals: [\"mesh.local/ns/shop/*\"]", true),
        ("principals: [\"*/sa/tagger\"]", true),
        ("principals: [\"*\"]", true),
        ("principals: [mesh.local/ns/shop/sa/tag]", false),
        ("principals: [\"mesh.local/ns/pay/*\"]", false),
        ("namespaces: [shop]", true),
        ("namespaces: [pay, \"sh*\"]", true),
        ("namespaces: [pay]", false),
        ("methods: [GET, HEAD]", true),
        ("methods: [POST]", false),
        ("paths: [/orders/1]", true),
        ("paths: [\"/orders/*\"]", true),
        ("paths: [\"*/1\"]", true),
        ("paths: [/orders]", false),
        ("hosts: [PARSER]", true),
        ("hosts: [\"*.shop.svc\"]", false),
        ("request_principals: [\"https://idp/ann\"]", true),
        ("request_principals: [\"https://idp/*\"]", true),
        ("request_principals: [\"https://other/*\"]", false),
        ("claims: { groups: [ops] }", true),
        ("claims: { groups: [admin] }", false),
        ("claims: { age: [\"7\"] }", true),
        ("claims: { realm.role: [admin] }", true),
        ("claims: { realm: [\"*\"] }", false),
        ("methods: [GET], paths: [\"/pay/*\"]", false),
        ("methods: [GET] }, not: { paths: [\"/pay/*\"]", true),
        ("methods: [GET] }, not: { principals: [\"mesh.local/*\"]", false),
    ] {
        let (allowed, rule) = decide(&format!("[{{ name: r, action: allow, match: {{ {condition} }} }}]"), &request);
        assert_eq!((allowed, rule.is_some()), (expected, expected), "allow {condition}");
        let (allowed, _) = decide(&format!("[{{ name: r, action: deny, match: {{ {condition} }} }}]"), &request);
        assert_eq!(allowed, !expected, "deny {condition}");
    }
}

#[test]
fn who_is_not_identified_matches_no_identity() {
    let nobody = Request { principal: "", claims: Value::Null, ..request() };
    for condition in
        ["principals: [\"*\"]", "namespaces: [\"*\"]", "request_principals: [\"*\"]", "claims: { sub: [\"*\"] }"]
    {
        assert!(
            !decide(&format!("[{{ name: r, action: allow, match: {{ {condition} }} }}]"), &nobody).0,
            "{condition}"
        );
        // the way to say "whoever is not identified"
        assert!(!decide(&format!("[{{ name: r, action: deny, not: {{ {condition} }} }}]"), &nobody).0, "{condition}");
    }
}

#[test]
fn deny_comes_first_and_allow_must_be_given_where_it_exists() {
    let both = "[{ name: all, action: allow }, { name: no-delete, action: deny, match: { methods: [DELETE] } }]";
    assert_eq!(decide(both, &request()), (true, Some("all".into())));
    let delete = Request { method: Method::DELETE, ..request() };
    assert_eq!(decide(both, &delete), (false, Some("no-delete".into())));
    assert_eq!(decide("[{ name: no-delete, action: deny, match: { methods: [DELETE] } }]", &request()), (true, None));
    assert_eq!(decide("[{ name: get, action: allow, match: { methods: [GET] } }]", &delete), (false, None));
    assert_eq!(decide("[{ name: closed, action: deny }]", &request()), (false, Some("closed".into())));
}

#[test]
fn another_spelling_of_a_host_slips_past_no_rule() {
    let deny = "[{ name: r, action: deny, match: { hosts: [admin.shop] } }]";
    for (host, denied) in
        [("admin.shop", true), ("Admin.SHOP", true), ("admin.shop.", true), ("x@admin.shop", true), ("shop", false)]
    {
        assert_eq!(decide(deny, &Request { host, ..request() }).0, !denied, "{host}");
    }
}

#[test]
fn another_spelling_of_a_path_slips_past_no_rule() {
    let deny = "[{ name: r, action: deny, match: { paths: [\"/admin*\"] } }]";
    let allow = "[{ name: r, action: allow, match: { paths: [\"/public/*\"] } }]";
    for path in [
        "/admin",
        "/%61dmin",
        "//admin",
        "/x/../admin",
        "/x/%2e%2e/admin",
        "/x/..%2fadmin",
        "/x/..%5cadmin",
        "/public/..;/admin",
        "/./admin",
        "/%2561dmin/../admin",
        "/public/../admin/x",
        "/admin%00",
    ] {
        let request = Request { path, ..request() };
        assert!(!decide(deny, &request).0, "deny {path}");
        assert!(!decide(allow, &request).0, "allow {path}");
    }
    for path in ["/public/x", "//public/x", "/public/a%20b", "/x/../public/y", "/public/x;v=1", "/public/a%2fb"] {
        let request = Request { path, ..request() };
        assert!(decide(deny, &request).0 && decide(allow, &request).0, "{path}");
    }
    // case counts, so beside a service that ignores it only `allow` is safe
    assert!(decide(deny, &Request { path: "/ADMIN", ..request() }).0);
    assert!(!decide(allow, &Request { path: "/Public/x", ..request() }).0);
}

#[test]
fn rules_that_can_match_nothing_are_refused_by_name() {
    for (rules, expected) in [
        ("[]", "authorization.rules is empty"),
        ("[{ name: \"\", action: allow }]", "rules[0].name is empty"),
        ("[{ name: a b, action: allow }]", "rules[0].name"),
        ("[{ name: r, action: allow }, { name: r, action: deny, match: { methods: [GET] } }]", "rules[1].name repeats"),
        ("[{ name: r, action: permit }]", "permit"),
        ("[{ name: r, action: allow, match: { path: [/x] } }]", "path"),
        ("[{ name: r, action: allow, match: { paths: [] } }]", "rules[0].match.paths is empty and can never match"),
        (
            "[{ name: r, action: allow, match: { claims: { a: [] } } }]",
            "rules[0].match.claims.a is empty and can never match",
        ),
        ("[{ name: r, action: allow, match: { paths: [x] } }]", "rules[0].match.paths[0]"),
        ("[{ name: r, action: allow, match: { paths: [/a//b] } }]", "can never match"),
        ("[{ name: r, action: allow, match: { paths: [/%61] } }]", "can never match"),
        ("[{ name: r, action: allow, match: { paths: [\"/a?b\"] } }]", "can never match"),
        ("[{ name: r, action: allow, match: { paths: [\"/a*b\"] } }]", "at its end"),
        ("[{ name: r, action: allow, match: { methods: [get] } }]", "methods[0]"),
        ("[{ name: r, action: allow, match: { hosts: [\"parser:80\"] } }]", "hosts[0]"),
        ("[{ name: r, action: allow, match: { namespaces: [a/b] } }]", "namespaces[0]"),
        ("[{ name: r, action: allow, match: { principals: [/ns/shop] } }]", "principals[0]"),
        ("[{ name: r, action: allow, match: { principals: [other.local/x] } }]", "can never match: tls.trust_domains"),
        ("[{ name: r, action: allow, match: { paths: [/a] }, not: { paths: [/a] } }]", "paths can never match"),
        ("[{ name: r, action: allow, match: { paths: [/a] }, not: { paths: [\"*\"] } }]", "paths can never match"),
        (
            "[{ name: all, action: deny }, { name: get, action: allow, match: { methods: [GET] } }]",
            "no other rule can match",
        ),
    ] {
        let why = listener(rules).unwrap_err();
        assert!(why.contains(expected), "{rules}: {why}");
    }
    let plain = "service: s\nlisteners: [{ address: \"127.0.0.1:0\", direction: inbound, routes: [{ upstream: u }], \
        authorization: { rules: [{ name: r, action: allow, match: { RULE } }] } }]\n\
        upstreams: [{ name: u, endpoints: [\"127.0.0.1:1\"] }]\n";
    for condition in ["principals: [\"*\"]", "namespaces: [shop]", "request_principals: [\"*\"]", "claims: { a: [b] }"]
    {
        let why = Config::from_yaml(&plain.replace("RULE", condition)).unwrap_err().to_string();
        assert!(why.contains("can never match"), "{condition}: {why}");
    }
}
