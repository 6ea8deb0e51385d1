//! `TrafficPolicy` → the keys of an upstream.

use std::num::NonZeroU32;

use crate::{
    config::{ConfigError, OutlierDetection, Protocol, RetryBudget, Upstream},
    istio::{fields::Node, load_balancer},
};

/// Applies a policy to an upstream. As in Istio each block takes the place of one that was there: what it leaves out is as in
/// `unruled`, the upstream of `proxy.yaml`.
pub(super) fn apply(
    node: &Node<'_>,
    upstream: &mut Upstream,
    unruled: &Upstream,
    has_locality: bool,
) -> Result<(), ConfigError> {
    let fields = node.fields()?;
    fields.map("outlierDetection", |node| outlier_detection(&node, upstream))?;
    fields.map("loadBalancer", |node| {
        (upstream.balance, upstream.prefer_local) = (unruled.balance.clone(), unruled.prefer_local);
        load_balancer::apply(&node, upstream, has_locality)
    })?;
    fields.map("connectionPool", |node| {
        forget_pool(upstream, unruled);
        connection_pool(&node, upstream)
    })?;
    fields.map("retryBudget", |node| {
        let max_retries = upstream.retry_budget.max_retries;
        upstream.retry_budget = RetryBudget { max_retries, ..unruled.retry_budget };
        retry_budget(&node, upstream)
    })?;
    fields.map("tls", |node| tls(&node, upstream))?;
    fields.done(&[
        ("portLevelSettings", "an upstream is one port: give each port an upstream and a DestinationRule"),
        ("tunnel", "reach the destination directly"),
        ("proxyProtocol", "no PROXY header is sent"),
    ])
}

/// Says that there is none; how it is spoken stands in `proxy.yaml` alone.
fn tls(node: &Node<'_>, upstream: &Upstream) -> Result<(), ConfigError> {
    let fields = node.fields()?;
    let mode = fields.need("mode")?;
    if mode.text()? != "DISABLE" {
        return Err(node.error("cannot be honoured: only mode: DISABLE; TLS is set up in proxy.yaml"));
    }
    if upstream.tls.is_some() {
        let why = format!("cannot be honoured: upstream {:?} has tls in proxy.yaml: remove one of both", upstream.name);
        return Err(mode.error(&why));
    }
    fields.done(&[])
}

/// Everything that a `connectionPool` can say.
fn forget_pool(upstream: &mut Upstream, unruled: &Upstream) {
    upstream.connect_timeout_ms = unruled.connect_timeout_ms;
    upstream.max_connections = unruled.max_connections;
    upstream.max_requests = unruled.max_requests;
    upstream.max_pending_requests = unruled.max_pending_requests;
    upstream.max_requests_per_connection = unruled.max_requests_per_connection;
    upstream.pool_idle_ms = unruled.pool_idle_ms;
    upstream.retry_budget.max_retries = unruled.retry_budget.max_retries;
    upstream.protocol = unruled.protocol;
}

fn connection_pool(node: &Node<'_>, upstream: &mut Upstream) -> Result<(), ConfigError> {
    let fields = node.fields()?;
    fields.map("tcp", |node| {
        let fields = node.fields()?;
        if let Some(connect_timeout_ms) = fields.map("connectTimeout", |node| node.millis())? {
            upstream.connect_timeout_ms = Some(connect_timeout_ms);
        }
        if let Some(max) = fields.map("maxConnections", |node| positive(&node))? {
            upstream.max_connections = Some(max);
        }
        fields.done(&[
            ("tcpKeepalive", "every connection is kept an eye on already, a dead peer is noticed within 30 s"),
            ("maxConnectionDuration", "connections are kept as long as they are used"),
            ("idleTimeout", "say http.idleTimeout"),
        ])
    })?;
    fields.map("http", |node| http(&node, upstream))?;
    fields.done(&[])?;
    let bounded = upstream.max_connections.is_some() || upstream.max_requests_per_connection.is_some();
    if bounded && upstream.protocol == Protocol::H2 {
        return Err(node.error(
            "tcp.maxConnections and http.maxRequestsPerConnection cannot be honoured with HTTP/2: say http.http2MaxRequests",
        ));
    }
    Ok(())
}

fn http(node: &Node<'_>, upstream: &mut Upstream) -> Result<(), ConfigError> {
    let fields = node.fields()?;
    if let Some(max) = fields.map("http2MaxRequests", |node| positive(&node))? {
        upstream.max_requests = Some(max);
    }
    if let Some(pending) = fields.map("http1MaxPendingRequests", |node| node.whole())? {
        upstream.max_pending_requests = Some(pending);
    }
    // 0 is no bound, as it is when it is not said
    if let Some(most) = fields.map("maxRequestsPerConnection", |node| node.whole())? {
        upstream.max_requests_per_connection = NonZeroU32::new(most);
    }
    if let Some(pool_idle_ms) = fields.map("idleTimeout", |node| node.millis())? {
        upstream.pool_idle_ms = Some(pool_idle_ms);
    }
    if let Some(max) = fields.map("maxRetries", |node| positive(&node))? {
        upstream.retry_budget.max_retries = Some(max.get());
    }
    fields.map("h2UpgradePolicy", |node| match node.text()? {
        "DEFAULT" => Ok(()),
        "UPGRADE" => {
            upstream.protocol = Protocol::H2;
            Ok(())
        }
        "DO_NOT_UPGRADE" => {
            upstream.protocol = Protocol::Http1;
            Ok(())
        }
        _ => Err(node.error("must be DEFAULT, UPGRADE or DO_NOT_UPGRADE")),
    })?;
    fields.map("useClientProtocol", |node| match node.boolean()? {
        false => Ok(()),
        true => Err(node.error("cannot be honoured: set the upstream's protocol in proxy.yaml")),
    })?;
    fields.done(&[("maxConcurrentStreams", "say http2MaxRequests")])
}

fn outlier_detection(node: &Node<'_>, upstream: &mut Upstream) -> Result<(), ConfigError> {
    let fields = node.fields()?;
    // Istio's defaults where they are not ours
    let mut outlier =
        OutlierDetection { consecutive_gateway_errors: 0, max_ejection_percent: 10, ..Default::default() };
    let whole = |name, default| Ok(fields.map(name, |node: Node<'_>| node.whole())?.unwrap_or(default));
    let millis = |name, default| Ok(fields.map(name, |node: Node<'_>| node.millis())?.unwrap_or(default));
    outlier.consecutive_5xx = whole("consecutive5xxErrors", outlier.consecutive_5xx)?;
    outlier.consecutive_gateway_errors = whole("consecutiveGatewayErrors", outlier.consecutive_gateway_errors)?;
    outlier.interval_ms = millis("interval", outlier.interval_ms)?;
    outlier.base_ejection_time_ms = millis("baseEjectionTime", outlier.base_ejection_time_ms)?;
    outlier.max_ejection_time_ms = outlier.max_ejection_time_ms.max(outlier.base_ejection_time_ms);
    if let Some(percent) = fields.map("maxEjectionPercent", |node| node.percent())? {
        outlier.max_ejection_percent = percent as u8;
    }
    let panic = fields.map("minHealthPercent", |node| node.percent())?.unwrap_or(0.0);
    fields.done(&[
        ("consecutiveErrors", "say consecutive5xxErrors or consecutiveGatewayErrors"),
        ("splitExternalLocalOriginErrors", "a connection that fails counts as a gateway error"),
        ("consecutiveLocalOriginFailures", "a connection that fails counts as a gateway error"),
    ])?;
    upstream.outlier_detection = Some(outlier);
    upstream.panic_threshold_percent = Some(panic as u8);
    Ok(())
}

fn retry_budget(node: &Node<'_>, upstream: &mut Upstream) -> Result<(), ConfigError> {
    let fields = node.fields()?;
    if let Some(percent) = fields.map("percent", |node| node.percent())? {
        upstream.retry_budget.budget_percent = percent as u32;
    }
    if let Some(floor) = fields.map("minRetryConcurrency", |node| node.whole())? {
        upstream.retry_budget.min_retry_concurrency = floor;
    }
    fields.done(&[])
}

fn positive(node: &Node<'_>) -> Result<NonZeroU32, ConfigError> {
    NonZeroU32::new(node.whole()?).ok_or_else(|| node.error("must be at least 1"))
}
