//! What more load does to a request at an entry.

use std::collections::BTreeMap;

use super::{EdgeReport, EntryWhatIf, ServiceReport, gathered::Entry};
use crate::{
    snapshot::{EdgeView, ServiceView, Snapshot},
    whatif::visits,
};

/// What the load is multiplied by.
const LOAD_FACTORS: [f64; 4] = [1.1, 1.2, 1.5, 2.0];

/// Measured response time plus what each queue on the way adds; `None` where a queue is not identifiable or has no bound.
pub(super) fn what_if(entries: &[Entry], services: &[ServiceReport], edges: &[EdgeReport]) -> Vec<EntryWhatIf> {
    let identified = services.iter().all(|s| s.servers.is_some() && !s.what_if.is_empty());
    let of_entry = |entry: &Entry| {
        let often = if identified { often(entry, entries, services, edges) } else { BTreeMap::new() };
        let at = |load_factor: f64| {
            let added = services.iter().map(|service| {
                let visits = often.get(service.service.as_str()).copied().unwrap_or(0.0);
                let then = service.what_if.iter().find(|w| w.load_factor == load_factor)?.queue_wait_ms?;
                Some(visits * (then - service.queue_wait_ms.predicted?))
            });
            let added: Option<f64> = added.sum();
            let response_time_ms = entry.duration_ms.zip(added).map(|(measured, added)| measured + added);
            let response_time_ms = response_time_ms.filter(|_| identified);
            EntryWhatIf { entry: entry.service.clone(), load_factor, response_time_ms }
        };
        LOAD_FACTORS.map(at)
    };
    entries.iter().flat_map(of_entry).collect()
}

/// How often a request at the entry visits each service: where it is the only entry, all that a service gets is its; else what its
/// calls come to.
fn often(entry: &Entry, entries: &[Entry], services: &[ServiceReport], edges: &[EdgeReport]) -> BTreeMap<String, f64> {
    if let [_] = entries {
        let rate = services.iter().find(|s| s.service == entry.service).map_or(0.0, |s| s.arrival_rate_per_s);
        let visits = |s: &ServiceReport| (s.service.clone(), s.arrival_rate_per_s / rate.max(1e-9));
        return services.iter().map(visits).collect();
    }
    let mesh = mesh(services, edges);
    visits(&entry.service, &mesh, false).into_iter().map(|(service, visits)| (service.to_owned(), visits)).collect()
}

fn mesh(services: &[ServiceReport], edges: &[EdgeReport]) -> Snapshot {
    let service = |s: &ServiceReport| ServiceView {
        service: s.service.clone(),
        rate_per_s: s.arrival_rate_per_s,
        ..ServiceView::default()
    };
    let edge = |e: &EdgeReport| EdgeView {
        caller: e.caller.clone(),
        callee: e.callee.clone(),
        rate_per_s: e.rate_per_s,
        ..EdgeView::default()
    };
    Snapshot {
        services: services.iter().map(service).collect(),
        edges: edges.iter().map(edge).collect(),
        ..Snapshot::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{QueueWait, WhatIf};

    /// One that waits 1 ms, and 2 ms under any more load.
    fn service(name: &str, rate: f64) -> ServiceReport {
        let what_if = LOAD_FACTORS.map(|load_factor| WhatIf { load_factor, queue_wait_ms: Some(2.0) });
        ServiceReport {
            service: name.into(),
            arrival_rate_per_s: rate,
            service_time_ms: Some(1.0),
            servers: Some(1),
            utilization: Some(0.5),
            queue_wait_ms: QueueWait { predicted: Some(1.0), ..QueueWait::default() },
            headroom: None,
            model: "mm1".into(),
            confidence: 1.0,
            reason: None,
            what_if: what_if.to_vec(),
            lm: None,
        }
    }

    fn edge(caller: &str, callee: &str, rate_per_s: f64) -> EdgeReport {
        let (caller, callee) = (caller.into(), callee.into());
        EdgeReport { caller, callee, rate_per_s, error_ratio: 0.0, duration_ms_p50: 1.0, duration_ms_p99: 1.0 }
    }

    #[test]
    fn each_entry_pays_for_what_its_own_requests_visit() {
        let services = [service("admin", 1.0), service("cart", 101.0), service("web", 50.0)];
        let edges = [edge("admin", "cart", 1.0), edge("web", "cart", 100.0)];
        let entry = |name: &str| Entry { service: name.into(), duration_ms: Some(10.0) };
        let found = what_if(&[entry("admin"), entry("web")], &services, &edges);
        let of = |name: &str| found.iter().find(|w| w.entry == name).unwrap().response_time_ms.unwrap();
        // each adds 1 ms a visit: at itself, and once or twice at the cart
        assert!((of("admin") - 12.0).abs() < 1e-9 && (of("web") - 13.0).abs() < 1e-9, "{found:?}");
        let alone = what_if(&[entry("web")], &services[1..], &edges[1..]);
        assert!((alone[0].response_time_ms.unwrap() - (10.0 + 101.0 / 50.0 + 1.0)).abs() < 1e-9, "{alone:?}");
    }
}
