//! What of a window becomes usual: all of it that nobody suspects.

use std::collections::BTreeSet;

use weir_schema::UnixNanos;

use super::{
    calls, dependency, errors,
    facts::Facts,
    history::History,
    instance,
    mismatch::Wait,
    own_time, retries, saturation,
    scene::own_time,
    surge,
    usual::{Sample, Share},
};
use crate::{
    snapshot::{Estimate, ServiceView, Snapshot},
    spans::{Name, Names},
    window::{ServiceWindow, Window},
};

/// What was seen of one window.
pub(super) struct Seen<'a> {
    pub(super) window: &'a Window,
    pub(super) snapshot: &'a Snapshot,
    pub(super) names: &'a Names,
    pub(super) facts: &'a Facts,
}

impl History {
    /// Utilization and time are followed whatever is wrong: a trend must not have holes.
    pub(super) fn follow(&mut self, seen: &Seen) {
        let end = seen.window.end;
        for (name, service) in &seen.window.services {
            if let Some((own_ms, trend)) =
                service.own_ms.mean().and_then(|own_ms| Some((own_ms, self.own_trends.of(*name, end)?)))
            {
                trend.push(end, own_ms);
            }
            let utilization = seen.estimate(*name).and_then(saturation::utilization);
            if let Some((rho, trend)) = utilization.and_then(|rho| Some((rho, self.trends.of(*name, end)?))) {
                trend.push(end, rho);
            }
        }
    }

    /// Makes a window part of what is usual, without those who are suspected.
    pub(super) fn remember(&mut self, seen: &Seen, suspected: &BTreeSet<Name>) {
        let end = seen.window.end;
        let trusted = |name: &Name| !suspected.contains(name);
        for (name, service) in seen.window.services.iter().filter(|(name, _)| trusted(name)) {
            self.remember_service(*name, service, end);
            let wait = seen.estimate(*name).and_then(|estimate| Wait::of(estimate, end));
            if let Some((wait, waits)) = wait.and_then(|wait| Some((wait, self.waits.of(*name, end)?))) {
                waits.push(wait);
            }
        }
        for (name, served) in seen.facts.services.iter().filter(|(name, _)| trusted(name)) {
            for (operation, own_ms) in &served.own_by_operation {
                self.own_of_operations.remember((*name, *operation), own_time::of_operation(own_ms), end);
            }
        }
        for ((caller, callee), calls) in &seen.facts.calls {
            let key = (*caller, *callee);
            if trusted(caller) && trusted(callee) {
                self.gap_ms.remember(key, dependency::sample(calls), end);
                self.call_errors.remember_share(key, Share { hits: calls.errors, of: calls.calls }, end);
                self.retries.remember_share(key, retries::share(calls), end);
            }
        }
        for ((service, operation), made) in seen.facts.made.iter().filter(|((service, _), _)| trusted(service)) {
            for callee in calls::callees(self, *service, *operation, made) {
                let hits = made.callees.get(&callee).copied().unwrap_or(0);
                self.made.remember_share((*service, *operation, callee), Share { hits, of: made.requests }, end);
            }
            let all = Share { hits: made.requests, of: made.requests };
            self.operations.remember_share((*service, *operation), all, end);
        }
        self.forget(end);
    }

    fn remember_service(&mut self, name: Name, service: &ServiceWindow, end: UnixNanos) {
        let Some(own) = own_time(service) else { return };
        self.own_ms.remember(name, Some(own), end);
        self.service_ms.remember(name, surge::service_time(service), end);
        let at = |q| service.duration_ms.quantile(q);
        let duration = at(0.5).zip(at(0.25)).zip(at(0.75));
        let duration = duration.map(|((median, low), high)| Sample { median, spread: (high - low) / 2.0, ..own });
        self.duration_ms.remember(name, duration, end);
        self.arrivals.remember(name, surge::arrivals(service), end);
        self.own_errors.remember_share(name, errors::own_errors(service), end);
        self.follow_hours(name, end);
        for replica in instance::replicas(service) {
            self.replicas.remember((name, replica.instance), replica.log_ratio(), end);
        }
    }
}

impl Seen<'_> {
    fn estimate(&self, service: Name) -> Option<&Estimate> {
        estimate(self.snapshot, self.names.text(service))
    }
}

/// A service in a snapshot, whose services are by name.
pub(super) fn view<'a>(snapshot: &'a Snapshot, service: &str) -> Option<&'a ServiceView> {
    let place = snapshot.services.binary_search_by(|view| view.service.as_str().cmp(service)).ok()?;
    Some(&snapshot.services[place])
}

/// Its estimate.
pub(super) fn estimate<'a>(snapshot: &'a Snapshot, service: &str) -> Option<&'a Estimate> {
    view(snapshot, service).map(|view| &view.estimate)
}
