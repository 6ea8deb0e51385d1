//! What is seen of a request, and how it leaves: one record a span into the data thread's own ring, which
//! never blocks; the control thread gathers them, encodes spans to OTLP, writes access logs and shows taps.

mod access_log;
mod catalog;
mod client;
mod conventions;
mod durations;
mod encode;
mod export;
mod lm_stats;
mod loss;
mod measures;
mod record;
mod retry;
mod ring;
mod said;
mod stats;
mod tap;
mod wire;

pub(crate) use access_log::{LogWriter, finish as finish_access_logs, line};
pub(crate) use catalog::{ENDPOINT, Entry, OWN, SECURITY};
pub(crate) use durations::BOUNDS_S;
pub(crate) use export::{Exporter, unix_nano_now};
pub(crate) use lm_stats::{LmStats, Metric as LmMetric};
pub(crate) use loss::Loss;
pub(crate) use record::{Action, Failure, LmRecord, Proof, SpanRecord};
pub(crate) use retry::jittered;
pub(crate) use ring::{Gatherer, Recorder, Rings, Wanted, rings};
pub(crate) use said::Said;
pub(crate) use stats::{RouteStats, WAIT_BOUNDS_S};
pub(crate) use tap::{TapBody, TapError, Taps};
