//! [`Telemetry`]: what leaves the proxy about its traffic, in which form, and how much may wait.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::RemoteTls;

/// Where spans, metrics and access logs go, and how many of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// OTLP/gRPC, as `http://host:port` or `https://host:port`; nothing is recorded when absent.
    pub otlp: Option<String>,
    /// How the collector of an `https://` address is known and whom this workload shows itself as; by the system's roots and
    /// the host's name when absent.
    pub tls: Option<RemoteTls>,
    /// The share of traces started here that is recorded. What is recorded says what it stands for (`tracestate: ot=th:…`), so
    /// rates and utilization stay those of all requests. A trace that comes in is recorded if its caller says so, and what a
    /// caller leaves out is missing from them: it is counted in `weir_proxy_unsampled_by_caller_total`.
    pub span_ratio: f64,
    /// How traces are continued: the first form that a request has is believed, all are written.
    pub propagation: Vec<Propagation>,
    /// Which requests leave an access log.
    pub access_log: AccessLog,
    /// The share of those that leave one.
    pub access_log_ratio: f64,
    /// A file that access logs are appended to as lines, `-` for stdout, beside those sent as OTLP.
    pub access_log_file: Option<PathBuf>,
    /// What the lines look like.
    pub access_log_format: LogFormat,
    /// 65,536 records (about 30 MiB; 110 MiB where every path has 1 KiB) that wait while the collector is away; newer ones
    /// are dropped and counted.
    pub queue_records: usize,
    /// 512 spans: about 260 KiB, well under the collector's 4 MiB.
    pub batch_spans: usize,
    /// 200 ms until a batch leaves although it is not full.
    pub batch_age_ms: u64,
    /// 5 s between two exports of metrics.
    pub metrics_interval_ms: u64,
    /// 30 s that one batch is tried again before it is given up.
    pub retry_ms: u64,
    /// 5 s that the last batches get when the proxy stops.
    pub flush_ms: u64,
}

/// A form in which a trace's context travels; the words of `OTEL_PROPAGATORS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    /// W3C: `traceparent` and `tracestate`.
    Tracecontext,
    /// B3 in one field, `b3`.
    B3,
    /// B3 in several fields, `x-b3-…`.
    B3multi,
}

/// What a line of the access log looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// An object with the attributes of the span.
    #[default]
    Json,
    /// Words in a fixed order.
    Text,
}

/// Which requests leave an access log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessLog {
    /// None.
    Off,
    /// Those that were shed, denied, rejected, failed, or were answered with a 5xx.
    #[default]
    Errors,
    /// Every one.
    All,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            otlp: None,
            tls: None,
            span_ratio: 1.0,
            propagation: vec![Propagation::Tracecontext],
            access_log: AccessLog::default(),
            access_log_ratio: 1.0,
            access_log_file: None,
            access_log_format: LogFormat::default(),
            queue_records: 65_536,
            batch_spans: 512,
            batch_age_ms: 200,
            metrics_interval_ms: 5_000,
            retry_ms: 30_000,
            flush_ms: 5_000,
        }
    }
}
