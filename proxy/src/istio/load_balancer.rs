//! `LoadBalancerSettings` → `balance` and `prefer_local`.

use crate::{
    config::{Balance, ConfigError, CookieKey, HashOn, Upstream},
    istio::fields::Node,
};

/// Applies the settings to an upstream.
pub(super) fn apply(node: &Node<'_>, upstream: &mut Upstream, has_locality: bool) -> Result<(), ConfigError> {
    let fields = node.fields()?;
    let simple = fields.map("simple", |node| simple(&node))?;
    let hash = fields.map("consistentHash", |node| consistent_hash(&node))?;
    fields.map("localityLbSetting", |node| locality(&node, upstream, has_locality))?;
    fields.done(&[
        ("warmup", "a new endpoint is tried at once; its latency decides what it gets"),
        ("warmupDurationSecs", "a new endpoint is tried at once; its latency decides what it gets"),
    ])?;
    upstream.balance = match (simple, hash) {
        (Some(_), Some(_)) => return Err(fields.error("one of simple and consistentHash can stand here")),
        (Some(simple), None) => simple,
        (None, Some(on)) => Balance::RingHash(on),
        (None, None) => return Ok(()),
    };
    Ok(())
}

fn simple(node: &Node<'_>) -> Result<Balance, ConfigError> {
    match node.text()? {
        "UNSPECIFIED" => Ok(Balance::default()),
        "LEAST_REQUEST" | "LEAST_CONN" => Ok(Balance::LeastRequest),
        "ROUND_ROBIN" => Ok(Balance::RoundRobin),
        "RANDOM" => Ok(Balance::Random),
        "PASSTHROUGH" => Err(node.error(
            "PASSTHROUGH cannot be honoured: requests go to the upstream's endpoints, not to where the client meant",
        )),
        _ => Err(node.error("must be LEAST_REQUEST, ROUND_ROBIN or RANDOM")),
    }
}

fn consistent_hash(node: &Node<'_>) -> Result<HashOn, ConfigError> {
    let fields = node.fields()?;
    let header = fields.map("httpHeaderName", |node| node.text().map(|name| HashOn::Header(name.to_owned())))?;
    let query = fields.map("httpQueryParameterName", |node| node.text().map(|name| HashOn::Query(name.to_owned())))?;
    let cookie = fields.map("httpCookie", |node| cookie(&node))?;
    let source = fields.map("useSourceIp", |node| Ok(node.boolean()?.then_some(HashOn::SourceAddress)))?.flatten();
    fields.map("ringHash", |node| {
        let fields = node.fields()?;
        fields.done(&[("minimumRingSize", "an endpoint has 160 points for each unit of weight")])
    })?;
    fields.done(&[
        ("maglev", "say ringHash: {}"),
        ("minimumRingSize", "an endpoint has 160 points for each unit of weight"),
    ])?;
    let mut keys = [header, query, cookie, source].into_iter().flatten();
    match (keys.next(), keys.next()) {
        (Some(only), None) => Ok(only),
        _ => {
            Err(node.error("one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName must stand here"))
        }
    }
}

fn cookie(node: &Node<'_>) -> Result<HashOn, ConfigError> {
    let fields = node.fields()?;
    let name = fields.need("name")?.text()?.to_owned();
    let path = fields.map("path", |node| node.text().map(str::to_owned))?;
    let ttl_s = fields.map("ttl", |node| match node.text()? {
        "0s" => Ok(0),
        _ => Ok(node.millis()?.div_ceil(1_000)),
    })?;
    fields.done(&[("attributes", "a cookie is HttpOnly and has the path and age that are said")])?;
    Ok(HashOn::Cookie(CookieKey { name, path, ttl_s }))
}

fn locality(node: &Node<'_>, upstream: &mut Upstream, has_locality: bool) -> Result<(), ConfigError> {
    let fields = node.fields()?;
    let enabled = fields.map("enabled", |node| node.boolean())?.unwrap_or(true);
    fields.done(&[
        ("distribute", "requests stay near as far as endpoints there are healthy; say weights in proxy.yaml"),
        ("failover", "the next nearest takes over: zone, then region, then the rest; say priorities in proxy.yaml"),
        (
            "failoverPriority",
            "the next nearest takes over: zone, then region, then the rest; say priorities in proxy.yaml",
        ),
    ])?;
    if enabled && !has_locality {
        return Err(
            node.error("cannot be honoured: proxy.yaml does not say where the proxy runs; set its key locality")
        );
    }
    if enabled && upstream.outlier_detection.is_none() {
        return Err(node.error("cannot be honoured without outlierDetection: nothing would tell when to fail over"));
    }
    upstream.prefer_local = enabled;
    Ok(())
}
