//! [`what_if`]: the mesh with one service changed: more or fewer arrivals, of one operation or all, other servers, another
//! service time. What it does to every queue, and to a request at every entry.
//!
//! 1. `traffic`: arrivals propagate along edges in proportion to the calls each caller makes now.
//! 2. `queues`: every queue is solved again by its own model; or all at once, where clients wait for their answers (`closed`). A
//!    model server is replayed (`batches`).
//! 3. `entries`: recorded requests are timed again with the own work of each service as it is then.
//!
//! The range holds the intervals of λ, S, ca² and cs², the error of the models as measured against simulation, that of the
//! requests looked at, and the chance in what is measured now, by its scatter between windows or by how long its queues remember, whichever is more; what is in doubt at different services is independent, so it adds in squares.

mod batches;
mod change;
mod closed;
mod entries;
mod queues;
mod traffic;

use std::collections::BTreeMap;

pub use change::{Change, WhatIfError};
use serde::{Deserialize, Serialize};

use crate::{
    lm::LmPrediction,
    reach::entering,
    snapshot::{NodeKind, ServiceView, Snapshot},
};

/// What follows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Services whose queue or rate changes, by name.
    pub services: Vec<ServicePrediction>,
    /// Every entry.
    pub entries: Vec<EntryPrediction>,
}

/// One service before and after.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServicePrediction {
    /// Its name.
    pub service: String,
    /// λ now.
    pub arrival_rate_per_s: f64,
    /// λ then.
    pub arrival_rate_per_s_then: f64,
    /// ρ then; `None` when c or S is not known.
    pub utilization_then: Option<f64>,
    /// Wq now, as measured; of a model server as replayed.
    pub queue_wait_ms: Option<f64>,
    /// Wq then; `None` when not known, or when the queue would grow without bound.
    pub queue_wait_ms_then: Option<f64>,
    /// Lower end of its 95 % range.
    #[serde(default)]
    pub queue_wait_low_ms: Option<f64>,
    /// The upper end; `None` when within its range it may grow without bound.
    #[serde(default)]
    pub queue_wait_high_ms: Option<f64>,
    /// Share of requests refused then, where a limit is in force.
    #[serde(default)]
    pub refused_ratio_then: Option<f64>,
    /// Whether more would arrive than it can serve.
    pub saturated: bool,
    /// Why nothing is said of its queue.
    pub reason: Option<String>,
    /// Of a model server: times to first token and per token, and its batch, then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lm_then: Option<LmPrediction>,
}

/// A request at an entry before and after.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EntryPrediction {
    /// Where traffic enters.
    pub entry: String,
    /// Mean response time now, milliseconds.
    pub response_time_ms: f64,
    /// Then; `None` when a service on the way saturates.
    pub response_time_ms_then: Option<f64>,
    /// The 95 % range of it.
    pub low_ms: Option<f64>,
    /// Its other end.
    pub high_ms: Option<f64>,
    /// Recorded requests that were timed again; 0 when only the shares of edges were known.
    #[serde(default)]
    pub requests: u64,
    /// Services on the way of which nothing is known: their wait is taken not to change.
    pub not_identified: Vec<String>,
}

/// Solves the mesh with `change`.
///
/// # Errors
/// A [`WhatIfError`] when the change names what is not there or cannot be.
pub fn what_if(snapshot: &Snapshot, change: &Change) -> Result<Prediction, WhatIfError> {
    let factors = change.factors(snapshot)?;
    let effects = effects(snapshot, change, factors);
    let services = snapshot.services.iter().filter_map(|service| effects[service.service.as_str()].view(service));
    let entries = entering(snapshot).into_iter().map(|entry| entries::predict(entry, snapshot, &effects));
    Ok(Prediction { services: services.collect(), entries: entries.collect() })
}

/// What a request at an entry takes when so many times as many enter there; `None` when nobody does now.
pub(crate) fn more_at(snapshot: &Snapshot, entry: &str, arrivals: f64) -> Option<EntryPrediction> {
    let change = Change { service: entry.to_owned(), operation: None, arrivals, servers: 0, service_time: 1.0 };
    let effects = effects(snapshot, &change, change.factors(snapshot).ok()?);
    let entry = services(snapshot).find(|service| service.service == entry)?;
    Some(entries::predict(entry, snapshot, &effects))
}

/// What changes at each service.
fn effects<'a>(snapshot: &'a Snapshot, change: &Change, factors: change::Factors) -> BTreeMap<&'a str, queues::Effect> {
    let looped = closed::Loop::solve(snapshot, change, &factors);
    let rates = match &looped {
        Some(looped) => looped.rates(snapshot),
        None => traffic::rates(snapshot, &change.service, factors.arrivals),
    };
    let effect = |service: &'a ServiceView| {
        let name = service.service.as_str();
        let own = if change.service == service.service { factors } else { change::Factors::NONE };
        (name, queues::Effect::of(service, &own, rates[name], looped.as_ref().and_then(|looped| looped.wait(name))))
    };
    snapshot.services.iter().map(effect).collect()
}

fn services(snapshot: &Snapshot) -> impl Iterator<Item = &ServiceView> {
    snapshot.services.iter().filter(|service| service.kind == NodeKind::Service)
}

#[cfg(test)]
mod tests;
