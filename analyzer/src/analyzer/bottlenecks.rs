//! Services that findings say are too slow for what comes, as the controller needs them.

use std::num::NonZeroU32;

use super::{Analyzer, shedding};
use crate::{
    control::Bottleneck,
    findings::Kind,
    snapshot::{FindingView, NodeKind, ServiceView, Snapshot},
};

impl Analyzer {
    /// Services that open findings say are too slow for what comes, as the controller needs them.
    pub(super) fn bottlenecks(&self, snapshot: &Snapshot) -> Vec<Bottleneck> {
        let usual = |service: &str| self.names.find(service).and_then(|name| self.usual_rates.get(&name)).copied();
        let full = |finding: &FindingView| match Kind::of_name(&finding.kind) {
            Some(Kind::Bottleneck | Kind::RetryStorm) => Some(finding.service.clone()),
            // what it loads is as full as if it were slow
            Some(Kind::UpstreamSurge) => finding.peer.clone(),
            _ => None,
        };
        let bottleneck = |finding: &FindingView| {
            let name = full(finding)?;
            let is_it = |s: &&ServiceView| s.service == name && s.kind == NodeKind::Service;
            let service = snapshot.services.iter().find(is_it)?;
            Some(Bottleneck {
                finding_id: finding.finding_id.clone(),
                usual_service_time_ms: self.usual_service_time(&name),
                service: name,
                servers: service.estimate.servers.and_then(NonZeroU32::new),
                service_time_ms: service.estimate.service_time_ms,
                own_service_time_ms: service.estimate.own_service_ms(),
                downstream_ms: service.estimate.elsewhere_ms(service.downstream_ms),
                utilization: service.estimate.utilization,
                completions_per_s: service.rate_per_s,
                is_measured: service.last_seen_unix_nano == snapshot.time_unix_nano,
                only_if_full: Kind::of_name(&finding.kind) == Some(Kind::RetryStorm),
                entry: shedding::entry(finding, service, snapshot, usual),
            })
        };
        self.findings.open().filter_map(bottleneck).collect()
    }
}
