//! The write-ahead log: segments of checksummed records, written by one thread.
//!
//! Requests that arrive while a sync runs form the next group: one write, one fdatasync, many acks.
//! After the sync, and before the acks, the rows become visible in the view, in log order.

mod recent;
mod record;
mod segment;
mod writer;

pub(crate) use recent::Recent;
pub(crate) use record::{Payload, Record};
pub(crate) use segment::{Replay, segments, trim};
pub(crate) use writer::{Append, Writer, WriterParts};
