//! What the store says of itself.

use serde::Serialize;

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
    /// Why the last flush failed, if it did.
    pub last_error: Option<String>,
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
