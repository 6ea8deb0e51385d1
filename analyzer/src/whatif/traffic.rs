//! Who gets how many requests: the traffic equations of an open network (J. R. Jackson, "Networks of waiting lines", Operations
//! Research 5, 1957), solved by rounds. Calls in circles die out.

use std::collections::BTreeMap;

use super::services;
use crate::snapshot::Snapshot;

/// Rounds of the equations: what a circle of calls still passes on after these is left out.
const ROUNDS: usize = 64;

/// Arrivals of every service when those of one are multiplied.
pub(super) fn rates<'a>(snapshot: &'a Snapshot, service: &str, factor: f64) -> BTreeMap<&'a str, f64> {
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
        if let Some(changed) = next.get_mut(service) {
            *changed = (factor - 1.0) * now[service];
        }
        let settled = next.iter().all(|(service, rate)| (rate - more[service]).abs() <= 1e-9 * (1.0 + rate.abs()));
        more = next;
        if settled {
            break;
        }
    }
    now.into_iter().map(|(service, rate)| (service, (rate + more[service]).max(0.0))).collect()
}

/// How often a request at `entry` waits for each service: visits, each counted by the share of the call in which its
/// caller waits for nothing else when `critical`, else whole.
pub(super) fn visits<'a>(entry: &'a str, snapshot: &'a Snapshot, critical: bool) -> BTreeMap<&'a str, f64> {
    let rates: BTreeMap<&str, f64> = services(snapshot).map(|s| (s.service.as_str(), s.rate_per_s)).collect();
    let calls: Vec<(&str, &str, f64)> = snapshot
        .edges
        .iter()
        .filter_map(|edge| {
            let rate = rates.get(edge.caller.as_str()).filter(|rate| **rate > 0.0)?;
            let share = if critical { edge.critical_share.unwrap_or(1.0) } else { 1.0 };
            let counts = rates.contains_key(edge.callee.as_str()) && edge.caller != edge.callee;
            counts.then_some((edge.caller.as_str(), edge.callee.as_str(), edge.rate_per_s / rate * share))
        })
        .collect();
    let mut all = BTreeMap::from([(entry, 1.0)]);
    // the visits of each round are those of the calls of the one before
    let mut newest = all.clone();
    for _ in 0..ROUNDS {
        let mut next: BTreeMap<&str, f64> = BTreeMap::new();
        for (caller, callee, times) in &calls {
            if let Some(visits) = newest.get(caller) {
                *next.entry(callee).or_insert(0.0) += visits * times;
            }
        }
        if next.values().all(|visits| *visits < 1e-9) {
            break;
        }
        next.iter().for_each(|(service, visits)| *all.entry(service).or_insert(0.0) += visits);
        newest = next;
    }
    all
}
