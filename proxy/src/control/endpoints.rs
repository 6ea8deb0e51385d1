//! `/endpoints`: the registry as it stands: every endpoint with where it came from, its health and its load.

use std::{collections::BTreeMap, sync::atomic::Ordering::Relaxed};

use serde::Serialize;
use tokio::time::{Duration, Instant};

use crate::{config::Locality, upstream::Endpoint, workload::Workload};

#[derive(Serialize)]
struct UpstreamRow<'a> {
    name: &'a str,
    service: &'a str,
    source: &'static str,
    /// How long the source could not be asked by now, while the last endpoints are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    failing_ms: Option<u64>,
    endpoints: Vec<EndpointRow>,
}

#[derive(Serialize)]
struct EndpointRow {
    address: String,
    weight: u32,
    priority: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    locality: Option<Locality>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    healthy: bool,
    /// Until it is no longer left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    ejected_ms: Option<u64>,
    /// Until the end of the rest that it asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    resting_ms: Option<u64>,
    in_flight: u32,
    latency_ms: f64,
}

/// As JSON.
pub(crate) fn json(workload: &Workload) -> String {
    let now = Instant::now();
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let row = |endpoint: &Endpoint| {
        let ejected_until = endpoint.health.ejected_until(now);
        EndpointRow {
            address: endpoint.spec.address.clone(),
            weight: endpoint.spec.weight,
            priority: endpoint.spec.priority,
            locality: endpoint.spec.locality.clone(),
            labels: endpoint.spec.labels.clone(),
            healthy: ejected_until.is_none(),
            ejected_ms: ejected_until.map(|until| millis(until.duration_since(now))),
            resting_ms: endpoint.rest.left(now).map(millis),
            in_flight: endpoint.in_flight.load(Relaxed),
            latency_ms: endpoint.latency.lock().seconds(now) * 1e3,
        }
    };
    let upstreams = workload.upstreams.iter().map(|upstream| UpstreamRow {
        name: &upstream.name,
        service: &upstream.service,
        source: upstream.source,
        failing_ms: upstream.failing_since.lock().map(|since| millis(now.duration_since(since))),
        endpoints: upstream.endpoints().iter().map(|endpoint| row(endpoint)).collect(),
    });
    serde_json::to_string_pretty(&upstreams.collect::<Vec<_>>()).unwrap_or_default()
}
