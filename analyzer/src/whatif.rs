//! [`what_if`]: the mesh with one service changed: more or fewer arrivals, other servers, another
//! service time. What it does to every queue, and to a request at every entry.
//!
//! Arrivals propagate along edges in proportion to the calls each caller makes now (traffic equations of
//! an open network, J. R. Jackson, 1957). Every queue is solved again by its own model, and its wait is scaled by
//! what was measured over what the model says now: what the model lacks today it lacks tomorrow. The
//! change of a request at an entry is the change at each service it visits, times the share of the
//! call's time in which the caller waits for nothing else ([`critical_share`](crate::snapshot::EdgeView::critical_share)).
//!
//! The range comes from the interval of S of the services that change; it does not hold errors of the model.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    model::queue_wait_ms,
    snapshot::{EdgeView, Estimate, NodeKind, ServiceView, Snapshot},
};

/// Rounds of the traffic equations; calls in circles die out or the change is refused.
const ROUNDS: usize = 64;

/// A measured wait this many times the predicted one, or this part of it, is another model, not an error of it.
const MAX_CALIBRATION: f64 = 4.0;

/// A wait below this, in milliseconds, says nothing of the model.
const MIN_CALIBRATING_MS: f64 = 0.05;

/// What is changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Of which service.
    pub service: String,
    /// Its arrivals are multiplied by this, and with them the calls it makes.
    #[serde(default = "one")]
    pub arrivals: f64,
    /// Servers added, or taken away.
    #[serde(default)]
    pub servers: i64,
    /// Its service time is multiplied by this.
    #[serde(default = "one")]
    pub service_time: f64,
}

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
    /// Wq now, as measured.
    pub queue_wait_ms: Option<f64>,
    /// Wq then; `None` when not known, or when the queue would grow without bound.
    pub queue_wait_ms_then: Option<f64>,
    /// Whether more would arrive than it can serve.
    pub saturated: bool,
    /// Why nothing is said of its queue.
    pub reason: Option<String>,
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
    /// The range of it that S allows, 95 %.
    pub low_ms: Option<f64>,
    /// Its other end.
    pub high_ms: Option<f64>,
    /// Services on the way of which nothing is known: their wait is taken not to change.
    pub not_identified: Vec<String>,
}

/// A change that cannot be asked for.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WhatIfError {
    /// Nothing of that name had traffic.
    #[error("no service {0} had traffic in the window looked at")]
    NoSuchService(String),
    /// A factor that is not one.
    #[error("{field} {value}: must be a number above 0 and at most 1000")]
    Factor {
        /// Which.
        field: &'static str,
        /// What was given.
        value: f64,
    },
    /// Fewer than one server would be left.
    #[error("servers {change:+}: {service} has {servers}, and at least 1 must be left")]
    TooFewServers {
        /// Of which service.
        service: String,
        /// How many it has.
        servers: u32,
        /// What was asked.
        change: i64,
    },
    /// Servers were changed of a service whose number is not known.
    #[error("servers: how many {service} has is not known: {reason}")]
    UnknownServers {
        /// Of which service.
        service: String,
        /// Why.
        reason: String,
    },
}

fn one() -> f64 {
    1.0
}

/// Solves the mesh with `change`.
///
/// # Errors
/// A [`WhatIfError`] when the change names what is not there or cannot be.
pub fn what_if(snapshot: &Snapshot, change: &Change) -> Result<Prediction, WhatIfError> {
    change.validate(snapshot)?;
    let rates = rates(snapshot, change);
    let effects: BTreeMap<&str, Effect> = snapshot
        .services
        .iter()
        .map(|s| (s.service.as_str(), Effect::of(s, change, rates[s.service.as_str()])))
        .collect();
    let services = snapshot.services.iter().filter_map(|service| effects[service.service.as_str()].view(service));
    let added = Added::solve(snapshot, &effects);
    let entries = entries(snapshot).map(|entry| added.predict(entry, snapshot, &effects));
    Ok(Prediction { services: services.collect(), entries: entries.collect() })
}

impl Change {
    fn validate(&self, snapshot: &Snapshot) -> Result<(), WhatIfError> {
        let found = services(snapshot).find(|s| s.service == self.service && s.rate_per_s > 0.0);
        let service = found.ok_or_else(|| WhatIfError::NoSuchService(self.service.clone()))?;
        for (field, value) in [("arrivals", self.arrivals), ("service_time", self.service_time)] {
            if !(value > 0.0 && value <= 1_000.0) {
                return Err(WhatIfError::Factor { field, value });
            }
        }
        if self.servers == 0 {
            return Ok(());
        }
        let Some(servers) = service.estimate.servers else {
            let reason = service.estimate.reason.clone().unwrap_or_default();
            return Err(WhatIfError::UnknownServers { service: self.service.clone(), reason });
        };
        match i64::from(servers) + self.servers {
            1.. => Ok(()),
            _ => Err(WhatIfError::TooFewServers { service: self.service.clone(), servers, change: self.servers }),
        }
    }
}

/// Arrivals of every service then.
fn rates<'a>(snapshot: &'a Snapshot, change: &Change) -> BTreeMap<&'a str, f64> {
    let now: BTreeMap<&str, f64> = snapshot.services.iter().map(|s| (s.service.as_str(), s.rate_per_s)).collect();
    // what each service gets more, from the change and from its callers
    let mut more: BTreeMap<&str, f64> = now.keys().map(|service| (*service, 0.0)).collect();
    for _ in 0..ROUNDS {
        let mut next: BTreeMap<&str, f64> = now.keys().map(|service| (*service, 0.0)).collect();
        for edge in &snapshot.edges {
            let Some(rate) = now.get(edge.caller.as_str()).filter(|rate| **rate > 0.0) else { continue };
            if let Some(callee) = next.get_mut(edge.callee.as_str()) {
                *callee += more[edge.caller.as_str()] * edge.rate_per_s / rate;
            }
        }
        if let Some(changed) = next.get_mut(change.service.as_str()) {
            *changed = (change.arrivals - 1.0) * now[change.service.as_str()];
        }
        let settled = next.iter().all(|(service, rate)| (rate - more[service]).abs() <= 1e-9 * (1.0 + rate.abs()));
        more = next;
        if settled {
            break;
        }
    }
    now.into_iter().map(|(service, rate)| (service, (rate + more[service]).max(0.0))).collect()
}

/// Services that nobody calls.
fn entries(snapshot: &Snapshot) -> impl Iterator<Item = &ServiceView> {
    let inside = |e: &&EdgeView| e.caller_kind == NodeKind::Service && e.rate_per_s > 0.0;
    let called =
        move |service: &str| snapshot.edges.iter().filter(inside).any(|e| e.callee == service && e.caller != service);
    snapshot.services.iter().filter(move |s| s.kind == NodeKind::Service && s.rate_per_s > 0.0 && !called(&s.service))
}

/// What changes at one service for one request, in milliseconds.
struct Effect {
    rate_then: f64,
    utilization_then: Option<f64>,
    wait_then: Option<f64>,
    /// Wait and service together; `None` when it saturates.
    added_ms: Option<f64>,
    /// The same with S at either end of its interval.
    added_range_ms: Option<(f64, f64)>,
    identified: bool,
}

impl Effect {
    fn of(service: &ServiceView, change: &Change, rate_then: f64) -> Self {
        let changed = change.service == service.service;
        let factor = if changed { change.service_time } else { 1.0 };
        let servers = if changed { change.servers } else { 0 };
        let estimate = &service.estimate;
        // served requests and all of them differ by what was shed; the share stays
        let arrivals = estimate.arrival_rate_per_s * rate_then / service.rate_per_s.max(1e-9);
        let then = |service_ms: f64| -> Option<(f64, f64)> {
            let c = u32::try_from(i64::from(estimate.servers?) + servers).ok()?;
            let wait = calibrated(estimate, arrivals, service_ms * factor, c)?;
            Some((wait, wait - measured(estimate).unwrap_or(wait) + service_ms * (factor - 1.0)))
        };
        let Some((service_ms, c)) = estimate.service_time_ms.zip(estimate.servers) else {
            let same = Some(0.0).filter(|_| !changed || factor == 1.0);
            return Self {
                rate_then,
                utilization_then: None,
                wait_then: None,
                added_ms: same,
                added_range_ms: same.map(|s| (s, s)),
                identified: false,
            };
        };
        let c = (i64::from(c) + servers) as f64;
        let error = estimate.service_time_ms_error.unwrap_or(0.0);
        let (wait_then, added_ms) = then(service_ms).unzip();
        let low = then((service_ms - error).max(0.0)).map(|(_, added)| added);
        let high = then(service_ms + error).map(|(_, added)| added);
        let as_now = rate_then == service.rate_per_s && !changed;
        Self {
            rate_then,
            utilization_then: Some(arrivals * service_ms * factor / 1e3 / c),
            wait_then,
            added_ms: if as_now { Some(0.0) } else { added_ms },
            added_range_ms: if as_now { Some((0.0, 0.0)) } else { low.zip(high) },
            identified: true,
        }
    }

    fn view(&self, service: &ServiceView) -> Option<ServicePrediction> {
        let changes = (self.rate_then - service.rate_per_s).abs() > 1e-9 || self.added_ms != Some(0.0);
        (changes && service.kind == NodeKind::Service).then(|| ServicePrediction {
            service: service.service.clone(),
            arrival_rate_per_s: service.rate_per_s,
            arrival_rate_per_s_then: self.rate_then,
            utilization_then: self.utilization_then,
            queue_wait_ms: service.estimate.queue_wait_ms.observed,
            queue_wait_ms_then: self.wait_then,
            saturated: self.utilization_then.is_some_and(|rho| rho >= 1.0),
            reason: if self.identified { None } else { service.estimate.reason.clone() },
        })
    }
}

fn measured(estimate: &Estimate) -> Option<f64> {
    estimate.queue_wait_ms.observed_app.or(estimate.queue_wait_ms.predicted)
}

/// The wait then by the model, scaled by what was measured over what it says now.
fn calibrated(estimate: &Estimate, arrivals: f64, service_ms: f64, servers: u32) -> Option<f64> {
    let then = queue_wait_ms(estimate, arrivals, service_ms, servers)?;
    let now = queue_wait_ms(estimate, estimate.arrival_rate_per_s, estimate.service_time_ms?, estimate.servers?);
    let Some((now, measured)) = now.zip(estimate.queue_wait_ms.observed_app) else { return Some(then) };
    if now < MIN_CALIBRATING_MS || measured < MIN_CALIBRATING_MS {
        return Some(then);
    }
    Some(then * (measured / now).clamp(1.0 / MAX_CALIBRATION, MAX_CALIBRATION))
}

/// What is added to a request at every service, all it waits for included.
struct Added<'a> {
    by_service: BTreeMap<&'a str, [f64; 3]>,
}

impl<'a> Added<'a> {
    /// `a = e + Ma`: what is added at the service itself, and per call at its callees. Endless where one saturates.
    fn solve(snapshot: &'a Snapshot, effects: &BTreeMap<&'a str, Effect>) -> Self {
        let own = |effect: &Effect| {
            let ms = effect.added_ms.unwrap_or(f64::INFINITY);
            let (low, high) = effect.added_range_ms.unwrap_or((ms, f64::INFINITY));
            [ms, low.min(high), high.max(low)]
        };
        let own: BTreeMap<&str, [f64; 3]> = effects.iter().map(|(service, effect)| (*service, own(effect))).collect();
        let calls: Vec<(&str, &str, f64)> = calls(snapshot).collect();
        let mut by_service = own.clone();
        for _ in 0..ROUNDS {
            let mut next = own.clone();
            for (caller, callee, share) in &calls {
                let callee = by_service[callee];
                if let Some(caller) = next.get_mut(caller) {
                    caller.iter_mut().zip(callee).for_each(|(sum, added)| *sum += share * added);
                }
            }
            let settled = next.iter().all(|(service, added)| close(added, &by_service[service]));
            by_service = next;
            if settled {
                break;
            }
        }
        Self { by_service }
    }

    fn predict(
        &self,
        entry: &'a ServiceView,
        snapshot: &'a Snapshot,
        effects: &BTreeMap<&'a str, Effect>,
    ) -> EntryPrediction {
        let now = entry.duration_ms_mean;
        let [then, low_ms, high_ms] =
            self.by_service[entry.service.as_str()].map(|added| added.is_finite().then(|| (now + added).max(0.0)));
        let on_the_way = reachable(&entry.service, snapshot).into_iter();
        let not_identified = on_the_way.filter(|service| effects.get(service).is_some_and(|effect| !effect.identified));
        EntryPrediction {
            entry: entry.service.clone(),
            response_time_ms: now,
            response_time_ms_then: then,
            low_ms,
            high_ms,
            not_identified: not_identified.map(str::to_owned).collect(),
        }
    }
}

fn close(a: &[f64; 3], b: &[f64; 3]) -> bool {
    a.iter().zip(b).all(|(a, b)| a == b || (a - b).abs() <= 1e-9 * (1.0 + a.abs()))
}

/// Calls between services: how many a request of the caller makes, each counted by the share of its time in
/// which the caller waits for nothing else.
fn calls(snapshot: &Snapshot) -> impl Iterator<Item = (&str, &str, f64)> {
    let rates: BTreeMap<&str, f64> = services(snapshot).map(|s| (s.service.as_str(), s.rate_per_s)).collect();
    snapshot.edges.iter().filter_map(move |edge| {
        let rate = rates.get(edge.caller.as_str()).filter(|rate| **rate > 0.0)?;
        let share = edge.rate_per_s / rate * edge.critical_share.unwrap_or(1.0);
        let counts = rates.contains_key(edge.callee.as_str()) && edge.caller != edge.callee && share > 0.0;
        counts.then_some((edge.caller.as_str(), edge.callee.as_str(), share))
    })
}

fn services(snapshot: &Snapshot) -> impl Iterator<Item = &ServiceView> {
    snapshot.services.iter().filter(|service| service.kind == NodeKind::Service)
}

fn reachable<'a>(from: &'a str, snapshot: &'a Snapshot) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::from([from]);
    let mut next = vec![from];
    while let Some(caller) = next.pop() {
        for edge in snapshot.edges.iter().filter(|edge| edge.caller == caller && edge.rate_per_s > 0.0) {
            if found.insert(&edge.callee) {
                next.push(&edge.callee);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::{queueing::mmc, snapshot::QueueWait};

    fn service(name: &str, rate: f64, service_ms: f64, servers: u32, duration_ms: f64) -> ServiceView {
        let wait = mmc::queue_wait(rate, service_ms / 1e3, NonZeroU32::new(servers).unwrap()).map(|s| s * 1e3);
        let estimate = Estimate {
            arrival_rate_per_s: rate,
            service_time_ms: Some(service_ms),
            service_time_ms_error: Some(0.02 * service_ms),
            servers: Some(servers),
            replicas: Some(1),
            queue_wait_ms: QueueWait { predicted: wait, observed: wait, observed_app: wait, observed_proxy: None },
            ca2: Some(1.0),
            cs2: Some(1.0),
            model: "ggc".into(),
            ..Estimate::default()
        };
        ServiceView {
            service: name.into(),
            rate_per_s: rate,
            duration_ms_mean: duration_ms,
            estimate,
            ..ServiceView::default()
        }
    }

    fn edge(caller: &str, callee: &str, rate: f64, critical_share: f64) -> EdgeView {
        let (caller, callee) = (caller.into(), callee.into());
        EdgeView { caller, callee, rate_per_s: rate, critical_share: Some(critical_share), ..EdgeView::default() }
    }

    /// Each request of the gateway calls the tagger once and, beside it, the cache twice.
    fn mesh() -> Snapshot {
        Snapshot {
            services: vec![
                service("cache", 160.0, 2.0, 2, 2.1),
                service("gateway", 80.0, 1.0, 4, 40.0),
                service("tagger", 80.0, 20.0, 2, 55.0),
            ],
            edges: vec![edge("gateway", "cache", 160.0, 0.0), edge("gateway", "tagger", 80.0, 1.0)],
            ..Snapshot::default()
        }
    }

    fn change(service: &str) -> Change {
        Change { service: service.into(), arrivals: 1.0, servers: 0, service_time: 1.0 }
    }

    fn wait_of(load: f64, service_ms: f64, servers: u32) -> f64 {
        mmc::queue_wait(load, service_ms / 1e3, NonZeroU32::new(servers).unwrap()).unwrap() * 1e3
    }

    #[test]
    fn nothing_changes_when_nothing_is_changed() {
        let found = what_if(&mesh(), &change("tagger")).unwrap();
        assert_eq!(found.services, []);
        assert_eq!(found.entries[0].response_time_ms_then, Some(40.0));
    }

    #[test]
    fn more_arrivals_reach_all_who_are_called_and_are_waited_for_where_they_block() {
        let found = what_if(&mesh(), &Change { arrivals: 1.1, ..change("gateway") }).unwrap();
        assert_eq!(
            found.services.iter().map(|s| s.service.as_str()).collect::<Vec<_>>(),
            ["cache", "gateway", "tagger"]
        );
        let tagger = &found.services[2];
        assert!((tagger.arrival_rate_per_s_then - 88.0).abs() < 1e-9);
        assert!((tagger.queue_wait_ms_then.unwrap() - wait_of(88.0, 20.0, 2)).abs() < 1e-9);
        let added = wait_of(88.0, 20.0, 2) - wait_of(80.0, 20.0, 2) + wait_of(88.0, 1.0, 4) - wait_of(80.0, 1.0, 4);
        let entry = &found.entries[0];
        assert!((entry.response_time_ms_then.unwrap() - 40.0 - added).abs() < 1e-9, "{entry:?}");
        assert!(entry.low_ms < entry.response_time_ms_then && entry.response_time_ms_then < entry.high_ms);
    }

    #[test]
    fn servers_and_service_time_change_their_service_only() {
        let found = what_if(&mesh(), &Change { servers: 2, ..change("tagger") }).unwrap();
        assert_eq!(found.services.len(), 1);
        let saved = wait_of(80.0, 20.0, 2) - wait_of(80.0, 20.0, 4);
        assert!((found.entries[0].response_time_ms_then.unwrap() - (40.0 - saved).max(0.0)).abs() < 1e-9);
        let found = what_if(&mesh(), &Change { service_time: 0.5, ..change("tagger") }).unwrap();
        let saved = 10.0 + wait_of(80.0, 20.0, 2) - wait_of(80.0, 10.0, 2);
        assert!((found.entries[0].response_time_ms_then.unwrap() - (40.0 - saved).max(0.0)).abs() < 1e-9);
    }

    #[test]
    fn what_saturates_has_no_wait_and_no_response_time() {
        let found = what_if(&mesh(), &Change { arrivals: 1.5, ..change("gateway") }).unwrap();
        let tagger = found.services.iter().find(|s| s.service == "tagger").unwrap();
        assert!(tagger.saturated && tagger.queue_wait_ms_then.is_none() && tagger.utilization_then.unwrap() > 1.19);
        assert_eq!(found.entries[0].response_time_ms_then, None);
    }

    #[test]
    fn circles_settle_and_what_is_not_identified_is_named() {
        let mut mesh = mesh();
        mesh.edges.push(edge("tagger", "gateway", 8.0, 1.0));
        mesh.edges.push(edge("front", "gateway", 72.0, 1.0));
        mesh.services.push(ServiceView {
            service: "front".into(),
            rate_per_s: 72.0,
            duration_ms_mean: 50.0,
            ..ServiceView::default()
        });
        let found = what_if(&mesh, &Change { arrivals: 1.05, ..change("front") }).unwrap();
        let gateway = found.services.iter().find(|s| s.service == "gateway").unwrap();
        // 3.6 more come in front, and a tenth of what the gateway gets comes back: 3.6/(1 − 0.1)
        assert!((gateway.arrival_rate_per_s_then - 84.0).abs() < 1e-6, "{gateway:?}");
        let entry = found.entries.iter().find(|e| e.entry == "front").unwrap();
        assert!(entry.response_time_ms_then.unwrap() > 50.0);
        assert_eq!(entry.not_identified, ["front"]);
    }

    #[test]
    fn what_cannot_be_asked_says_why() {
        let refused = |change: Change| what_if(&mesh(), &change).unwrap_err().to_string();
        assert_eq!(refused(change("nobody")), "no service nobody had traffic in the window looked at");
        let zero = Change { arrivals: 0.0, ..change("tagger") };
        assert_eq!(refused(zero), "arrivals 0: must be a number above 0 and at most 1000");
        let fewer = Change { servers: -2, ..change("tagger") };
        assert_eq!(refused(fewer), "servers -2: tagger has 2, and at least 1 must be left");
    }
}
