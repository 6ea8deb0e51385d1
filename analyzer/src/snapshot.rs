//! [`Snapshot`]: what the analyzer knows at the end of a window, for pages, API and commands.

mod estimate;
mod requests;

pub(crate) use estimate::LOAD_FACTORS;
pub use estimate::{
    Capacity, Closed, Estimate, Lately, Limited, OperationTime, QueueWait, ReplicaEstimate, Scaling, Steady, WhatIf,
};
pub use requests::Requests;
use serde::{Deserialize, Serialize};
use weir_policy::{Policy, PolicySet};
use weir_schema::UnixNanos;

use crate::{findings::Kind, lm::LmView};

/// The mesh at the end of a window.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// End of the window; 0 before the first.
    pub time_unix_nano: UnixNanos,
    /// Its length.
    pub window_ms: u64,
    /// Every service seen lately, by name.
    pub services: Vec<ServiceView>,
    /// Every edge seen lately.
    pub edges: Vec<EdgeView>,
    /// Open findings by rank, then closed ones, newest first.
    pub findings: Vec<FindingView>,
    /// What is regulated.
    pub policy: PolicySet,
    /// The controller.
    pub control: ControlView,
    /// What was counted.
    pub counters: Counters,
    /// Some whole requests of the last windows, for what-if; not part of the JSON.
    #[serde(skip)]
    pub requests: Requests,
}

/// What stands at a node of the graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// A service whose own spans we see.
    #[default]
    Service,
    /// A database somebody calls.
    Database,
    /// A queue or topic.
    Messaging,
    /// A host or client without spans of its own.
    External,
}

/// How a node or edge does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Within what is usual.
    Healthy,
    /// Some errors, or slower than usual.
    Degraded,
    /// Many errors, or the cause of a finding.
    Unhealthy,
    /// No traffic in this window.
    #[default]
    Idle,
}

/// One node of the graph.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ServiceView {
    /// Its name.
    pub service: String,
    /// What it is.
    pub kind: NodeKind,
    /// Requests completed per second.
    pub rate_per_s: f64,
    /// Share that failed.
    pub error_ratio: f64,
    /// Mean duration of those that were not shed.
    #[serde(default)]
    pub duration_ms_mean: f64,
    /// Median duration.
    pub duration_ms_p50: f64,
    /// 95th percentile.
    pub duration_ms_p95: f64,
    /// 99th percentile.
    pub duration_ms_p99: f64,
    /// Its queue.
    pub estimate: Estimate,
    /// How it does.
    pub health: Health,
    /// Whether an open finding accuses it: a fault, and its own.
    pub bottleneck: bool,
    /// Its operations.
    pub operations: Vec<OperationView>,
    /// Its replicas.
    pub instances: Vec<String>,
    /// The concurrency limit in force.
    pub limit: Option<u32>,
    /// Mean requests in it at once.
    pub in_flight: f64,
    /// Mean time a request waits for calls to others: it holds a place meanwhile, but no worker.
    pub downstream_ms: f64,
    /// Share that failed by the service's own doing: no call of it failed, and policy did not shed it.
    pub own_error_ratio: f64,
    /// Requests its proxy shed per second.
    pub shed_per_s: f64,
    /// Prompt tokens per second.
    pub input_tokens_per_s: f64,
    /// Generated tokens per second.
    pub output_tokens_per_s: f64,
    /// Median time to the first token.
    pub time_to_first_token_ms_p50: Option<f64>,
    /// Its server, capacity and predictions, if it streams a model's answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lm: Option<LmView>,
    /// End of the last window in which it had traffic.
    pub last_seen_unix_nano: UnixNanos,
    /// The requests that need it, by where they entered, those with most of them first; 20 at most.
    #[serde(default)]
    pub entries: Vec<EntryView>,
    /// Requests it gets for one that enters the mesh anywhere, by the rates of all edges.
    #[serde(default)]
    pub visits_per_request: Option<f64>,
    /// The nearest service through which every request to this one passes; `None` when requests enter
    /// here, or on ways that share nothing.
    #[serde(default)]
    pub dominator: Option<String>,
    /// Services that call each other in a circle with this one.
    #[serde(default)]
    pub cycle: Vec<String>,
    /// What its failure would touch.
    #[serde(default)]
    pub blast_radius: BlastRadius,
}

/// Requests that entered by one operation, as one service sees them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EntryView {
    /// The service they entered by.
    pub service: String,
    /// Its operation; `None` when only the rates of edges tell of it.
    pub operation: Option<String>,
    /// How many enter there.
    pub requests_per_s: f64,
    /// Share of them that needs this service; `None` when only rates tell.
    pub share: Option<f64>,
    /// Calls to this service for one of them.
    pub visits_per_request: f64,
}

/// What the failure of a service would touch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BlastRadius {
    /// Share of all requests that entered the mesh and needs it; `None` when no trace shows one that does.
    pub request_share: Option<f64>,
    /// Share of all that waits for it: what is called beside something longer, or by nobody waiting, is left out.
    pub critical_share: Option<f64>,
    /// How many services call it, directly or not.
    pub upstream: u32,
    /// Their names, those with most requests first; 50 at most.
    pub services: Vec<String>,
}

/// One operation of a service.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct OperationView {
    /// The span name.
    pub operation: String,
    /// The span kind.
    pub kind: String,
    /// Per second.
    pub rate_per_s: f64,
    /// Share that failed.
    pub error_ratio: f64,
    /// Median duration.
    pub duration_ms_p50: f64,
    /// 95th percentile.
    pub duration_ms_p95: f64,
    /// 99th percentile.
    pub duration_ms_p99: f64,
}

/// One edge of the graph.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EdgeView {
    /// Who calls.
    pub caller: String,
    /// Who is called.
    pub callee: String,
    /// Calls per second.
    pub rate_per_s: f64,
    /// Share that failed.
    pub error_ratio: f64,
    /// Median duration at the callee.
    pub duration_ms_p50: f64,
    /// 95th percentile.
    pub duration_ms_p95: f64,
    /// 99th percentile.
    pub duration_ms_p99: f64,
    /// Median of client minus server duration.
    pub gap_ms_p50: Option<f64>,
    /// Share of the calls' time in which the caller waits for them and for nothing that ends later.
    #[serde(default)]
    pub critical_share: Option<f64>,
    /// Calls for one request of the caller; `None` when no request is seen there.
    #[serde(default)]
    pub calls_per_request: Option<f64>,
    /// What the caller is: `external` when it sends no spans.
    #[serde(default)]
    pub caller_kind: NodeKind,
    /// How it does.
    pub health: Health,
    /// The caller's breaker for it.
    pub breaker: Option<BreakerView>,
    /// End of the last window in which it had traffic.
    pub last_seen_unix_nano: UnixNanos,
}

/// The state of a breaker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BreakerView {
    /// `closed`: it is set and lets everything pass; `shedding`: it turns a share of the calls away.
    pub state: String,
    /// Share of calls it sheds.
    pub shed_ratio: f64,
}

/// Whether a finding still holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingState {
    /// It holds.
    #[default]
    Open,
    /// It is over.
    Closed,
}

/// A finding for people.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FindingView {
    /// The same through its life.
    pub finding_id: String,
    /// 1 is the worst that is open; 0 when closed.
    pub rank: u32,
    /// Whether it holds.
    pub state: FindingState,
    /// The cause.
    pub service: String,
    /// The operation, when one stands out.
    pub operation: Option<String>,
    /// `bottleneck`, `slow_instance`, `slow_dependency`, `error_source`, `retry_storm`, `upstream_surge`, `missing_calls`,
    /// `new_calls`, `changed_calls`, `saturation_ahead` or `model_mismatch`.
    pub kind: String,
    /// When it began, as far as requests tell: before it opened.
    pub onset_unix_nano: UnixNanos,
    /// When it ended.
    pub closed_unix_nano: Option<UnixNanos>,
    /// Milliseconds that requests lose per second: higher is worse.
    pub score: f64,
    /// Probability that the cause is right: how far beyond chance, from how many requests, against how much history, and
    /// its share of what is lost at services that may be of one cause with it.
    pub confidence: f64,
    /// Whether it is told against a level (the objective `slo_ms`, or servers that are full) and not against what was usual: such a
    /// one may have been there from the start, and what else happens meanwhile is usual.
    #[serde(default)]
    pub standing: bool,
    /// One sentence.
    pub summary: String,
    /// What it rests on.
    pub evidence: Vec<Evidence>,
    /// Services that only wait for it, or are loaded by it.
    pub victims: Vec<String>,
    /// Where most of the requests that it touches enter.
    #[serde(default)]
    pub entry: Option<String>,
    /// Milliseconds that a request at the entry loses by it, on average over all of them.
    #[serde(default)]
    pub impact_ms: f64,
    /// Share of the entry's requests that it touches.
    #[serde(default)]
    pub impact_ratio: f64,
    /// The replica, when it is one of several.
    #[serde(default)]
    pub instance: Option<String>,
    /// The other side: the caller that waits or repeats calls, the service that a surge loads, the callee that is
    /// called otherwise.
    #[serde(default)]
    pub peer: Option<String>,
    /// What to do about it.
    #[serde(default)]
    pub action: String,
}

impl FindingView {
    /// Whether it is of a fault that was not always there.
    pub(crate) fn is_new_fault(&self) -> bool {
        !self.standing && Kind::is_fault(&self.kind)
    }
}

/// One thing a finding rests on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// The sentence.
    pub text: String,
    /// Its number.
    pub value: Option<f64>,
    /// The number's unit.
    pub unit: Option<String>,
    /// A trace that shows it.
    pub trace_id: Option<String>,
    /// SQL that shows it.
    pub sql: Option<String>,
}

/// The controller for people.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ControlView {
    /// Whether policy follows findings.
    pub enabled: bool,
    /// Whether changes are only proposed.
    pub dry_run: bool,
    /// Whether everything was lifted by hand.
    pub kill_switch: bool,
    /// Policies set by hand.
    pub overrides: Vec<OverrideView>,
}

/// A policy set by hand.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OverrideView {
    /// What it says.
    pub policy: Policy,
    /// Who set it.
    pub author: String,
    /// When it ends; `None` when it is taken back.
    pub expires_unix_nano: Option<UnixNanos>,
}

/// What the analyzer counted since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Distinct spans.
    pub spans: u64,
    /// Exact duplicates, ignored.
    pub duplicates: u64,
    /// Spans that came after their window was closed: in the rollups, not in the estimates.
    pub late: u64,
    /// Spans let go early because too many were held.
    pub evicted: u64,
    /// Spans of requests that were left out of root causes, whole requests at a time, because there were too many.
    #[serde(default)]
    pub sampled_out: u64,
    /// Spans that end more than a minute after they were received: a clock is wrong. In the rollups, not in the estimates.
    #[serde(default)]
    pub skewed: u64,
    /// Spans beyond those that one window keeps: in the rollups, not in the estimates.
    #[serde(default)]
    pub beyond_window: u64,
    /// Uses of names beyond the bound: they count as `(other)` or `other hosts`.
    #[serde(default)]
    pub names_refused: u64,
    /// Spans and calls beyond the rows of minutes that are kept, other operations and callees together included: hostile
    /// times. They are in no rollup.
    #[serde(default)]
    pub rows_refused: u64,
    /// Log records that root causes of windows did not look at because too many came.
    #[serde(default)]
    pub logs_dropped: u64,
    /// The same of readings of metrics.
    #[serde(default)]
    pub metrics_dropped: u64,
    /// Keys of what is usual that the last note for a restart had no room for: those seen least.
    #[serde(default)]
    pub history_left_out: u64,
    /// Requests to replicas beyond those of the mesh that are told apart: of their services no queue is estimated.
    #[serde(default)]
    pub stations_refused: u64,
    /// Requests of LM services beyond those that are looked at.
    #[serde(default)]
    pub lm_refused: u64,
    /// Uses of keys of what is usual beyond the bound of their sort: what has none is not judged.
    #[serde(default)]
    pub history_refused: u64,
}

#[cfg(test)]
mod document_tests;
