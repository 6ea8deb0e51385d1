//! The contract of what weir measures: the tables and their columns, the [`Batch`] that crosses
//! crate borders, and the pure codec from OTLP bytes to a `Batch`.
//!
//! No I/O, no clock, no async: a Batch decoded live and one read back from a file are the same
//! value, so whatever reads one cannot tell incident from replay.

pub mod attribute;
pub mod batch;
mod cells;
pub mod columns;
pub mod otlp;
mod setting;
pub mod table;

pub use batch::{Batch, Encoding, MINUTE_NS, Signal, UnixNanos};
pub use setting::InvalidSetting;
pub use table::Table;
