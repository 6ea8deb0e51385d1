//! [`Snapshot`]: what the analyzer knows at the end of a window, for pages, API and commands.

mod estimate;

use std::sync::Arc;

pub use estimate::{
    Capacity, Closed, Estimate, Limited, OperationTime, QueueWait, ReplicaEstimate, Scaling, Steady, WhatIf,
};
use serde::{Deserialize, Serialize};
use weir_policy::{Policy, PolicySet};
use weir_schema::UnixNanos;

use crate::retiming::Request;

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
    pub requests: Arc<Vec<Request<Arc<str>>>>,
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
    /// A host without spans of its own.
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
    /// Its namespace, when known.
    pub namespace: Option<String>,
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
    /// Whether an open finding names it.
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
    /// End of the last window in which it had traffic.
    pub last_seen_unix_nano: UnixNanos,
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
    /// `bottleneck` or `error_source`.
    pub kind: String,
    /// When it began.
    pub onset_unix_nano: UnixNanos,
    /// When it ended.
    pub closed_unix_nano: Option<UnixNanos>,
    /// Milliseconds of excess per second: higher is worse.
    pub score: f64,
    /// Probability that the cause is right.
    pub confidence: f64,
    /// One sentence.
    pub summary: String,
    /// What it rests on.
    pub evidence: Vec<Evidence>,
    /// Services that only wait for it.
    pub victims: Vec<String>,
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
}
