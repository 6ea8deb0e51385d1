//! [`what_if`]: the mesh with one service changed: more or fewer arrivals, of one operation or all, other servers, another
//! service time. What it does to every queue, and to a request at every entry.
//!
//! 1. `traffic`: arrivals propagate along edges in proportion to the calls each caller makes now; `mix`: where recorded requests tell who asks for
//!    what, in proportion to the calls that those make which come more often, and services then serve another mix of requests.
//! 2. `queues`: every queue is solved again by its own model; or all at once, where clients wait for their answers (`closed`). A
//!    model server is replayed (`batches`).
//! 3. `entries`: recorded requests are timed again with the own work of each service as it is then.
//!
//! Now is the end of the newest window: waits and response times are those of the last windows that are alike, moved by the model to the
//! newest arrivals where these rise or fall. More arrivals never wait less, and fewer never longer: where the noise of what is
//! measured says so, it is as now.
//!
//! The range holds the intervals of λ, S, ca² and cs², the error of the models as measured against simulation, that of the
//! requests looked at, and the chance in what is measured now, by its scatter between windows or by how long its queues remember, whichever is more; what is in doubt at different services is independent, so it adds in squares.

mod batches;
mod change;
mod closed;
mod entries;
mod mix;
mod queues;
mod traffic;
mod unknown;

pub use change::{Change, WhatIfError};
use serde::{Deserialize, Serialize};

use traffic::Calls;
use weir_schema::UnixNanos;

use crate::{
    lm::LmPrediction,
    reach::entering,
    snapshot::{NodeKind, ServiceView, Snapshot},
};

/// What follows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// End of the window that it starts from: its rates are now.
    #[serde(default)]
    pub time_unix_nano: UnixNanos,
    /// The length of that window.
    #[serde(default)]
    pub window_ms: u64,
    /// Services whose queue or rate changes, by name.
    pub services: Vec<ServicePrediction>,
    /// Every entry.
    pub entries: Vec<EntryPrediction>,
}

/// One service before and after.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServicePrediction {
    /// Its name.
    pub service: String,
    /// λ now: over the last windows that are alike, or at the end of the newest where it rises or falls.
    pub arrival_rate_per_s: f64,
    /// λ then.
    pub arrival_rate_per_s_then: f64,
    /// ρ then; `None` when c or S is not known.
    pub utilization_then: Option<f64>,
    /// Wq now, for the application's own workers, as measured over the last windows that are alike and moved to λ now; of a model
    /// server as replayed.
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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EntryPrediction {
    /// Where traffic enters.
    pub entry: String,
    /// Mean response time now, milliseconds: over the last windows that are alike, moved to the arrivals now.
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
    /// Services on the way of which nothing is known: their wait is taken not to change, and the range holds what it may. And
    /// those whose servers are held for calls that reach a service that changes: they are taken to be held as long as now.
    pub not_identified: Vec<String>,
}

/// Solves the mesh with `change`.
///
/// # Errors
/// A [`WhatIfError`] when the change names what is not there or cannot be.
pub fn what_if(snapshot: &Snapshot, change: &Change) -> Result<Prediction, WhatIfError> {
    let factors = change.factors(snapshot)?;
    let basis = Basis::of(snapshot);
    let mesh = basis.with(change, factors);
    let views = snapshot.services.iter().zip(&mesh.effects).filter_map(|(service, effect)| effect.view(service));
    let entries = entering(snapshot).into_iter().filter_map(|entry| entries::predict(entry, &mesh));
    Ok(Prediction {
        time_unix_nano: snapshot.time_unix_nano,
        window_ms: snapshot.window_ms,
        services: views.collect(),
        entries: entries.collect(),
    })
}

/// The mesh as it is, for any number of changes.
pub(crate) struct Basis<'a> {
    snapshot: &'a Snapshot,
    calls: Calls<'a>,
    /// Of services that nothing changes, by their places in the snapshot.
    as_now: Vec<queues::Effect>,
    recorded: entries::Recorded<'a>,
    visited: mix::Visited,
}

/// The mesh with a change.
struct Mesh<'a> {
    basis: &'a Basis<'a>,
    /// What changes at each service, by its place in the snapshot.
    effects: Vec<queues::Effect>,
}

impl<'a> Basis<'a> {
    pub(crate) fn of(snapshot: &'a Snapshot) -> Self {
        let as_now = |service| queues::Effect::of(service, &change::Factors::NONE, service.rate_per_s, None);
        let as_now = snapshot.services.iter().map(as_now).collect();
        let (calls, recorded) = (Calls::of(snapshot), entries::recorded(snapshot));
        let visited = mix::Visited::of(snapshot, &calls, &recorded);
        Self { snapshot, calls, as_now, recorded, visited }
    }

    /// What a request at an entry takes when so many times as many enter there; `None` when nobody does now.
    pub(crate) fn more_at(&self, entry: &str, arrivals: f64) -> Option<EntryPrediction> {
        let change = Change { service: entry.to_owned(), operation: None, arrivals, servers: 0, service_time: 1.0 };
        let mesh = self.with(&change, change.factors(self.snapshot).ok()?);
        let entry = services(self.snapshot).find(|service| service.service == entry)?;
        entries::predict(entry, &mesh)
    }

    fn with(&self, change: &Change, factors: change::Factors) -> Mesh<'_> {
        let Self { snapshot, calls, as_now, .. } = self;
        let looped = closed::Loop::solve(snapshot, calls, change, &factors);
        let asked = match &looped {
            Some(looped) => looped.rates(snapshot).into_iter().map(|rate| (rate, mix::Mix::AS_NOW)).collect(),
            None => self.asked(&change.service, factors.arrivals),
        };
        let effect = |((service, as_now), (rate, mix)): ((&ServiceView, &queues::Effect), (f64, mix::Mix))| {
            let name = service.service.as_str();
            let own = if change.service == name { factors } else { change::Factors { mix, ..change::Factors::NONE } };
            match looped.as_ref().and_then(|looped| looped.wait(name)) {
                None if own == change::Factors::NONE && rate == service.rate_per_s => as_now.clone(),
                wait => queues::Effect::of(service, &own, rate, wait),
            }
        };
        let mut effects: Vec<queues::Effect> = snapshot.services.iter().zip(as_now).zip(asked).map(effect).collect();
        for (place, service) in snapshot.services.iter().enumerate() {
            let changes = |called: usize| effects[called].added != Some(queues::Range::default());
            // whoever it waits for waits for those that it calls
            let mut called = service.estimate.held_ms.iter().flat_map(|_| calls.visits(place, false));
            effects[place].held_for_changed = called.any(|(called, _)| called != place && changes(called));
        }
        Mesh { basis: self, effects }
    }

    /// Arrivals of every service, and of which mix, when those of one are multiplied.
    fn asked(&self, service: &str, arrivals: f64) -> Vec<(f64, mix::Mix)> {
        let by_edges = self.calls.rates(service, arrivals).into_iter();
        let changed = self.calls.place(service).filter(|_| arrivals != 1.0);
        let Some(changed) = changed else { return by_edges.map(|rate| (rate, mix::Mix::AS_NOW)).collect() };
        let by_requests = self.visited.mixed(changed, arrivals);
        let of = |((rate, mixed), service): ((f64, Option<mix::Mixed>), &ServiceView)| match mixed {
            Some(mix::Mixed { growth, mix }) => (service.rate_per_s * growth, mix),
            None => (rate, mix::Mix::AS_NOW),
        };
        by_edges.zip(by_requests).zip(&self.snapshot.services).map(of).collect()
    }
}

fn services(snapshot: &Snapshot) -> impl Iterator<Item = &ServiceView> {
    snapshot.services.iter().filter(|service| service.kind == NodeKind::Service)
}

#[cfg(test)]
mod arrivals_tests;
#[cfg(test)]
mod tests;
