//! The codec from OTLP bytes to a [`Batch`]: pure, and the same live and when a log is replayed.
//!
//! A request that cannot be read is refused whole ([`DecodeError`]). A span that can be read but
//! not used (no id, end before start) is left out and counted, and the good ones are kept: the
//! sender is told by `partial_success`. Nesting is bounded by the parsers (100 levels of protobuf,
//! 128 of JSON).

mod logs;
mod metrics;
mod rows;
mod traces;

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{KeyValue, any_value::Value as Any},
    resource::v1::Resource,
};

use crate::{Batch, Encoding, Signal, UnixNanos};
use rows::Rows;

/// Grows when the same bytes would give other rows: a log says which codec it was acked under.
pub const CODEC_VERSION: u16 = 1;

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
}

/// Why a request cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not this protobuf message; the text names message and field.
    #[error("malformed protobuf: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// The text is not this OTLP/JSON message; the text has line and column.
    #[error("malformed OTLP/JSON: {0}")]
    Json(#[from] serde_json::Error),
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
    match signal {
        Signal::Traces => Ok(traces::rows(read::<ExportTraceServiceRequest>(encoding, body)?, received_unix_nano)),
        Signal::Metrics => Ok(metrics::rows(read::<ExportMetricsServiceRequest>(encoding, body)?, received_unix_nano)),
        Signal::Logs => Ok(logs::rows(read::<ExportLogsServiceRequest>(encoding, body)?, received_unix_nano)),
    }
}

fn read<M: prost::Message + Default + serde::de::DeserializeOwned>(
    encoding: Encoding,
    body: &[u8],
) -> Result<M, DecodeError> {
    match encoding {
        Encoding::Protobuf => Ok(M::decode(body)?),
        Encoding::Json => Ok(serde_json::from_slice(body)?),
    }
}

/// What every row of one resource shares.
struct Source<'a> {
    service: &'a str,
    instance: Option<&'a str>,
    attributes: &'a [KeyValue],
}

impl<'a> Source<'a> {
    fn of(resource: Option<&'a Resource>) -> Self {
        let attributes = resource.map_or(&[][..], |r| &r.attributes);
        let service = text(attributes, "service.name").unwrap_or(UNKNOWN_SERVICE);
        Self { service, instance: text(attributes, "service.instance.id"), attributes }
    }

    fn write(&self, rows: &mut Rows) {
        rows.text("service", Some(self.service));
        rows.text("instance", self.instance);
        rows.attributes("resource_attributes", "resource_attribute_types", self.attributes.iter());
    }
}

/// A string attribute that is not empty.
fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    let value = &attributes.iter().find(|a| a.key == key)?.value.as_ref()?.value;
    if let Some(Any::StringValue(text)) = value { Some(text.as_str()).filter(|t| !t.is_empty()) } else { None }
}

fn non_empty(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// OTLP times are unsigned; a time past the year 2262 is clamped rather than wrapped.
fn nanos(time: u64) -> UnixNanos {
    UnixNanos::try_from(time).unwrap_or(UnixNanos::MAX)
}
