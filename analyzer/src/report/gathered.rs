//! [`Gathered`]: the windows of a range as few numbers: medians need a handful of each window, and of the last one a little more.
//!
//! A service takes 50 KB at most, an edge 16 KB, whatever the length of the range; and the last window is kept whole.

use std::{collections::BTreeMap, ops::Range};

use weir_schema::UnixNanos;

use super::{EdgeReport, ServiceReport, entries::MAX_ENTRIES, series::Series};
use crate::{
    lm::LmView,
    reach,
    snapshot::{EdgeView, Estimate, FindingView, QueueWait, ServiceView, Snapshot, WhatIf},
};

/// Services, edges and findings kept apart; further ones are left out.
const MAX_SERVICES: usize = 20_000;
const MAX_EDGES: usize = 50_000;
const MAX_FINDINGS: usize = 1_000;

/// All windows of a range.
#[derive(Default)]
pub(super) struct Gathered {
    /// Those that numbers are of.
    pub(super) windows: u64,
    has_whole: bool,
    services: BTreeMap<String, OfService>,
    edges: BTreeMap<(String, String), OfEdge>,
    findings: BTreeMap<String, FindingView>,
    /// The last one with requests.
    last: Option<Snapshot>,
}

/// One service.
#[derive(Default)]
struct OfService {
    rate_per_s: Series,
    service_time_ms: Series,
    utilization: Series,
    wait_ms: OfWait,
    headroom: Series,
    confidence: Series,
    last: Option<Known>,
    last_identified: Option<Known>,
    lm: Option<LmView>,
    lm_identified: Option<LmView>,
    /// Windows in which it had requests, and those in which they entered there.
    windows: u64,
    entered: u64,
}

#[derive(Default)]
struct OfWait {
    predicted: Series,
    observed: Series,
    observed_proxy: Series,
    observed_app: Series,
    predicted_low: Series,
    predicted_high: Series,
}

/// What is told as it was last.
struct Known {
    servers: Option<u32>,
    model: String,
    reason: Option<String>,
    what_if: Vec<WhatIf>,
}

/// One edge.
#[derive(Default)]
struct OfEdge {
    rate_per_s: Series,
    error_ratio: Series,
    duration_ms_p50: Series,
    duration_ms_p99: Series,
}

impl Gathered {
    /// Takes in a window. Of one that reaches beyond the range not all spans are there: it counts only where no whole one is.
    pub(super) fn take(&mut self, mut snapshot: Snapshot, range: &Range<UnixNanos>) {
        // what was over before the range began is none of it
        let of_range = |finding: &FindingView| finding.closed_unix_nano.is_none_or(|closed| closed > range.start);
        let findings = std::mem::take(&mut snapshot.findings).into_iter().filter(of_range);
        findings.for_each(|finding| self.take_finding(finding));
        let start = snapshot.time_unix_nano - i64::try_from(snapshot.window_ms).unwrap_or(0) * 1_000_000;
        let whole = range.start <= start && snapshot.time_unix_nano <= range.end;
        if whole && !self.has_whole {
            let findings = std::mem::take(&mut self.findings);
            *self = Self { has_whole: true, findings, ..Self::default() };
        }
        if whole || !self.has_whole {
            self.take_numbers(snapshot);
        }
    }

    fn take_numbers(&mut self, snapshot: Snapshot) {
        self.windows += 1;
        for service in reach::entering(&snapshot) {
            if let Some(of) = of(&mut self.services, service.service.clone(), MAX_SERVICES) {
                of.entered += 1;
            }
        }
        for service in &snapshot.services {
            if let Some(of) = of(&mut self.services, service.service.clone(), MAX_SERVICES) {
                of.take(service);
            }
        }
        for edge in &snapshot.edges {
            if let Some(of) = of(&mut self.edges, (edge.caller.clone(), edge.callee.clone()), MAX_EDGES) {
                of.take(edge);
            }
        }
        if snapshot.services.iter().any(|service| service.rate_per_s > 0.0) {
            self.last = Some(snapshot);
        }
    }

    /// A finding as it was when it was worst; of too many the least is left out.
    fn take_finding(&mut self, finding: FindingView) {
        let known = self.findings.entry(finding.finding_id.clone()).or_insert_with(|| finding.clone());
        if finding.score >= known.score {
            *known = finding;
        }
        if self.findings.len() > MAX_FINDINGS {
            let least = self.findings.values().min_by(|a, b| a.score.total_cmp(&b.score));
            let least = least.map(|finding| finding.finding_id.clone());
            least.and_then(|id| self.findings.remove(&id));
        }
    }

    pub(super) fn services(&self) -> Vec<ServiceReport> {
        self.services.iter().map(|(name, of)| of.report(name)).collect()
    }

    pub(super) fn edges(&self) -> Vec<EdgeReport> {
        self.edges.iter().map(|((caller, callee), of)| of.report(caller, callee)).collect()
    }

    /// Services at which requests enter in most of the windows in which there are any, those with most requests.
    pub(super) fn entries(&self) -> Vec<String> {
        let enters = |of: &OfService| of.entered > 0 && 2 * of.entered >= of.windows;
        let mut entries: Vec<(&String, f64)> = self
            .services
            .iter()
            .filter(|(_, of)| enters(of))
            .map(|(name, of)| (name, of.rate_per_s.middle().unwrap_or(0.0)))
            .collect();
        entries.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
        let mut busiest: Vec<String> =
            entries.into_iter().take(MAX_ENTRIES).map(|(service, _)| service.clone()).collect();
        busiest.sort();
        busiest
    }

    /// The last window that numbers are of, with requests.
    pub(super) fn last(&self) -> Option<&Snapshot> {
        self.last.as_ref()
    }

    pub(super) fn into_findings(self) -> Vec<FindingView> {
        self.findings.into_values().collect()
    }
}

/// What is gathered of a key; `None` when it would be one too many.
fn of<K: Ord, V: Default>(all: &mut BTreeMap<K, V>, key: K, most: usize) -> Option<&mut V> {
    (all.len() < most || all.contains_key(&key)).then(|| all.entry(key).or_default())
}

impl OfService {
    fn take(&mut self, view: &ServiceView) {
        let estimate = &view.estimate;
        self.windows += u64::from(view.rate_per_s > 0.0);
        self.rate_per_s.add(estimate.arrival_rate_per_s);
        self.service_time_ms.add(estimate.service_time_ms);
        self.utilization.add(estimate.utilization);
        self.wait_ms.take(&estimate.queue_wait_ms);
        self.headroom.add(estimate.headroom);
        self.confidence.add(estimate.confidence);
        let identified = estimate.service_time_ms.is_some() || estimate.utilization.is_some();
        let last = if identified { &mut self.last_identified } else { &mut self.last };
        *last = Some(Known::of(estimate));
        if let Some(lm) = &view.lm {
            let newest = if lm.server.is_some() { &mut self.lm_identified } else { &mut self.lm };
            *newest = Some(lm.clone());
        }
    }

    fn report(&self, service: &str) -> ServiceReport {
        let last = self.last_identified.as_ref().or(self.last.as_ref());
        ServiceReport {
            service: service.to_owned(),
            arrival_rate_per_s: self.rate_per_s.middle().unwrap_or(0.0),
            service_time_ms: self.service_time_ms.middle(),
            servers: last.and_then(|last| last.servers),
            utilization: self.utilization.middle(),
            queue_wait_ms: self.wait_ms.middle(),
            headroom: self.headroom.middle(),
            model: last.map_or_else(|| "unknown".to_owned(), |last| last.model.clone()),
            confidence: self.confidence.middle().unwrap_or(0.0),
            reason: last.and_then(|last| last.reason.clone()),
            what_if: last.map(|last| last.what_if.clone()).unwrap_or_default(),
            // the newest that was identified, else why the newest was not
            lm: self.lm_identified.as_ref().or(self.lm.as_ref()).cloned(),
        }
    }
}

impl OfWait {
    fn take(&mut self, wait: &QueueWait) {
        self.predicted.add(wait.predicted);
        self.observed.add(wait.observed);
        self.observed_proxy.add(wait.observed_proxy);
        self.observed_app.add(wait.observed_app);
        self.predicted_low.add(wait.predicted_low);
        self.predicted_high.add(wait.predicted_high);
    }

    fn middle(&self) -> QueueWait {
        QueueWait {
            predicted: self.predicted.middle(),
            observed: self.observed.middle(),
            observed_proxy: self.observed_proxy.middle(),
            observed_app: self.observed_app.middle(),
            predicted_low: self.predicted_low.middle(),
            predicted_high: self.predicted_high.middle(),
        }
    }
}

impl Known {
    fn of(estimate: &Estimate) -> Self {
        let Estimate { servers, model, reason, what_if, .. } = estimate;
        Self { servers: *servers, model: model.clone(), reason: reason.clone(), what_if: what_if.clone() }
    }
}

impl OfEdge {
    fn take(&mut self, view: &EdgeView) {
        self.rate_per_s.add(view.rate_per_s);
        self.error_ratio.add(view.error_ratio);
        self.duration_ms_p50.add(view.duration_ms_p50);
        self.duration_ms_p99.add(view.duration_ms_p99);
    }

    fn report(&self, caller: &str, callee: &str) -> EdgeReport {
        let middle = |series: &Series| series.middle().unwrap_or(0.0);
        EdgeReport {
            caller: caller.to_owned(),
            callee: callee.to_owned(),
            rate_per_s: middle(&self.rate_per_s),
            error_ratio: middle(&self.error_ratio),
            duration_ms_p50: middle(&self.duration_ms_p50),
            duration_ms_p99: middle(&self.duration_ms_p99),
        }
    }
}
