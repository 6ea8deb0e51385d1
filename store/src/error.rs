//! Errors, a variant per thing the caller would do differently.

use std::{io, path::PathBuf};

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process writes this folder.
    #[error("{dir} is in use by process {pid}{}", url.as_ref().map(|u| format!(", which serves {u}")).unwrap_or_default())]
    Locked {
        /// The data folder.
        dir: PathBuf,
        /// Who holds it.
        pid: u32,
        /// Where it answers, if it serves.
        url: Option<String>,
    },
    /// The folder cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The log or a table is not what this version writes.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an append is refused. Nothing of it is acked; none but `Closed` is final.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// Rows in memory reached their limit: files are written slower than rows come.
    #[error("{held_bytes} bytes wait to be written, the limit is {limit_bytes}")]
    Overloaded {
        /// Bytes in memory.
        held_bytes: u64,
        /// Their limit.
        limit_bytes: u64,
    },
    /// The disk is full; appends go on by themselves once there is room.
    #[error("the disk is full")]
    DiskFull,
    /// The disk failed; the segment is sealed and the next append starts a new one.
    #[error("the log cannot be written: {0}")]
    Disk(String),
    /// The store is closing.
    #[error("the store is closed")]
    Closed,
}

/// Why the store failed at its own work.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A Delta log cannot be read or written.
    #[error("delta log of {table}: {message}")]
    Delta {
        /// Which table.
        table: &'static str,
        /// What went wrong.
        message: String,
    },
    /// A Parquet file cannot be read or written.
    #[error("parquet: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// Rows cannot be put together.
    #[error("arrow: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
    /// A log record cannot be decoded although its checksum is right.
    #[error("log record {sequence}: {message}")]
    Record {
        /// Which.
        sequence: u64,
        /// Why.
        message: String,
    },
    /// The store is closing.
    #[error("the store is closed")]
    Closed,
}

/// What a statement names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// A table.
    Table,
    /// A column.
    Column,
    /// A function.
    Function,
}

/// Why a statement has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SqlError {
    /// It cannot be parsed or planned.
    #[error("{0}")]
    Syntax(String),
    /// It names something that is not there.
    #[error("{1}")]
    Unknown(Name, String),
    /// It would change something.
    #[error("only SELECT, WITH, VALUES, EXPLAIN, DESCRIBE and SHOW TABLES are allowed, not {0}")]
    NotReadOnly(String),
    /// Its text is too long.
    #[error("the statement has {bytes} bytes, the limit is {limit}")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// It has too many tokens.
    #[error("the statement has more than {limit} tokens")]
    TooManyTokens {
        /// The limit.
        limit: usize,
    },
    /// Its parentheses nest too deep.
    #[error("the statement nests deeper than {limit}")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// It is short and comes to too much.
    #[error("the statement has more than {limit} {what}: ask in several statements")]
    TooComplex {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// Its reader does not read, and so do too many others.
    #[error("{limit} answers wait for readers that do not read, so this one was ended: read it faster, or add a LIMIT")]
    Unread {
        /// The limit.
        limit: usize,
    },
    /// It needs more memory than all statements may use.
    #[error("the statement needs more memory than the limit: {0}")]
    Memory(String),
    /// It ran too long.
    #[error("the statement ran longer than {limit_ms} ms")]
    Timeout {
        /// The limit.
        limit_ms: u64,
    },
    /// It answers too many rows.
    #[error("the answer has more than {limit} rows: add a LIMIT or a narrower WHERE")]
    TooManyRows {
        /// The limit.
        limit: usize,
    },
    /// It failed while it ran.
    #[error("{0}")]
    Execution(String),
}
