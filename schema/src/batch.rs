//! [`Batch`]: rows of one table, as they move from the collector to the store and the analyzer.

use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};

use crate::Table;

/// Nanoseconds since the Unix epoch, UTC: event time everywhere.
pub type UnixNanos = i64;

/// A minute: the step of rows of `operations` and `edges`.
pub const MINUTE_NS: i64 = 60_000_000_000;

/// Rows of one table, in that table's schema.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Whose columns these are.
    pub table: Table,
    /// The rows.
    pub rows: RecordBatch,
}

/// What an OTLP request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Signal {
    /// `ExportTraceServiceRequest`.
    Traces,
    /// `ExportMetricsServiceRequest`.
    Metrics,
    /// `ExportLogsServiceRequest`.
    Logs,
}

/// How an OTLP request is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Encoding {
    /// Binary protobuf.
    Protobuf,
    /// OTLP/JSON: ids in hex, 64-bit integers as strings, enums as numbers.
    Json,
}

impl Signal {
    /// The table its rows land in.
    #[must_use]
    pub fn table(self) -> Table {
        match self {
            Self::Traces => Table::Spans,
            Self::Metrics => Table::Metrics,
            Self::Logs => Table::Logs,
        }
    }
}
