//! The codec from OTLP bytes to a [`Batch`]: pure, and the same live and when a log is replayed.
//!
//! Protobuf goes straight from the request's bytes into the builders of the columns: nothing of a
//! request is copied but what becomes a cell. OTLP/JSON is written as protobuf and takes the same way
//! from there, so both give the same rows.
//!
//! A request that cannot be read is refused whole ([`DecodeError`]). A span that can be read but
//! not used (no id, end before start) is left out and counted, and the good ones are kept: the
//! sender is told by `partial_success`. Nesting is bounded by the parsers (100 levels of protobuf,
//! 128 of JSON).

mod json;
mod logs;
mod metrics;
mod rows;
mod scope;
mod source;
mod traces;
mod value;
mod wire;

use std::borrow::Cow;

use crate::{Batch, Encoding, Signal, UnixNanos};

pub(crate) use value::{Attribute, Value, nested};
pub use wire::Malformed;

/// Grows when the same bytes would give other rows: a log says which codec it was acked under.
pub const CODEC_VERSION: u16 = 4;

/// The service of a resource that names none.
pub const UNKNOWN_SERVICE: &str = "unknown_service";

/// What a request held.
#[derive(Debug, Default)]
pub struct Decoded {
    /// Its rows; `None` when there is none.
    pub batch: Option<Batch>,
    /// Rows that are in the batch.
    pub accepted: u64,
    /// Rows that could not be used.
    pub rejected: u64,
    /// Where the first of those stands, and why.
    pub first_rejection: Option<String>,
    /// What is stored without something that cannot be used: where it first stands, and what it is.
    pub first_warning: Option<String>,
}

/// Why a request cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not this protobuf message; the text names message and field.
    #[error("malformed protobuf: {0}")]
    Protobuf(#[from] Malformed),
    /// The text is not this OTLP/JSON message.
    #[error("malformed OTLP/JSON: {path}{source}")]
    Json {
        /// The way to the field, with a colon; empty when it is not known.
        path: String,
        /// What is wrong there, with line and column.
        source: serde_json::Error,
    },
}

/// Decodes one OTLP request.
///
/// # Errors
/// Bytes that are not the request they are said to be.
pub fn decode(
    signal: Signal,
    encoding: Encoding,
    body: &[u8],
    received_unix_nano: UnixNanos,
) -> Result<Decoded, DecodeError> {
    let body = match encoding {
        Encoding::Protobuf => Cow::Borrowed(body),
        Encoding::Json => Cow::Owned(json::protobuf(signal, body)?),
    };
    let rows = |check| match signal {
        Signal::Traces => traces::rows(&body, received_unix_nano, check),
        Signal::Metrics => metrics::rows(&body, received_unix_nano, check),
        Signal::Logs => logs::rows(&body, received_unix_nano, check),
    };
    // columns check their text when they are finished and cannot say which cell it was; a request
    // that is refused anyway is read once more, text by text, to name the field
    let decoded = rows(Check::ByColumn).or_else(|_| rows(Check::ByRecord))?;
    Ok(decoded)
}

/// When the text of records is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    ByColumn,
    ByRecord,
}

/// OTLP times are unsigned; a time past the year 2262 is clamped rather than wrapped.
fn nanos(time: u64) -> UnixNanos {
    UnixNanos::try_from(time).unwrap_or(UnixNanos::MAX)
}

#[cfg(test)]
mod differential;
#[cfg(test)]
mod tests;
