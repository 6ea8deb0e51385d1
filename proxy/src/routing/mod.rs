//! Routes, compiled: which requests they take, where those go, and what becomes of them on the way.

mod edits;
mod matcher;
mod retry;
mod split;
mod value;

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Request, Uri, uri::PathAndQuery};
use weir_policy::Policy;

use crate::{
    authority::authority_of,
    config::{self, ConfigError, Direction, Fault, Redirect, Respond, Share},
    regulate::{Circuit, Gate, Priority},
    security::Peer,
    telemetry::RouteStats,
    traffic::Mirror,
    upstream::Upstream,
};

pub(crate) use edits::Edits;
pub(crate) use matcher::{Matcher, parameters};
pub(crate) use retry::RetryPolicy;
pub(crate) use split::{Split, Target};

/// One route of one listener.
pub(crate) struct Route {
    /// As configured, else the name of its first upstream's service.
    pub(crate) name: String,
    pub(crate) direction: Direction,
    pub(crate) destination: Destination,
    pub(crate) timeout: Duration,
    pub(crate) max_stream_duration: Option<Duration>,
    /// From the end of the request.
    pub(crate) answer_timeout: Option<Duration>,
    pub(crate) idle_timeout: Duration,
    pub(crate) retries: Option<RetryPolicy>,
    pub(crate) mirror: Option<Arc<Mirror>>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) circuit: Arc<Circuit>,
    pub(crate) priority: Priority,
    /// What the file limits it to.
    pub(crate) static_policy: Option<Policy>,
    pub(crate) stats: Arc<RouteStats>,
    pub(crate) fault: Fault,
    pub(crate) request_headers: Edits,
    pub(crate) response_headers: Edits,
    matcher: Matcher,
    new_path: Option<String>,
    new_host: Option<HeaderValue>,
}

/// Where a route stands in the configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing<'a> {
    /// The workload's.
    pub(crate) service: &'a str,
    pub(crate) direction: Direction,
    /// Where the route says none.
    pub(crate) timeout: Duration,
    pub(crate) idle_timeout: Duration,
}

/// Where a route's requests go.
pub(crate) enum Destination {
    Upstreams(Split),
    Elsewhere(Redirect),
    Here(Respond),
}

impl Route {
    /// Compiles what was validated; `upstream` finds one by name.
    pub(crate) fn new(
        route: &config::Route,
        standing: Standing<'_>,
        upstream: impl Fn(&str) -> Arc<Upstream>,
    ) -> Result<Self, ConfigError> {
        let destination = match (&route.redirect, &route.respond) {
            (Some(redirect), _) => Destination::Elsewhere(redirect.clone()),
            (None, Some(respond)) => Destination::Here(respond.clone()),
            (None, None) => {
                let one =
                    route.upstream.iter().map(|name| Share { upstream: name.clone(), weight: 1, ..Share::default() });
                let targets = one.chain(route.split.iter().cloned()).enumerate().map(|(n, share)| {
                    let (request_headers, response_headers) = share_edits(&share, n)?;
                    Ok((
                        Target { upstream: upstream(&share.upstream), request_headers, response_headers },
                        share.weight,
                    ))
                });
                Destination::Upstreams(Split::new(targets.collect::<Result<_, ConfigError>>()?))
            }
        };
        let named_after = match &destination {
            Destination::Upstreams(split) => split.first().map_or("unnamed", |first| &first.upstream.service),
            Destination::Elsewhere(_) => "redirect",
            Destination::Here(_) => "respond",
        };
        let name = route.name.clone().unwrap_or_else(|| named_after.to_owned());
        let answer_timeout = route.answer_timeout_ms.map(Duration::from_millis);
        let timeout = route.timeout_ms.map_or(standing.timeout, Duration::from_millis);
        Ok(Self {
            direction: standing.direction,
            // a head that came later would be cut off at once
            timeout: answer_timeout.map_or(timeout, |whole| timeout.min(whole)),
            priority: route.limits.priority,
            static_policy: route.limits.policy(standing.service, &name),
            name,
            max_stream_duration: route.max_stream_duration_ms.map(Duration::from_millis),
            answer_timeout,
            idle_timeout: route.idle_timeout_ms.map_or(standing.idle_timeout, Duration::from_millis),
            retries: route.retries.as_ref().map(RetryPolicy::new).transpose()?,
            mirror: route.mirror.as_ref().map(|mirror| Mirror::new(mirror, upstream(&mirror.upstream))),
            gate: Arc::default(),
            circuit: Arc::default(),
            stats: Arc::default(),
            fault: route.fault.clone(),
            request_headers: Edits::new(&route.request_headers, "request_headers")?,
            response_headers: Edits::new(&route.response_headers, "response_headers")?,
            matcher: Matcher::new(&route.matches)?,
            new_path: route.rewrite.path.clone(),
            new_host: route.rewrite.host.as_deref().map(host_value).transpose()?,
            destination,
        })
    }

    /// Shares limits, breaker and counts with the route of the same name before a reload, which no other
    /// may then have.
    pub(crate) fn known_by(mut self, known: &mut Vec<&Arc<Self>>) -> Self {
        let same = |route: &&Arc<Self>| route.name == self.name && route.direction == self.direction;
        if let Some(at) = known.iter().position(same) {
            let route = known.remove(at);
            self.gate = route.gate.clone();
            self.circuit = route.circuit.clone();
            self.stats = route.stats.clone();
            if let (Some(mirror), Some(before)) = (self.mirror.as_mut().and_then(Arc::get_mut), &route.mirror) {
                mirror.goes_on_from(before);
            }
        }
        self
    }

    /// Is counted together with those of its name among `counted`: routes without one are called after their upstream, and two
    /// series of the same name would be one that lies.
    pub(crate) fn counted_with(mut self, counted: &mut Vec<Arc<Self>>) -> Arc<Self> {
        let same = |route: &&Arc<Self>| route.name == self.name && route.direction == self.direction;
        if let Some(known) = counted.iter().find(same) {
            self.stats = known.stats.clone();
            return Arc::new(self);
        }
        let route = Arc::new(self);
        counted.push(route.clone());
        route
    }

    /// Whether it takes a request with `path`, as routes see it.
    pub(crate) fn accepts<B>(&self, request: &Request<B>, path: &str) -> bool {
        self.matcher.accepts(request, path)
    }

    /// How much of a request's body is kept as it passes.
    pub(crate) fn keeps_bytes(&self) -> usize {
        let retries = self.retries.as_ref().map_or(0, RetryPolicy::keeps_bytes);
        retries.max(self.mirror.as_ref().map_or(0, |mirror| mirror.body_bytes.max(1)))
    }

    /// Where the next request goes.
    pub(crate) fn next_target(&self) -> Option<&Target> {
        match &self.destination {
            Destination::Upstreams(split) => split.next(),
            Destination::Elsewhere(_) | Destination::Here(_) => None,
        }
    }

    /// All that its requests may go to, if to any.
    pub(crate) fn upstreams(&self) -> Option<impl Iterator<Item = &Upstream> + Clone> {
        match &self.destination {
            Destination::Upstreams(split) => Some(split.targets().iter().map(|target| target.upstream.as_ref())),
            Destination::Elsewhere(_) | Destination::Here(_) => None,
        }
    }

    /// Whom this route's policies regulate when it goes out.
    pub(crate) fn callee(&self) -> Option<&str> {
        match &self.destination {
            Destination::Upstreams(split) => split.first().map(|target| target.upstream.service.as_str()),
            Destination::Elsewhere(_) | Destination::Here(_) => None,
        }
    }

    /// The path as it goes on.
    pub(crate) fn path(&self, uri: &Uri) -> PathAndQuery {
        let asked = || uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let Some(new) = &self.new_path else { return asked() };
        let rest = self.matcher.after_prefix(uri.path()).unwrap_or_default();
        replaced(new, &rest, uri.query()).unwrap_or_else(asked)
    }

    /// The host as it goes on, if it changes.
    pub(crate) fn host(&self) -> Option<&HeaderValue> {
        self.new_host.as_ref()
    }
}

fn host_value(host: &str) -> Result<HeaderValue, ConfigError> {
    let usable = http::uri::Authority::try_from(host).ok().and_then(|_| HeaderValue::from_str(host).ok());
    usable.ok_or_else(|| ConfigError(format!("rewrite.host: {host:?} is not a host")))
}

/// A new beginning for a path; its slash does not come twice. Two at the very beginning would make a host of what follows.
fn replaced(new: &str, rest: &str, query: Option<&str>) -> Option<PathAndQuery> {
    let new = if new.ends_with('/') && rest.starts_with('/') { &new[..new.len() - 1] } else { new };
    let path = match new {
        "" => format!("/{}", rest.trim_start_matches('/')),
        new => format!("{new}{rest}"),
    };
    let whole = query.map_or(path.clone(), |query| format!("{path}?{query}"));
    PathAndQuery::try_from(whole).ok()
}

fn share_edits(share: &Share, n: usize) -> Result<(Edits, Edits), ConfigError> {
    let request = Edits::new(&share.request_headers, &format!("split[{n}].request_headers"))?;
    Ok((request, Edits::new(&share.response_headers, &format!("split[{n}].response_headers"))?))
}

/// Checks what only compiling tells.
pub(crate) fn check(route: &config::Route) -> Result<(), ConfigError> {
    Edits::new(&route.request_headers, "request_headers")?;
    Edits::new(&route.response_headers, "response_headers")?;
    route.split.iter().enumerate().try_for_each(|(n, share)| share_edits(share, n).map(|_| ()))?;
    route.rewrite.host.as_deref().map(host_value).transpose()?;
    route.retries.as_ref().map(RetryPolicy::new).transpose()?;
    Matcher::new(&route.matches).map(|_| ())
}

/// Where a client is sent. `None` when its own request does not make a valid address. Who came by TLS stays with it: what a
/// hop before says in `x-forwarded-proto` is no proof, and nothing here believes it.
pub(crate) fn location<B>(redirect: &Redirect, request: &Request<B>) -> Option<HeaderValue> {
    let uri = request.uri();
    let path = redirect.path.as_deref().unwrap_or_else(|| uri.path());
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let relative = redirect.host.is_none() && redirect.scheme.is_none();
    let address = if relative {
        format!("{path}{query}")
    } else {
        let host = redirect.host.as_deref().or_else(|| authority_of(request))?;
        let asked = if request.extensions().get::<Arc<Peer>>().is_some() { "https" } else { "http" };
        format!("{}://{host}{path}{query}", redirect.scheme.as_deref().unwrap_or(asked))
    };
    HeaderValue::try_from(address).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_gets_a_new_beginning() {
        for (new, rest, query, expected) in [
            ("/v2", "/x", None, "/v2/x"),
            ("/v2", "", Some("a=1"), "/v2?a=1"),
            ("/v2/", "/x", None, "/v2/x"),
            ("/", "/x", None, "/x"),
            ("/", "", None, "/"),
            ("", "x", None, "/x"),
            ("/", "//evil.example/x", None, "/evil.example/x"),
            ("", "///evil.example/x", Some("a=//b"), "/evil.example/x?a=//b"),
            ("/", "//", None, "/"),
            ("/v2", "//x//y", None, "/v2//x//y"),
        ] {
            assert_eq!(replaced(new, rest, query).unwrap(), expected, "{new:?} before {rest:?}");
        }
    }

    #[test]
    fn clients_are_sent_where_the_redirect_says() {
        let plain = Request::builder().uri("/a?b=1").header("host", "shop:8080").body(()).unwrap();
        let mut secured = plain.clone();
        secured.extensions_mut().insert(Arc::new(Peer::default()));
        let redirect = |path: Option<&str>, host: Option<&str>, scheme: Option<&str>| Redirect {
            path: path.map(Into::into),
            host: host.map(Into::into),
            scheme: scheme.map(Into::into),
            ..Redirect::default()
        };
        for (redirect, request, expected) in [
            (redirect(Some("/new"), None, None), &plain, "/new?b=1"),
            (redirect(Some("/new"), None, None), &secured, "/new?b=1"),
            (redirect(None, Some("other"), None), &plain, "http://other/a?b=1"),
            // they were sent to http://
            (redirect(None, Some("other"), None), &secured, "https://other/a?b=1"),
            (redirect(None, None, Some("https")), &plain, "https://shop:8080/a?b=1"),
            (redirect(None, None, Some("http")), &secured, "http://shop:8080/a?b=1"),
        ] {
            assert_eq!(location(&redirect, request).unwrap(), expected);
        }
    }
}
