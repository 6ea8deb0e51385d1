//! Answers of SQL over HTTP, sent as they come. An error before the first rows has its status; one
//! after them ends the connection, so that no answer looks whole when it is not. A reader that goes
//! away stops the statement.

use arrow::{datatypes::SchemaRef, error::ArrowError, ipc::writer::StreamWriter, record_batch::RecordBatch};
use axum::{
    body::{Body, Bytes},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::{Stream, StreamExt, TryStreamExt, stream, stream::BoxStream};
use serde_json::{Value, json};
use weir_store::{SqlAnswer, SqlError, render};

use crate::error::ApiError;

/// What an answer leaves out, a header each.
pub(crate) const WARNING: HeaderName = HeaderName::from_static("weir-warning");

type Piece = Result<Bytes, SqlError>;

/// An answer whose first rows are here: most statements that fail do so before them.
pub(crate) struct Begun {
    schema: SchemaRef,
    /// What is left out.
    warnings: Vec<String>,
    rows: BoxStream<'static, Result<RecordBatch, SqlError>>,
}

impl Begun {
    /// Waits for the first rows or the end.
    pub(crate) async fn wait(mut answer: SqlAnswer) -> Result<Self, SqlError> {
        let first = answer.stream.try_next().await?;
        let rows = stream::iter(first.map(Ok)).chain(answer.stream).boxed();
        Ok(Self { schema: answer.schema, warnings: answer.warnings, rows })
    }
}

/// Comma-separated, with a header.
pub(crate) fn csv(answer: Begun) -> Response {
    let head = Bytes::from(render::csv_header(&answer.schema));
    let rows = answer.rows.map(|batch| batch.map(|batch| Bytes::from(render::csv_rows(&batch))));
    respond("text/csv; charset=utf-8", &answer.warnings, once(head).chain(rows))
}

/// `{"columns": […], "warnings": […], "rows": […]}`.
pub(crate) fn json(answer: Begun) -> Response {
    let column = |f: &arrow::datatypes::FieldRef| json!({"name": f.name(), "type": f.data_type().to_string()});
    let columns: Vec<Value> = render::shown_schema(&answer.schema).fields().iter().map(column).collect();
    let (columns, warnings) = (Value::Array(columns), json!(answer.warnings));
    let head = Bytes::from(format!("{{\"columns\":{columns},\"warnings\":{warnings},\"rows\":["));
    let mut first = true;
    let rows = answer.rows.map(move |batch| batch.map(|batch| json_rows(&batch, &mut first)));
    respond("application/json", &answer.warnings, once(head).chain(rows).chain(once(Bytes::from_static(b"]}"))))
}

/// Whether the letters of attribute types, which are not for people, are in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Letters {
    Sent,
    Hidden,
}

/// An Arrow IPC stream.
pub(crate) fn arrow(mut answer: Begun, letters: Letters) -> Result<Response, ApiError> {
    let failed = |e: ArrowError| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "arrow", e.to_string());
    if letters == Letters::Hidden {
        answer.schema = render::shown_schema(&answer.schema);
        let shown = |batch: RecordBatch| render::shown(&batch).map_err(|e| SqlError::Execution(e.to_string()));
        answer.rows = answer.rows.map(move |batch| batch.and_then(shown)).boxed();
    }
    let writer = StreamWriter::try_new(Vec::new(), &answer.schema).map_err(failed)?;
    let batches = answer.rows.map(Some).chain(once_end());
    let pieces = batches.scan(Some(writer), |writer, batch| {
        let piece = arrow_piece(writer, batch);
        std::future::ready(piece)
    });
    Ok(respond("application/vnd.apache.arrow.stream", &answer.warnings, pieces))
}

/// What a batch, or the end, adds to the stream; nothing after an error.
fn arrow_piece(
    writer: &mut Option<StreamWriter<Vec<u8>>>,
    batch: Option<Result<RecordBatch, SqlError>>,
) -> Option<Piece> {
    let mut open = writer.take()?;
    let written = match batch {
        Some(Err(error)) => return Some(Err(error)),
        Some(Ok(batch)) => open.write(&batch),
        None => open.finish(),
    };
    if let Err(error) = written {
        return Some(Err(SqlError::Execution(error.to_string())));
    }
    let piece = Bytes::from(std::mem::take(open.get_mut()));
    *writer = Some(open);
    Some(Ok(piece))
}

fn json_rows(batch: &RecordBatch, first: &mut bool) -> Bytes {
    let mut text = String::new();
    for row in render::to_json_rows(batch) {
        if !std::mem::take(first) {
            text.push(',');
        }
        text.push_str(&row.to_string());
    }
    Bytes::from(text)
}

fn once(piece: Bytes) -> impl Stream<Item = Piece> {
    stream::once(std::future::ready(Ok(piece)))
}

fn once_end<T>() -> impl Stream<Item = Option<T>> {
    stream::once(std::future::ready(None))
}

fn respond(
    content_type: &'static str,
    warnings: &[String],
    pieces: impl Stream<Item = Piece> + Send + 'static,
) -> Response {
    let mut response = ([(header::CONTENT_TYPE, content_type)], Body::from_stream(pieces)).into_response();
    // forms that have no place for them: names of files are plain text
    for warning in warnings.iter().filter_map(|warning| HeaderValue::from_str(warning).ok()) {
        response.headers_mut().append(WARNING, warning);
    }
    response
}
