//! What is appended, and what the caller is told.

use bytes::Bytes;
use weir_schema::{Encoding, Signal, UnixNanos};

/// An accepted OTLP request as it goes into the log.
#[derive(Clone, Debug)]
pub struct OtlpRequest {
    /// What it carries.
    pub signal: Signal,
    /// How it is written.
    pub encoding: Encoding,
    /// The codec that made its rows, so that a replay makes the same ones.
    pub codec_version: u16,
    /// When the collector took it.
    pub received_unix_nano: UnixNanos,
    /// Its bytes, inflated.
    pub body: Bytes,
}

/// The answer to an append: it is durable and visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its place in the log.
    pub wal_sequence: u64,
    /// The same bytes were stored within the last ten minutes; they were not stored again.
    pub duplicate: bool,
}
