//! What the store says of itself.

use serde::Serialize;

pub use crate::wal::LogTimes;

/// The store at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    /// Bytes of the log on disk.
    pub wal_bytes: u64,
    /// Bytes of rows not yet in files.
    pub memory_bytes: u64,
    /// Rows not yet in files.
    pub memory_rows: u64,
    /// Every table.
    pub tables: Vec<TableStatus>,
    /// Files set aside because they are damaged.
    pub quarantined: Vec<String>,
    /// Spans that tail sampling left out of files since the start.
    pub sampled_out_spans: u64,
    /// Log records set aside because they are damaged.
    pub damaged_records: u64,
    /// Whether the log is still being replayed: rows of its past become visible one after the other.
    pub replaying: bool,
    /// Bytes of the log that were replayed since the start.
    pub replayed_bytes: u64,
    /// Bytes of the log that were there at the start.
    pub replay_bytes: u64,
    /// Whether appends are refused because the disk is nearly full.
    pub disk_full: bool,
    /// Why the last flush failed, if it did, or which part of the store stopped.
    pub last_error: Option<String>,
    /// Flushes that failed since the start; their rows stay in memory and in the log.
    pub failed_flushes: u64,
    /// For how long the disk has been at the group of the log that is being written, in milliseconds; 0 when none is.
    pub log_waits_ms: u64,
    /// How long groups of the log took to be durable since the start.
    pub log_times: LogTimes,
}

/// One table.
#[derive(Clone, Debug, Serialize)]
pub struct TableStatus {
    /// Its name.
    pub name: &'static str,
    /// Its files.
    pub files: usize,
    /// Rows in files.
    pub rows: u64,
    /// Bytes of files.
    pub bytes: u64,
}
