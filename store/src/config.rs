//! What the store can be told.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};
use weir_schema::{InvalidSetting, Table, UnixNanos};

use crate::sampling::Sampling;

/// The longest a statement may run, in milliseconds.
pub(crate) const MAX_TIMEOUT_MS: u64 = 600_000;

/// The folder of small values that survive restarts.
pub(crate) const CHECKPOINTS: &str = "checkpoints";

const HOUR_NS: i64 = 3_600_000_000_000;

/// The store's configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The data folder.
    #[serde(skip)]
    pub dir: PathBuf,
    /// Names this writer in the Delta logs; folders that are merged later need different names.
    pub node: String,
    /// Rows of one table in memory that start a flush. 131,072: one row group, which is never written anew.
    pub flush_rows: usize,
    /// The oldest a row in memory gets before it is flushed, in milliseconds.
    pub flush_age_ms: u64,
    /// Size at which the log starts a new segment, in bytes.
    pub wal_segment_bytes: u64,
    /// Rows in memory beyond which requests are refused until a flush made room, in bytes; weir's own
    /// rows (operations, edges, findings) have an eighth more.
    pub memory_limit_bytes: u64,
    /// Files of one table, small ones or of whole row groups, at which they become one.
    pub compact_files: usize,
    /// Free space on the disk below which appends are refused, in bytes: files still have to be written.
    pub min_free_bytes: u64,
    /// What is dropped when it is too old or too much.
    pub retention: Retention,
    /// Which traces are kept, when not all are.
    pub sampling: Sampling,
    /// Limits of SQL.
    pub sql: SqlConfig,
}

/// What is dropped, in whole files. Off by default.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Rows older than this, in hours of event time; 0 keeps them.
    pub max_age_hours: u64,
    /// The same for single tables, in place of it: `operations: 8760` keeps rates for a year.
    pub max_age_hours_of: BTreeMap<Table, u64>,
    /// Bytes of all tables beyond which the oldest spans, logs and metrics go; 0 keeps them.
    pub max_bytes: u64,
}

impl Retention {
    /// The time that rows of a table must reach to be kept; `None` when they are kept whatever their age.
    pub(crate) fn oldest(&self, table: Table, now: UnixNanos) -> Option<UnixNanos> {
        let hours = *self.max_age_hours_of.get(&table).unwrap_or(&self.max_age_hours);
        let nanos = i64::try_from(hours).unwrap_or(i64::MAX).saturating_mul(HOUR_NS);
        (hours > 0).then(|| now.saturating_sub(nanos))
    }
}

/// Bounds of one statement.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SqlConfig {
    /// Memory of all running statements together, in bytes.
    pub memory_bytes: usize,
    /// How long a statement may run, in milliseconds.
    pub timeout_ms: u64,
    /// Rows a statement may answer.
    pub max_rows: usize,
    /// Length of its text, in bytes.
    pub max_text_bytes: usize,
    /// Tokens in its text: 3,000 terms in a row overflow a parser's stack.
    pub max_tokens: usize,
    /// Depth of its parentheses.
    pub max_depth: usize,
    /// Statements that run at once; further ones wait their turn within their own time limit. Those of the
    /// server itself (pages, traces) have as many turns of their own.
    pub concurrency: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("weir-data"),
            node: "weir".into(),
            flush_rows: 131_072,
            flush_age_ms: 5_000,
            wal_segment_bytes: 64 << 20,
            memory_limit_bytes: 512 << 20,
            compact_files: 24,
            min_free_bytes: 256 << 20,
            retention: Retention::default(),
            sampling: Sampling::default(),
            sql: SqlConfig::default(),
        }
    }
}

impl Default for SqlConfig {
    fn default() -> Self {
        Self {
            memory_bytes: 1 << 30,
            timeout_ms: 30_000,
            max_rows: 5_000_000,
            max_text_bytes: 64 << 10,
            max_tokens: 4_000,
            max_depth: 60,
            concurrency: 8,
        }
    }
}

impl Config {
    /// Where the log is.
    pub(crate) fn wal_dir(&self) -> PathBuf {
        self.dir.join("wal")
    }

    /// Where the tables are.
    pub(crate) fn tables_dir(&self) -> PathBuf {
        self.dir.join("tables")
    }

    /// Where small values are kept.
    pub(crate) fn checkpoints_dir(&self) -> PathBuf {
        self.dir.join(CHECKPOINTS)
    }

    /// Where statements put what does not fit into their memory.
    pub(crate) fn scratch_dir(&self) -> PathBuf {
        self.dir.join("scratch")
    }

    /// Where what is damaged is kept for people.
    pub(crate) fn quarantine_dir(&self) -> PathBuf {
        self.dir.join("quarantine")
    }

    /// Checks that the numbers can work together.
    ///
    /// # Errors
    /// The first that cannot be used.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        let numbers: [(&str, u64, u64); 10] = [
            ("flush_rows", self.flush_rows as u64, 1),
            ("wal_segment_bytes", self.wal_segment_bytes, 1 << 20),
            ("memory_limit_bytes", self.memory_limit_bytes, 16 << 20),
            ("compact_files", self.compact_files as u64, 2),
            ("sql.concurrency", self.sql.concurrency as u64, 1),
            ("sql.memory_bytes", self.sql.memory_bytes as u64, 1 << 20),
            ("sql.max_rows", self.sql.max_rows as u64, 1),
            ("sql.max_text_bytes", self.sql.max_text_bytes as u64, 1),
            ("sql.max_tokens", self.sql.max_tokens as u64, 1),
            ("sql.max_depth", self.sql.max_depth as u64, 1),
        ];
        if self.node.is_empty() {
            return Err(InvalidSetting::new("node", "empty", "be a name"));
        }
        if let Some((key, value, least)) = numbers.into_iter().find(|(_, value, least)| value < least) {
            return Err(InvalidSetting::new(key, value, format!("be at least {least}")));
        }
        if !(1..=MAX_TIMEOUT_MS).contains(&self.sql.timeout_ms) {
            let must = format!("be 1 to {MAX_TIMEOUT_MS}: files that were replaced stay that long for statements");
            return Err(InvalidSetting::new("sql.timeout_ms", self.sql.timeout_ms, must));
        }
        self.sampling.validate().map_err(|invalid| invalid.within("sampling"))
    }
}
