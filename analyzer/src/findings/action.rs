//! What to do, as a sentence: by kind, with the numbers of the finding.
//!
//! Servers: as many as bring utilization to four fifths, `c' = ⌈λS/0.8⌉`. Concurrency: as many requests as c servers keep
//! busy while none waits longer than the budget, `⌈c(S + W + D)/S⌉` by Little's law, D what a request waits for
//! others while it holds a place; where c is not known, what is usually in the service at once.

use super::{own_time::Slow, scene::Scene};
use crate::{model::Model, snapshot::Estimate, spans::Name};

/// Utilization that leaves room.
pub(super) const ROOM: f64 = 0.8;

pub(super) fn bottleneck(scene: &Scene, slow: &Slow) -> String {
    let text = scene.text(slow.service);
    let Some(capacity) = Capacity::of(scene, slow.service) else {
        let usual = scene.history.arrivals.usual(slow.service).map_or(0.0, |usual| usual.median);
        let in_flight = (usual * slow.usual.median / 1e3).ceil().max(1.0);
        return format!(
            "find what {text} does in {:.0} ms more, or undo its last change; {in_flight:.0} requests in it at once were usual, so a limit there keeps callers from waiting",
            slow.excess_ms
        );
    };
    capacity.sentence(text)
}

pub(super) fn surge(scene: &Scene, entry: Name, service: Name, usual_per_s: f64) -> String {
    let (from, to) = (scene.text(entry), scene.text(service));
    let capacity = Capacity::of(scene, service);
    let add = capacity.map_or_else(|| format!("add capacity to {to}"), |capacity| capacity.sentence(to));
    format!("{add}; or admit less at {from}, where {usual_per_s:.0} requests/s were usual")
}

/// Of a service that is full. Of one whose servers or service time are not known no number is said.
pub(super) fn full(scene: &Scene, service: Name) -> String {
    let text = scene.text(service);
    Capacity::of(scene, service).map_or_else(
        || format!("add capacity to {text}, or admit less at the entry"),
        |capacity| capacity.sentence(text),
    )
}

/// Of a service that keeps requests from the objective.
pub(super) fn objective(scene: &Scene, service: Name, own_ms: f64) -> String {
    let text = scene.text(service);
    match Capacity::of(scene, service).filter(|capacity| capacity.missing() > 0) {
        Some(capacity) => capacity.sentence(text),
        None => format!("find what {text} does in {own_ms:.0} ms: what is saved there is saved for each request"),
    }
}

pub(super) fn slow_instance(service: &str, instance: &str, share: f64, siblings: usize) -> String {
    format!(
        "take {instance} out of {service} and restart it or move it: it has {:.0} % of the requests, and {siblings} healthy {} remain",
        share * 100.0,
        if siblings == 1 { "sibling" } else { "siblings" }
    )
}

pub(super) fn error_source(service: &str, share: f64) -> String {
    format!(
        "look at the errors of {service} and undo its last change; a breaker towards it spares callers the {share:.0} % that fail"
    )
}

pub(super) fn slow_dependency(caller: &str, callee: &str, unseen: bool, excess_ms: f64) -> String {
    if unseen {
        format!(
            "look at {callee}: it sends no spans, so what it does in {excess_ms:.0} ms more is not seen from here; a timeout in {caller} bounds the damage"
        )
    } else {
        format!(
            "look at the network, proxies and connection pools between {caller} and {callee}: {excess_ms:.0} ms more are spent there"
        )
    }
}

pub(super) fn retry_storm(caller: &str, callee: &str, attempts: f64) -> String {
    format!(
        "let {caller} repeat no more than 10 % of its calls to {callee} (now {:.0} %), with a growing pause; then mend {callee}",
        (attempts - 1.0) * 100.0
    )
}

pub(super) fn missing_calls(what: &str, callee: &str) -> String {
    format!(
        "check the last change: {what}; if that is meant, it becomes usual within the hour, else {callee}'s part is missing from answers that look right"
    )
}

pub(super) fn new_calls(what: &str, callee: &str) -> String {
    format!(
        "check the last change: {what}; if that is meant, it becomes usual within the hour, and {callee} needs the capacity for it"
    )
}

pub(super) fn saturation_ahead(scene: &Scene, service: Name, estimate: &Estimate, minutes: f64) -> String {
    let text = scene.text(service);
    if Model::of(estimate) == Some(Model::Lm) {
        return format!("add a replica to {text} within {minutes:.0} min, or admit less at the entry by then");
    }
    let capacity = Capacity::of(scene, service);
    let servers = capacity.map_or(estimate.servers.unwrap_or(1), |capacity| capacity.missing().max(1));
    format!("add {servers} {} to {text} within {minutes:.0} min, or admit less at the entry by then", plural(servers))
}

pub(super) fn model_mismatch(service: &str, estimate: &Estimate, waits_longer: bool) -> String {
    let why = if waits_longer {
        "it has fewer servers than that, or something else makes requests wait"
    } else {
        "it has more servers than that, or does not serve in order"
    };
    let servers = estimate.servers.unwrap_or(1);
    format!(
        "say the number of servers of {service} in analyzer.servers (now taken as {servers}): {why}; do not rely on its headroom until then"
    )
}

/// What the ranking of traces blames somebody for, where no detector says more.
pub(crate) fn cause(service: &str, operation: Option<&str>, lost_ms: f64) -> String {
    let what = operation.map_or_else(|| service.to_owned(), |operation| format!("{operation} of {service}"));
    format!("look at the trace and at the last change of {what}: a request loses {lost_ms:.0} ms by it")
}

/// What a service can do.
#[derive(Clone, Copy)]
struct Capacity {
    servers: u32,
    service_ms: f64,
    rate_per_s: f64,
    downstream_ms: f64,
    wait_budget_ms: f64,
}

impl Capacity {
    fn of(scene: &Scene, service: Name) -> Option<Self> {
        let estimate = scene.estimate(service)?;
        let window = scene.window.services.get(&service)?;
        let usual = scene.history.arrivals.usual(service).map_or(0.0, |usual| usual.median);
        let now = super::surge::arrivals(window).map_or(0.0, |now| now.median);
        Some(Self {
            servers: estimate.servers?,
            service_ms: estimate.service_time_ms?,
            rate_per_s: usual.max(now).max(estimate.arrival_rate_per_s),
            downstream_ms: estimate.elsewhere_ms(window.downstream_ms.mean().unwrap_or(0.0)),
            wait_budget_ms: scene.levels.wait_budget_ms,
        })
    }

    /// Servers that are missing for utilization to leave room.
    fn missing(self) -> u32 {
        let needed = (self.rate_per_s * self.service_ms / 1e3 / ROOM).ceil() as u32;
        needed.saturating_sub(self.servers)
    }

    fn limit(self) -> f64 {
        let stays_ms = self.service_ms + self.wait_budget_ms + self.downstream_ms;
        (f64::from(self.servers) * stays_ms / self.service_ms.max(1e-9)).ceil()
    }

    fn sentence(self, service: &str) -> String {
        let limit = self.limit();
        match self.missing() {
            0 => format!(
                "limit {service} to {limit:.0} concurrent requests; its {} {} suffice",
                self.servers,
                plural(self.servers)
            ),
            n => format!("add {n} {} to {service} or limit it to {limit:.0} concurrent requests", plural(n)),
        }
    }
}

fn plural(servers: u32) -> &'static str {
    if servers == 1 { "server" } else { "servers" }
}
