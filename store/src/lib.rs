//! Durable storage and SQL: a write-ahead log of what was accepted, memory tables of what is not
//! yet in files, Parquet files through a Delta log, and one read-only SQL engine over both.
//!
//! ```text
//! append ─▶ wal (one write, one fdatasync, many requests) ─▶ view: memory ─▶ ack
//!                                                              │ committer
//!                                                              ▼
//!                                     files: sorted Parquet ─▶ Delta commit (txn = sequence)
//!                                                              │
//!           query ◀── one pinned view: memory ∪ files ◀────────┘ swapped at once; then the log is trimmed
//! ```
//!
//! State is derivable from the log alone. A flush commit carries the log sequence it reaches, so a
//! replay after a crash skips exactly what is in files.

mod append;
mod checkpoint;
mod committer;
mod config;
mod derived;
mod disk;
mod error;
mod files;
mod lock;
mod open;
mod parquet_spans;
pub mod postgres;
mod query;
pub mod render;
mod sampling;
mod status;
mod store;
mod view;
mod wal;

pub use append::{Appended, OtlpRequest};
pub use committer::Restored;
pub use config::{Config, Retention, SqlConfig};
pub use error::{AppendError, Name, OpenError, SqlError, StoreError};
pub use lock::LockHolder;
pub use parquet_spans::ParquetSpans;
pub use query::{FunctionDoc, SqlAnswer, functions};
pub use sampling::Sampling;
pub use status::{LogTimes, Status, TableStatus};
pub use store::{Store, TracePlace, TraceRows};
pub use weir_schema::{InvalidSetting, MINUTE_NS};
