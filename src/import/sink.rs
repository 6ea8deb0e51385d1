//! Where imported chunks go: a folder opened here, whose rows of `operations` and `edges` are made
//! good at the end; or a running server, through its OTLP/HTTP door.
//!
//! Spans are stored as they are given, also when a file is imported twice. Their minutes are then
//! counted anew from what is stored, exact duplicates once, so the second time adds nothing to
//! `operations` and `edges`. Which minutes these are is noted before spans are stored: the next server
//! finishes for an import that was killed.

use anyhow::Context;
use arrow::{
    array::{Array, AsArray},
    datatypes::Int64Type,
    record_batch::RecordBatch,
};
use bytes::Bytes;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use weir_schema::{Batch, Encoding, MINUTE_NS, Signal, UnixNanos, otlp};
use weir_store::{AppendError, Appended, OtlpRequest, Store};

use super::{Chunk, zipkin::attribute};
use crate::{
    cli::TargetArgs,
    exit::Unreachable,
    server::{Checkpoint, complete_minutes, now_unix_nano},
    target::{Server, Target, client},
};

/// Rows of one OTLP request to a server: well under the usual 4 MiB.
const ROWS_PER_REQUEST: usize = 8192;

/// How soon a store that has no room is asked again.
const ROOM_AGAIN: Duration = Duration::from_millis(50);

/// What became of a chunk.
#[derive(Default)]
pub(super) struct Stored {
    pub(super) spans: u64,
    pub(super) duplicates: u64,
    pub(super) rejected: u64,
    pub(super) first_rejection: Option<String>,
}

/// Where chunks go.
pub(super) enum Sink {
    Local(Local),
    Remote { endpoint: String, client: reqwest::Client },
}

/// A folder opened here.
pub(super) struct Local {
    store: Store,
    /// As it was before this import, with the minutes of this import added.
    noted: Checkpoint,
    /// Whether nothing was incomplete before.
    was_complete: bool,
    minutes: BTreeSet<UnixNanos>,
}

impl Sink {
    pub(super) async fn open(args: &TargetArgs) -> Result<Self, anyhow::Error> {
        match Target::open(args).await? {
            Target::Local(store) => Ok(Self::Local(Local::new(store))),
            Target::Remote(server) => Ok(Self::Remote { endpoint: otlp_http(server).await?, client: client()? }),
        }
    }

    pub(super) async fn store(&mut self, chunk: Chunk) -> Result<Stored, anyhow::Error> {
        match self {
            Self::Local(local) => match chunk {
                Chunk::Otlp { encoding, body, .. } => local.store_otlp(encoding, body).await,
                Chunk::Rows(batch) => local.store_rows(batch).await,
            },
            Self::Remote { endpoint, client } => match chunk {
                Chunk::Otlp { encoding, body, .. } => post(client, endpoint, encoding, body).await,
                Chunk::Rows(batch) => post_rows(client, endpoint, &batch.rows).await,
            },
        }
    }

    /// Makes the rows of the minutes that got spans and writes everything to files.
    pub(super) async fn finish(self) -> Result<(), anyhow::Error> {
        match self {
            Self::Local(local) => local.finish().await,
            Self::Remote { .. } => Ok(()),
        }
    }
}

impl Local {
    fn new(store: Store) -> Self {
        let before = Checkpoint::read(&store);
        let status = store.status();
        let empty = status.memory_rows == 0 && status.tables.iter().all(|table| table.rows == 0);
        let was_complete = before.as_ref().map_or(empty, |checkpoint| checkpoint.complete);
        let noted = before.unwrap_or_else(|| Checkpoint { received_until: now_unix_nano(), ..Checkpoint::default() });
        Self { store, noted, was_complete, minutes: BTreeSet::new() }
    }

    async fn store_otlp(&mut self, encoding: Encoding, body: Bytes) -> Result<Stored, anyhow::Error> {
        let received_unix_nano = now_unix_nano();
        let decoded = match otlp::decode(Signal::Traces, encoding, &body, received_unix_nano) {
            Ok(decoded) => decoded,
            Err(error) => {
                return Ok(Stored { rejected: 1, first_rejection: Some(error.to_string()), ..Stored::default() });
            }
        };
        if let Some(batch) = &decoded.batch {
            self.note(batch).await;
        }
        let codec_version = otlp::CODEC_VERSION;
        let request = OtlpRequest { signal: Signal::Traces, encoding, codec_version, received_unix_nano, body };
        let appended = patiently(|| self.store.append_otlp(request.clone(), decoded.batch.clone())).await?;
        let (spans, duplicates) = if appended.duplicate { (0, decoded.accepted) } else { (decoded.accepted, 0) };
        Ok(Stored { spans, duplicates, rejected: decoded.rejected, first_rejection: decoded.first_rejection })
    }

    async fn store_rows(&mut self, batch: Batch) -> Result<Stored, anyhow::Error> {
        self.note(&batch).await;
        let spans = batch.rows.num_rows() as u64;
        patiently(|| self.store.append_rows(batch.clone())).await?;
        Ok(Stored { spans, ..Stored::default() })
    }

    /// Notes the minutes of spans before they are stored.
    async fn note(&mut self, batch: &Batch) {
        let starts = batch.rows.column_by_name("start_unix_nano").map(|c| c.as_primitive::<Int64Type>());
        let minutes = starts.into_iter().flat_map(|starts| starts.iter().flatten());
        let known = self.minutes.len();
        self.minutes.extend(minutes.map(|start| start.div_euclid(MINUTE_NS).saturating_mul(MINUTE_NS)));
        if self.minutes.len() > known {
            let mut noted = self.noted.clone();
            noted.minutes.extend(&self.minutes);
            noted.complete = false;
            noted.write(&self.store).await;
        }
    }

    async fn finish(self) -> Result<(), anyhow::Error> {
        complete_minutes(&self.store, &self.minutes).await.context("counting what was imported")?;
        Checkpoint { complete: self.was_complete, ..self.noted }.write(&self.store).await;
        self.store.flush().await.context("writing files")?;
        self.store.close().await.context("closing the store")
    }
}

/// The OTLP/HTTP door of a server: told by its folder, or by the URL's host at the usual port.
async fn otlp_http(server: Server) -> Result<String, anyhow::Error> {
    if let Some(url) = server.otlp_http {
        return Ok(format!("{url}/v1/traces"));
    }
    let config: Value = async {
        let response = client()?.get(format!("{}/api/v1/status", server.web)).send().await?;
        Ok::<_, anyhow::Error>(response.error_for_status()?.json().await?)
    }
    .await
    .map_err(|error| Unreachable(format!("{} does not answer: {error:#}", server.web)))?;
    let url = config.pointer("/endpoints/otlp_http").and_then(Value::as_str);
    let url = url.ok_or_else(|| Unreachable(format!("{} names no OTLP/HTTP endpoint", server.web)))?;
    Ok(format!("{url}/v1/traces"))
}

async fn post(
    client: &reqwest::Client,
    endpoint: &str,
    encoding: Encoding,
    body: Bytes,
) -> Result<Stored, anyhow::Error> {
    let decoded = match otlp::decode(Signal::Traces, encoding, &body, now_unix_nano()) {
        Ok(decoded) => decoded,
        Err(error) => return Ok(Stored { rejected: 1, first_rejection: Some(error.to_string()), ..Stored::default() }),
    };
    let content_type = match encoding {
        Encoding::Protobuf => "application/x-protobuf",
        Encoding::Json => "application/json",
    };
    send(client, endpoint, content_type, body).await?;
    let (spans, rejected) = (decoded.accepted, decoded.rejected);
    Ok(Stored { spans, rejected, first_rejection: decoded.first_rejection, ..Stored::default() })
}

async fn post_rows(client: &reqwest::Client, endpoint: &str, rows: &RecordBatch) -> Result<Stored, anyhow::Error> {
    let mut stored = Stored::default();
    for offset in (0..rows.num_rows()).step_by(ROWS_PER_REQUEST) {
        let part = rows.slice(offset, ROWS_PER_REQUEST.min(rows.num_rows() - offset));
        let body = Bytes::from(to_otlp(&part).encode_to_vec());
        let answer = send(client, endpoint, "application/x-protobuf", body).await?;
        let partial = ExportTraceServiceResponse::decode(answer)?.partial_success.unwrap_or_default();
        let rejected = u64::try_from(partial.rejected_spans).unwrap_or(0);
        stored.spans += part.num_rows() as u64 - rejected;
        stored.rejected += rejected;
        stored.first_rejection = stored.first_rejection.or((rejected > 0).then_some(partial.error_message));
    }
    Ok(stored)
}

async fn send(
    client: &reqwest::Client,
    endpoint: &str,
    content_type: &str,
    body: Bytes,
) -> Result<Bytes, anyhow::Error> {
    loop {
        let request = client.post(endpoint).header("content-type", content_type).body(body.clone());
        let response = request.send().await.map_err(|e| Unreachable(format!("{endpoint} does not answer: {e}")))?;
        let status = response.status();
        let retry_after_s = response.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        let answer = response.bytes().await?;
        match (status.is_success(), status.as_u16(), retry_after_s) {
            (true, ..) => return Ok(answer),
            (_, 429 | 503, Some(seconds)) => tokio::time::sleep(std::time::Duration::from_secs(seconds.min(30))).await,
            _ => anyhow::bail!("{endpoint} answered {status}: {}", String::from_utf8_lossy(&answer)),
        }
    }
}

/// The rows of a Parquet import as OTLP: only the columns such a file has.
fn to_otlp(rows: &RecordBatch) -> ExportTraceServiceRequest {
    let binary = |name: &str| rows.column_by_name(name).map(|c| c.as_binary::<i32>());
    let text = |name: &str| rows.column_by_name(name).map(|c| c.as_string::<i32>());
    let time = |name: &str| rows.column_by_name(name).map(|c| c.as_primitive::<Int64Type>());
    let mut by_service: BTreeMap<&str, Vec<Span>> = BTreeMap::new();
    if let (Some(trace), Some(id), Some(parent), Some(service), Some(operation), Some(start), Some(duration)) = (
        binary("trace_id"),
        binary("span_id"),
        binary("parent_span_id"),
        text("service"),
        text("operation"),
        time("start_unix_nano"),
        time("duration_ns"),
    ) {
        for row in 0..rows.num_rows() {
            let start_time_unix_nano = u64::try_from(start.value(row)).unwrap_or(0);
            let span = Span {
                trace_id: trace.value(row).to_vec(),
                span_id: id.value(row).to_vec(),
                parent_span_id: if parent.is_valid(row) { parent.value(row).to_vec() } else { Vec::new() },
                name: operation.value(row).to_owned(),
                start_time_unix_nano,
                end_time_unix_nano: start_time_unix_nano + u64::try_from(duration.value(row)).unwrap_or(0),
                ..Span::default()
            };
            by_service.entry(service.value(row)).or_default().push(span);
        }
    }
    let resource_spans = by_service.into_iter().map(|(service, spans)| {
        let attributes = vec![attribute("service.name", &Value::String(service.to_owned()))];
        let resource = Some(Resource { attributes, ..Resource::default() });
        ResourceSpans {
            resource,
            scope_spans: vec![ScopeSpans { spans, ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        }
    });
    ExportTraceServiceRequest { resource_spans: resource_spans.collect() }
}

/// Appends as soon as there is room: an import is faster than the disk, and waits for it.
async fn patiently<F: Future<Output = Result<Appended, AppendError>>>(
    append: impl Fn() -> F,
) -> Result<Appended, AppendError> {
    loop {
        match append().await {
            Err(AppendError::Overloaded { .. }) => tokio::time::sleep(ROOM_AGAIN).await,
            appended => return appended,
        }
    }
}
