//! [`Matcher`]: whether a route takes a request, compiled.

use std::{borrow::Cow, sync::Arc};

use http::{HeaderName, Method, Request};
use regex::Regex;

use crate::{
    authority::{authority_of, split_port, without_final_dot},
    config::{ConfigError, Match, ValueMatch},
    path::{after, as_routed, as_routed_start},
    routing::value::{ValueIs, fields, whole},
    security::Peer,
};

/// All of it must hold.
pub(crate) struct Matcher {
    path: PathIs,
    ignore_path_case: bool,
    /// One of them, unless there is none.
    hosts: Vec<HostIs>,
    port: Option<u16>,
    authority: Option<ValueIs>,
    methods: Vec<Method>,
    headers: Vec<(HeaderName, ValueIs)>,
    without_headers: Vec<(HeaderName, ValueIs)>,
    query: Vec<(String, ValueIs)>,
}

enum PathIs {
    Any,
    Exact(String),
    Prefix(String),
    StartsWith(String),
    Regex(Regex),
}

enum HostIs {
    This(String),
    /// Ends so, and is longer: `.example`.
    Below(String),
}

impl Matcher {
    /// Compiles; an error names the key below `match`.
    pub(crate) fn new(matches: &Match) -> Result<Self, ConfigError> {
        let method = |method: &String| {
            let parsed = Method::from_bytes(method.as_bytes());
            parsed.map_err(|_| ConfigError(format!("match.methods: {method:?} is not a method")))
        };
        let parameter = |(name, value): (&String, &ValueMatch)| {
            Ok((name.clone(), ValueIs::new(value, &format!("match.query.{name}"))?))
        };
        Ok(Self {
            path: PathIs::new(matches)?,
            ignore_path_case: matches.ignore_path_case,
            hosts: matches.host.iter().chain(&matches.hosts).map(|host| HostIs::new(host)).collect(),
            port: matches.port,
            authority: matches.authority.as_ref().map(|is| ValueIs::new(is, "match.authority")).transpose()?,
            methods: matches.methods.iter().map(method).collect::<Result<_, _>>()?,
            headers: fields(&matches.headers, "match.headers")?,
            without_headers: fields(&matches.without_headers, "match.without_headers")?,
            query: matches.query.iter().map(parameter).collect::<Result<_, ConfigError>>()?,
        })
    }

    /// `path` is the request's as routes see it ([`as_routed`]).
    pub(crate) fn accepts<B>(&self, request: &Request<B>, path: &str) -> bool {
        let has = |(name, value): &(HeaderName, ValueIs)| {
            value.accepts_one_of(request.headers().get_all(name).iter().map(|value| value.to_str().ok()))
        };
        self.accepts_path(path)
            && self.accepts_host(request)
            && (self.methods.is_empty() || self.methods.contains(request.method()))
            && self.headers.iter().all(has)
            && !self.without_headers.iter().any(has)
            && self.query.iter().all(|(name, value)| {
                let named = parameters(request.uri().query()).filter(|(key, _)| key == name);
                value.accepts_one_of(named.map(|(_, value)| Some(value)))
            })
    }

    fn accepts_path(&self, path: &str) -> bool {
        if self.ignore_path_case { self.path.accepts(&path.to_ascii_lowercase()) } else { self.path.accepts(path) }
    }

    fn accepts_host<B>(&self, request: &Request<B>) -> bool {
        if self.hosts.is_empty() && self.port.is_none() && self.authority.is_none() {
            return true;
        }
        let Some(authority) = authority_of(request) else { return false };
        let (host, port) = split_port(authority);
        let host = without_final_dot(host);
        (self.hosts.is_empty() || self.hosts.iter().any(|wanted| wanted.accepts(host)))
            && self.port.is_none_or(|wanted| port.unwrap_or_else(|| default_port(request)) == wanted)
            && self.authority.as_ref().is_none_or(|wanted| wanted.accepts_one_of([Some(authority)].into_iter()))
    }

    /// What follows the prefix in a path as it came; `None` when the path is not matched by one.
    pub(crate) fn after_prefix<'a>(&self, path: &'a str) -> Option<Cow<'a, str>> {
        match &self.path {
            PathIs::Prefix(prefix) | PathIs::StartsWith(prefix) => after(path, prefix.len()),
            _ => None,
        }
    }
}

impl PathIs {
    fn new(matches: &Match) -> Result<Self, ConfigError> {
        let case = |path: String| if matches.ignore_path_case { path.to_ascii_lowercase() } else { path };
        let Match { path, path_prefix, path_starts_with, path_regex, .. } = matches;
        match (path, path_prefix, path_starts_with, path_regex) {
            (None, None, None, None) => Ok(Self::Any),
            (Some(path), None, None, None) => {
                Ok(Self::Exact(case(as_routed(rooted(path, "match.path")?).into_owned())))
            }
            (None, Some(prefix), None, None) => {
                Ok(Self::Prefix(case(as_routed(rooted(prefix, "match.path_prefix")?).into_owned())))
            }
            (None, None, Some(start), None) => {
                Ok(Self::StartsWith(case(as_routed_start(rooted(start, "match.path_starts_with")?))))
            }
            (None, None, None, Some(regex)) if matches.ignore_path_case => {
                Ok(Self::Regex(whole(&format!("(?i:{regex})"), "match.path_regex")?))
            }
            (None, None, None, Some(regex)) => Ok(Self::Regex(whole(regex, "match.path_regex")?)),
            _ => {
                let only = "match: one of path, path_prefix, path_starts_with and path_regex, not several";
                Err(ConfigError(only.into()))
            }
        }
    }

    fn accepts(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => path == exact,
            Self::Prefix(prefix) => starts_with_segments(path, prefix),
            Self::StartsWith(start) => path.starts_with(start.as_str()),
            Self::Regex(regex) => regex.is_match(path),
        }
    }
}

impl HostIs {
    fn new(host: &str) -> Self {
        let host = without_final_dot(host);
        match host.strip_prefix('*') {
            Some(below) => Self::Below(below.to_ascii_lowercase()),
            None => Self::This(host.to_owned()),
        }
    }

    fn accepts(&self, asked: &str) -> bool {
        match self {
            Self::This(host) => asked.eq_ignore_ascii_case(host),
            Self::Below(below) => {
                let end = asked.len().checked_sub(below.len()).and_then(|at| asked.get(at..));
                end.is_some_and(|end| asked.len() > below.len() && end.eq_ignore_ascii_case(below))
            }
        }
    }
}

fn rooted<'a>(path: &'a str, key: &str) -> Result<&'a str, ConfigError> {
    if path.starts_with('/') { Ok(path) } else { Err(ConfigError(format!("{key} must start with /"))) }
}

/// The parameters of a query, as they stand in the URI.
pub(crate) fn parameters(query: Option<&str>) -> impl Iterator<Item = (&str, &str)> {
    let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn starts_with_segments(path: &str, prefix: &str) -> bool {
    let Some(rest) = path.strip_prefix(prefix) else { return false };
    prefix.ends_with('/') || rest.is_empty() || rest.starts_with('/')
}

/// What a client means that names none: with TLS, of which the peer tells, another than without.
fn default_port<B>(request: &Request<B>) -> u16 {
    if request.extensions().get::<Arc<Peer>>().is_some() { 443 } else { 80 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(yaml: &str, request: http::request::Builder) -> bool {
        let matches: Match = serde_saphyr::from_str(yaml).unwrap();
        matched(&matches, &request.body(()).unwrap())
    }

    fn matched(matches: &Match, request: &Request<()>) -> bool {
        Matcher::new(matches).unwrap().accepts(request, &as_routed(request.uri().path()))
    }

    fn get(uri: &str) -> http::request::Builder {
        Request::builder().uri(uri).header("host", "shop.example:8080")
    }

    #[test]
    fn paths_match_by_whole_segments_and_hosts_without_port_or_case() {
        for (prefix, host, path, authority, expected) in [
            (Some("/api"), None, "/api", "a", true),
            (Some("/api"), None, "/api/x", "a", true),
            (Some("/api"), None, "/apix", "a", false),
            (Some("/api/"), None, "/api/x", "a", true),
            (Some("/"), None, "/anything", "a", true),
            (None, Some("Tagger"), "/", "tagger:8080", true),
            (None, Some("[::1]"), "/", "[::1]:8080", true),
            (None, Some("[::1]"), "/", "[::1]", true),
            (None, Some("tagger"), "/", "parser", false),
            (None, Some("*.example"), "/", "shop.Example:80", true),
            (None, Some("*.example"), "/", ".example", false),
            (None, Some("*.example"), "/", "example", false),
            (None, Some("*"), "/", "anything", true),
            // no route took a name that ends as resolvers have it
            (None, Some("shop.svc.cluster.local"), "/", "shop.svc.cluster.local.:80", true),
            (None, Some("shop.svc.cluster.local."), "/", "shop.svc.cluster.local", true),
            (None, Some("*.example"), "/", "shop.example.", true),
            (None, Some("shop"), "/", "shop..", false),
        ] {
            let matches = Match { path_prefix: prefix.map(Into::into), host: host.map(Into::into), ..Match::default() };
            let request = Request::builder().uri(path).header("host", authority).body(()).unwrap();
            assert_eq!(matched(&matches, &request), expected, "{matches:?} on {authority}{path}");
        }
    }

    #[test]
    fn a_port_that_is_not_named_is_that_of_the_scheme() {
        for (tls, port, expected) in [(false, 80, true), (false, 443, false), (true, 443, true), (true, 80, false)] {
            let mut request = Request::builder().header("host", "shop").body(()).unwrap();
            if tls {
                request.extensions_mut().insert(Arc::new(Peer::default()));
            }
            let matches: Match = serde_saphyr::from_str(&format!("port: {port}")).unwrap();
            assert_eq!(matched(&matches, &request), expected, "{tls} {port}");
        }
    }

    #[test]
    fn everything_that_is_asked_for_must_hold() {
        for (yaml, request, expected) in [
            ("path: /a", get("/a?x=1"), true),
            ("path: /a", get("/a/b"), false),
            ("path_regex: '/v[0-9]+/.*'", get("/v12/x"), true),
            ("path_regex: '/v[0-9]+'", get("/v1/x"), false),
            ("path_starts_with: /a", get("/apple"), true),
            ("path_starts_with: /a", get("/b"), false),
            ("{ path_prefix: /Ab, ignore_path_case: true }", get("/aB/x"), true),
            ("{ path_regex: '/A[bc]', ignore_path_case: true }", get("/aB"), true),
            ("path: /A", get("/a"), false),
            ("path: /a", get("//x/%2e%2E/./%61"), true),
            ("path: /%61", get("/a"), true),
            ("path: '/a%20b'", get("/a%20b"), true),
            ("path: /a/b", get("/a%2fb"), false),
            ("path: /a%2fb", get("/a%2Fb"), true),
            ("path_prefix: /admin", get("/x/../admin/y"), true),
            ("path_prefix: /x", get("/x/../admin"), false),
            ("path_starts_with: /.", get("//.git"), true),
            ("path_starts_with: /.", get("/a/.git"), false),
            ("path_regex: '/v[0-9]+/.*'", get("/v12/%2e/x"), true),
            ("hosts: [other, shop.example]", get("/"), true),
            ("hosts: [other]", get("/"), false),
            ("port: 8080", get("/"), true),
            ("port: 80", get("/"), false),
            ("authority: { exact: 'shop.example:8080' }", get("/"), true),
            ("authority: { exact: 'shop.example' }", get("/"), false),
            ("without_headers: { x-user: { exact: anna } }", get("/").header("x-user", "bert"), true),
            ("without_headers: { x-user: { present: true } }", get("/").header("x-user", "bert"), false),
            ("methods: [GET, PUT]", get("/").method("PUT"), true),
            ("methods: [GET]", get("/").method("POST"), false),
            ("headers: { x-user: { exact: anna } }", get("/").header("x-user", "bert").header("x-user", "anna"), true),
            ("headers: { x-user: { exact: anna } }", get("/"), false),
            ("headers: { x-user: { prefix: an } }", get("/").header("x-user", "anna"), true),
            ("headers: { x-user: { regex: 'a.*' } }", get("/").header("x-user", "banna"), false),
            ("headers: { x-user: { present: true } }", get("/").header("x-user", ""), true),
            ("headers: { x-user: { present: false } }", get("/").header("x-user", ""), false),
            ("query: { v: { exact: '2' } }", get("/?u=1&v=2"), true),
            ("query: { v: { exact: '2' } }", get("/?v=22"), false),
            ("query: { debug: { present: true } }", get("/?debug"), true),
            ("{ path_prefix: /a, methods: [GET], query: { v: { exact: '2' } } }", get("/a/b?v=2"), true),
            ("{ path_prefix: /a, methods: [PUT], query: { v: { exact: '2' } } }", get("/a/b?v=2"), false),
        ] {
            let shown = format!("{yaml} on {request:?}");
            assert_eq!(accepts(yaml, request), expected, "{shown}");
        }
    }

    #[test]
    fn what_cannot_be_compiled_is_named() {
        for (yaml, expected) in [
            ("{ path: /a, path_prefix: /b }", "not several"),
            ("path: a", "match.path must start with /"),
            ("path_regex: '('", "match.path_regex"),
            ("methods: ['G T']", "match.methods"),
            ("headers: { 'no name': { exact: a } }", "match.headers"),
            ("query: { v: { regex: '[' } }", "match.query.v"),
        ] {
            let matches: Match = serde_saphyr::from_str(yaml).unwrap();
            let why = Matcher::new(&matches).err().unwrap().0;
            assert!(why.contains(expected), "{yaml}: {why}");
        }
    }
}
