//! `HTTPRoute` → [`Route`], and what its requests look like.

use crate::{
    config::{
        Abort, ConfigError, Delay, Fault, HeaderEdits, Match, Mirror, Redirect, Respond, Retries, Rewrite, Route, Share,
    },
    istio::{
        destination::Registry,
        fields::{Fields, Node},
        http_match,
    },
};

/// Compiles a rule; `retry_all` is whether POST and PATCH may go out again.
pub(super) fn compile(
    node: &Node<'_>,
    registry: &Registry,
    retry_all: bool,
) -> Result<(Route, Vec<Match>), ConfigError> {
    let fields = node.fields()?;
    if let Some(here) = ["redirect", "directResponse"].into_iter().find(|name| fields.has(name)) {
        refuse_beside(here, &fields)?;
    }
    let mut matches = http_match::matches(fields.get("match"))?;
    let (request_headers, response_headers) = fields.map("headers", |node| headers(&node))?.unwrap_or_default();
    // in Istio it bounds the whole answer, from the end of the request
    let timeout_ms = fields.map("timeout", |node| node.millis())?;
    let mut route = Route {
        name: fields.map("name", |name| name.text().map(str::to_owned))?,
        request_headers,
        response_headers,
        redirect: fields.map("redirect", |node| redirect(&node))?,
        respond: fields.map("directResponse", |node| respond(&node))?,
        timeout_ms,
        answer_timeout_ms: timeout_ms,
        retries: fields.map("retries", |node| retries(&node, retry_all))?,
        fault: fields.map("fault", |node| fault(&node))?.unwrap_or_default(),
        mirror: mirror(&fields, registry)?,
        ..Route::default()
    };
    destinations(&fields, registry, &mut route)?;
    if let Some(rewrite) = fields.map("rewrite", |node| rewrite(&node))? {
        if rewrite.path.is_some() {
            matches.iter_mut().for_each(from_the_root);
        }
        route.rewrite = rewrite;
    }
    fields.done(&[
        ("corsPolicy", "answer CORS in the application"),
        ("delegate", "put the rules of the delegate here"),
        ("mirror_percent", "say mirrorPercentage"),
        ("mirrorPercent", "say mirrorPercentage: { value: … }"),
    ])?;
    let places = [route.upstream.is_some(), !route.split.is_empty(), route.redirect.is_some(), route.respond.is_some()];
    match places.iter().filter(|there| **there).count() {
        1 => Ok((route, matches)),
        _ => Err(node.error("one of route, redirect and directResponse says where requests go")),
    }
}

/// Refuses what is said of requests that go on, where they are answered by `here`.
fn refuse_beside(here: &str, fields: &Fields<'_>) -> Result<(), ConfigError> {
    let why = format!("cannot be honoured beside {here}, which sends the request nowhere: remove one of both");
    let of_requests = ["rewrite", "timeout", "retries", "mirror", "mirrors", "mirrorPercentage"];
    let headers = fields.map("headers", |node| node.fields())?;
    let refused = of_requests.into_iter().find_map(|name| fields.get(name));
    match refused.or_else(|| headers.and_then(|headers| headers.get("request"))) {
        Some(node) => Err(node.error(&why)),
        None => Ok(()),
    }
}

/// A rewrite without a match by path replaces the `/` that every path begins with.
fn from_the_root(matches: &mut Match) {
    let by_path = matches.path.is_some() || matches.path_starts_with.is_some() || matches.path_regex.is_some();
    if !by_path {
        matches.path_starts_with = Some("/".to_owned());
    }
}

fn destinations(fields: &Fields<'_>, registry: &Registry, route: &mut Route) -> Result<(), ConfigError> {
    for destination in &fields.list("route")? {
        let of = destination.fields()?;
        let upstream = registry.upstream(&of.need("destination")?)?;
        let weight = of.map("weight", |node| node.whole())?.unwrap_or(0);
        let (request_headers, response_headers) = of.map("headers", |node| headers(&node))?.unwrap_or_default();
        of.done(&[])?;
        route.split.push(Share { upstream, weight, request_headers, response_headers });
    }
    match route.split.as_mut_slice() {
        // the only destination gets everything, whatever its weight
        [only] => only.weight = 1,
        several => {
            let nothing = !several.is_empty() && several.iter().all(|share| share.weight == 0);
            return if nothing { Err(fields.error("route: every weight is 0")) } else { Ok(()) };
        }
    }
    Ok(())
}

fn headers(node: &Node<'_>) -> Result<(HeaderEdits, HeaderEdits), ConfigError> {
    let edits = |node: Node<'_>| {
        let fields = node.fields()?;
        let values = |name| fields.map(name, |node: Node<'_>| node.entries(|name, value| field(name, &value)));
        let remove = fields.list("remove")?;
        let remove = remove.iter().map(|node| field(node.text()?, node)).collect::<Result<Vec<_>, _>>()?;
        let edits =
            HeaderEdits { remove, set: values("set")?.unwrap_or_default(), add: values("add")?.unwrap_or_default() };
        fields.done(&[])?;
        Ok(edits)
    };
    let fields = node.fields()?;
    let request = fields.map("request", edits)?.unwrap_or_default();
    let response = fields.map("response", edits)?.unwrap_or_default();
    fields.done(&[])?;
    Ok((request, response))
}

/// The text of a value, unless it changes what the proxy itself is asked by or cannot be a plain text.
fn field(name: &str, value: &Node<'_>) -> Result<String, ConfigError> {
    let text = value.text()?;
    if name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority") {
        return Err(value.error("cannot be honoured: the host is changed by rewrite.authority"));
    }
    if text.contains('%') && text.matches('%').count() > 1 {
        return Err(value.error("cannot be honoured: Envoy's %COMMANDS% are not evaluated, so say a plain value"));
    }
    Ok(text.to_owned())
}

fn redirect(node: &Node<'_>) -> Result<Redirect, ConfigError> {
    let fields = node.fields()?;
    let path = fields.map("uri", |node| match node.text()? {
        text if text.contains('%') => Err(node.error("cannot be honoured: %PREFIX()% is not evaluated, so say a path")),
        text => Ok(text.to_owned()),
    })?;
    let authority = fields.map("authority", |node| node.text().map(str::to_owned))?;
    let port = fields.map("port", |node| Ok((node.clone(), node.whole::<u16>()?)))?;
    let scheme = fields.map("scheme", |node| match node.text()? {
        scheme @ ("http" | "https") => Ok(scheme.to_owned()),
        _ => Err(node.error("must be http or https")),
    })?;
    let status = fields.map("redirectCode", |node| match node.whole()? {
        status @ (301 | 302 | 303 | 307 | 308) => Ok(status),
        _ => Err(node.error("must be 301, 302, 303, 307 or 308")),
    })?;
    fields.done(&[("derivePort", "say port")])?;
    let host = match (authority, port) {
        (Some(authority), Some((_, port))) => Some(format!("{authority}:{port}")),
        (authority, None) => authority,
        (None, Some((node, _))) => return Err(node.error("cannot be honoured without authority: say both")),
    };
    Ok(Redirect { path, host, scheme, status: status.unwrap_or(301) })
}

fn respond(node: &Node<'_>) -> Result<Respond, ConfigError> {
    let fields = node.fields()?;
    let status = fields.need("status")?;
    let code = status.whole()?;
    if !(200..600).contains(&code) {
        return Err(status.error("must be from 200 to 599"));
    }
    let body = fields.map("body", |node| {
        let fields = node.fields()?;
        let text = fields.map("string", |node| node.text().map(str::to_owned))?;
        fields.done(&[("bytes", "say string")])?;
        Ok(text.unwrap_or_default())
    })?;
    fields.done(&[])?;
    Ok(Respond { status: code, body: body.unwrap_or_default() })
}

fn rewrite(node: &Node<'_>) -> Result<Rewrite, ConfigError> {
    let fields = node.fields()?;
    let path = fields.map("uri", |node| node.text().map(str::to_owned))?;
    let host = fields.map("authority", |node| node.text().map(str::to_owned))?;
    fields.done(&[("uriRegexRewrite", "match the prefix and say uri")])?;
    Ok(Rewrite { path, host })
}

/// None at all where it asks for none: without a word what never arrived would go out once more.
fn retries(node: &Node<'_>, non_idempotent: bool) -> Result<Retries, ConfigError> {
    let fields = node.fields()?;
    let mut retries = Retries { non_idempotent, ..Retries::default() };
    retries.attempts = fields.map("attempts", |node| node.whole())?.unwrap_or(retries.attempts);
    retries.per_try_timeout_ms = fields.map("perTryTimeout", |node| node.millis())?;
    if let Some(backoff_ms) = fields.map("backoff", |node| node.millis())? {
        retries.backoff_ms = backoff_ms;
        retries.max_backoff_ms = backoff_ms.saturating_mul(10);
    }
    if let Some(node) = fields.get("retryOn") {
        retries.on = node.text()?.split(',').map(|word| word.trim().to_owned()).collect();
        let checked = crate::routing::RetryPolicy::new(&retries);
        checked.map_err(|error| node.error(error.0.trim_start_matches("retries.on: ")))?;
    }
    fields.map("retryIgnorePreviousHosts", |node| match node.boolean()? {
        true => Ok(()),
        false => Err(node.error("cannot be honoured: a retry goes to another endpoint as long as there is one")),
    })?;
    fields.done(&[("retryRemoteLocalities", "a retry goes wherever the balance sends it")])?;
    Ok(retries)
}

fn fault(node: &Node<'_>) -> Result<Fault, ConfigError> {
    let fields = node.fields()?;
    let delay = fields.map("delay", |node| {
        let fields = node.fields()?;
        let ms = fields.need("fixedDelay")?.millis()?;
        let percentage = fields.get("percentage");
        fields.done(&[("percent", "say percentage: { value: … }"), ("exponentialDelay", "say fixedDelay")])?;
        let percent = share_of_faults(&fields, percentage)?;
        Ok(Delay { percent, ms })
    })?;
    let abort = fields.map("abort", |node| {
        let fields = node.fields()?;
        let percentage = fields.get("percentage");
        let status = fields.map("httpStatus", |node| match node.whole()? {
            status @ 200..600 => Ok(status),
            _ => Err(node.error("must be from 200 to 599")),
        })?;
        fields.done(&[
            ("percent", "say percentage: { value: … }"),
            ("grpcStatus", "say httpStatus: gRPC clients are told what it means there"),
            ("http2Error", "say httpStatus"),
        ])?;
        let status = status.ok_or_else(|| fields.error("httpStatus is missing"))?;
        let percent = share_of_faults(&fields, percentage)?;
        Ok(Abort { percent, status })
    })?;
    fields.done(&[])?;
    Ok(Fault { delay, abort })
}

/// Istio injects nothing where no percentage is said; here that would be a fault without effect, so it is asked for.
fn share_of_faults(fields: &Fields<'_>, percentage: Option<Node<'_>>) -> Result<f64, ConfigError> {
    let missing = || fields.error("percentage is missing: without it Istio injects nothing");
    percentage.ok_or_else(missing)?.percentage()
}

fn mirror(fields: &Fields<'_>, registry: &Registry) -> Result<Option<Mirror>, ConfigError> {
    let one = fields.map("mirror", |node| registry.upstream(&node))?;
    let percentage = fields.get("mirrorPercentage");
    let several = fields.list("mirrors")?;
    let (upstream, percent) = match (one, several.as_slice()) {
        (None, []) => return Ok(None),
        (Some(upstream), []) => (upstream, percentage.map_or(Ok(100.0), |node| node.percentage())?),
        (None, [only]) => {
            let fields = only.fields()?;
            let upstream = registry.upstream(&fields.need("destination")?)?;
            let percent = fields.map("percentage", |node| node.percentage())?;
            fields.done(&[])?;
            (upstream, percent.unwrap_or(100.0))
        }
        (Some(_), [more, ..]) | (None, [_, more, ..]) => {
            return Err(more.error("cannot be honoured: a request is mirrored to one place"));
        }
    };
    Ok(Some(Mirror { percent, ..Mirror::to(upstream) }))
}
