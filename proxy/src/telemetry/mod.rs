//! What is seen of a request, and how it leaves: one record a span into a bounded queue that never
//! blocks, encoded to OTLP and sent by the control thread.

mod client;
mod encode;
mod export;
mod lm_stats;
mod record;
mod stats;
mod wire;

pub(crate) use export::{Exporter, SpanSender, channel, jittered, unix_nano_now};
pub(crate) use lm_stats::{LmStats, Series};
pub(crate) use record::{Action, Failure, LmRecord, SpanRecord};
pub(crate) use stats::{BOUNDS_S, RouteStats, WAIT_BOUNDS_S};
