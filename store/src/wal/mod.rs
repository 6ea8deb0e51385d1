//! The write-ahead log: segments of checksummed records, written by one thread.
//!
//! Requests that arrive while a sync runs form the next group: one write, one fdatasync, many acks.
//! After the sync, and before the acks, the rows become visible in the view, in log order.
//!
//! A start reads only the end of the log, which says what sequence comes next and which requests
//! were taken lately; then requests are taken while the rest is replayed in the background.

mod alarm;
mod pace;
mod past;
mod recent;
mod record;
mod refused;
mod replay;
mod segment;
mod writer;

pub(crate) use alarm::Alarm;
pub use pace::LogTimes;
pub(crate) use pace::Pace;
pub(crate) use past::Past;
pub(crate) use record::Payload;
pub(crate) use replay::{Replay, ReplayParts, Through};
pub(crate) use segment::{segments, trim};
pub(crate) use writer::{Append, Writer, WriterParts};
