//! `HTTPMatchRequest` → [`Match`].

use http::Method;

use crate::{
    config::{ConfigError, Match, ValueMatch},
    istio::fields::Node,
};

/// What a rule's requests may look like: any of these; everything when the rule says nothing.
pub(super) fn matches(node: Option<Node<'_>>) -> Result<Vec<Match>, ConfigError> {
    let alternatives = node.map_or(Ok(Vec::new()), |node| node.list())?;
    if alternatives.is_empty() {
        return Ok(vec![Match::default()]);
    }
    alternatives.iter().map(one).collect()
}

fn one(node: &Node<'_>) -> Result<Match, ConfigError> {
    let fields = node.fields()?;
    let mut matches = Match::default();
    // it only names the match
    fields.map("name", |name| name.text().map(|_| ()))?;
    if let Some(uri) = fields.map("uri", |uri| string(&uri))? {
        match uri {
            ValueMatch::Exact(path) => matches.path = Some(path),
            ValueMatch::Prefix(start) => matches.path_starts_with = Some(start),
            ValueMatch::Regex(regex) => matches.path_regex = Some(regex),
            ValueMatch::Present(_) => {}
        }
    }
    matches.ignore_path_case = fields.map("ignoreUriCase", |node| node.boolean())?.unwrap_or(false);
    matches.authority = fields.map("authority", |node| string(&node))?;
    matches.methods = fields.map("method", |node| methods(&node))?.unwrap_or_default();
    matches.headers = fields.map("headers", |node| headers(&node))?.unwrap_or_default();
    matches.without_headers = fields.map("withoutHeaders", |node| headers(&node))?.unwrap_or_default();
    let query = fields.map("queryParams", |node| node.entries(|_, value| string(&value)))?;
    matches.query = query.unwrap_or_default();
    matches.port = fields.map("port", |node| node.whole())?;
    fields.map("scheme", |node| scheme(&node))?;
    fields.map("gateways", |node| super::virtual_service::check_mesh(&node.list()?))?;
    fields.done(&[
        ("sourceLabels", "a sidecar's outbound side has one source, its own workload: keep this rule in its file only"),
        ("sourceNamespace", "a sidecar knows no namespaces: keep this rule in the files of that namespace's workloads"),
        ("statPrefix", "metrics are named by the route: give the rule a name"),
    ])?;
    Ok(matches)
}

/// `{ exact | prefix | regex: text }`; `{}` asks that it is there.
fn string(node: &Node<'_>) -> Result<ValueMatch, ConfigError> {
    if node.is_empty_object() {
        return Ok(ValueMatch::Present(true));
    }
    let fields = node.fields()?;
    let exact = fields.map("exact", |node| node.text().map(|text| ValueMatch::Exact(text.into())))?;
    let prefix = fields.map("prefix", |node| node.text().map(|text| ValueMatch::Prefix(text.into())))?;
    let regex = fields.map("regex", |node| node.text().map(|text| ValueMatch::Regex(text.into())))?;
    fields.done(&[])?;
    let mut kinds = [exact, prefix, regex].into_iter().flatten();
    match (kinds.next(), kinds.next()) {
        (Some(only), None) => Ok(only),
        _ => Err(node.error("one of exact, prefix and regex must stand here")),
    }
}

fn headers(node: &Node<'_>) -> Result<std::collections::BTreeMap<String, ValueMatch>, ConfigError> {
    node.entries(|name, value| match name {
        "uri" | "scheme" | "method" | "authority" => {
            Err(value.error("is no field of a request: match it beside headers"))
        }
        _ => string(&value),
    })
}

fn methods(node: &Node<'_>) -> Result<Vec<String>, ConfigError> {
    let methods = match string(node)? {
        ValueMatch::Exact(method) => vec![method],
        ValueMatch::Regex(regex) => regex.trim_matches(['(', ')', '^', '$']).split('|').map(str::to_owned).collect(),
        ValueMatch::Present(_) => Vec::new(),
        ValueMatch::Prefix(_) => return Err(node.error("a prefix cannot be honoured: say exact, or regex: GET|PUT")),
    };
    let plain = |method: &String| {
        let letters = method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
        letters && Method::from_bytes(method.as_bytes()).is_ok()
    };
    match methods.iter().all(plain) {
        true => Ok(methods),
        false => Err(node.error("only methods can stand here: exact: GET, or regex: GET|PUT")),
    }
}

/// Outbound, a sidecar hears plain HTTP only.
fn scheme(node: &Node<'_>) -> Result<(), ConfigError> {
    match string(node)? {
        ValueMatch::Exact(scheme) if scheme == "http" => Ok(()),
        _ => {
            Err(node
                .error("cannot be honoured: an outbound listener hears http only, so say exact: http or leave it out"))
        }
    }
}
