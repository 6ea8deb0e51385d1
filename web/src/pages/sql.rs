//! `/sql?q=`: a statement and its answer, rendered here, so that the address is all there is to share.

use std::time::Instant;

use arrow::datatypes::DataType;
use askama::Template;
use axum::{
    extract::{Query, State},
    response::Response,
};
use futures::StreamExt;
use serde::Deserialize;
use serde_json::Value;
use weir_store::render;

use super::{Pages, html};
use crate::{deps::Deps, error::ApiError};

/// Rows shown; the files hold all.
const SHOWN_ROWS: usize = 500;

/// Statements to begin with: what, and how.
const EXAMPLES: [(&str, &str); 5] = [
    (
        "Requests, errors and latency of each service",
        "SELECT service, count(*) AS spans, sum(CASE WHEN status = 'error' THEN 1 ELSE 0 END) AS errors,\n       percentile(duration_ns, 0.5) / 1e6 AS p50_ms, percentile(duration_ns, 0.99) / 1e6 AS p99_ms\nFROM spans WHERE kind = 'server' GROUP BY service ORDER BY spans DESC",
    ),
    (
        "Who calls whom",
        "SELECT caller, callee, sum(count) AS calls, sum(error_count) AS errors\nFROM edges GROUP BY caller, callee ORDER BY calls DESC",
    ),
    (
        "The slowest requests",
        "SELECT trace_id, service, operation, duration_ns / 1e6 AS duration_ms\nFROM spans WHERE parent_span_id IS NULL ORDER BY duration_ns DESC LIMIT 20",
    ),
    (
        "Waits in the proxies, second by second",
        "SELECT time_bucket('1 second', start_unix_nano) AS second, service, count(*) AS requests,\n       avg(queue_wait_ns) / 1e6 AS wait_ms, max(in_flight) AS in_flight\nFROM spans WHERE direction = 'inbound' GROUP BY second, service ORDER BY second DESC, service LIMIT 100",
    ),
    ("What was decided, and why", "SELECT * FROM policy_changes ORDER BY time_unix_nano DESC LIMIT 50"),
];

#[derive(Template)]
#[template(path = "sql.html")]
struct SqlPage {
    page: &'static str,
    statement: String,
    error: String,
    summary: String,
    /// What the answer leaves out.
    warnings: Vec<String>,
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
    tables: Vec<TableView>,
    examples: [(&'static str, &'static str); 5],
}

struct Column {
    name: String,
    kind: String,
    numeric: bool,
}

struct Cell {
    text: String,
    numeric: bool,
    /// Opens this trace.
    trace: Option<String>,
}

struct TableView {
    name: String,
    columns: Vec<(String, String)>,
}

#[derive(Default)]
struct Answered {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
    summary: String,
    warnings: Vec<String>,
}

#[derive(Deserialize)]
pub(super) struct Statement {
    q: Option<String>,
}

pub(super) async fn page(State(pages): State<Pages>, Query(statement): Query<Statement>) -> Response {
    let statement = statement.q.unwrap_or_default();
    let answered = match statement.trim() {
        "" => Ok(Answered::default()),
        statement => ask(&pages.deps, statement).await,
    };
    let (answered, error) = match answered {
        Ok(answered) => (answered, String::new()),
        Err(error) => (Answered::default(), error.message),
    };
    let Answered { columns, rows, summary, warnings } = answered;
    let tables = tables(&pages.deps).await;
    html(&SqlPage { page: "/sql", statement, error, summary, warnings, columns, rows, tables, examples: EXAMPLES })
}

async fn ask(deps: &Deps, statement: &str) -> Result<Answered, ApiError> {
    let started = Instant::now();
    let mut answer = deps.store.sql(statement, None).await?;
    let columns: Vec<Column> = render::shown_schema(&answer.schema)
        .fields()
        .iter()
        .map(|field| Column {
            name: field.name().clone(),
            kind: kind(field.data_type()),
            numeric: field.data_type().is_numeric(),
        })
        .collect();
    let (mut rows, mut count) = (Vec::new(), 0);
    while let Some(batch) = answer.stream.next().await {
        let batch = batch?;
        count += batch.num_rows();
        let room = SHOWN_ROWS.saturating_sub(rows.len()).min(batch.num_rows());
        rows.extend(render::to_json_rows(&batch.slice(0, room)).iter().map(|row| cells(row, &columns)));
    }
    let shown = if count > rows.len() { format!(", the first {} shown", rows.len()) } else { String::new() };
    let summary = format!("{count} rows in {:.0} ms{shown}", started.elapsed().as_secs_f64() * 1e3);
    Ok(Answered { columns, rows, summary, warnings: answer.warnings })
}

fn cells(row: &Value, columns: &[Column]) -> Vec<Cell> {
    let cell = |column: &Column| {
        let value = &row[&column.name];
        let text = match value {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let is_trace = column.name == "trace_id" && text.len() == 32;
        Cell { trace: is_trace.then(|| text.clone()), text, numeric: column.numeric }
    };
    columns.iter().map(cell).collect()
}

/// The tables and their columns, as an empty answer of each shows them.
async fn tables(deps: &Deps) -> Vec<TableView> {
    let mut tables = Vec::new();
    for table in deps.store.status().tables {
        let Ok(answer) = deps.store.ask(&format!("SELECT * FROM {} LIMIT 0", table.name), None).await else { continue };
        let columns = answer.schema.fields().iter().map(|f| (f.name().clone(), kind(f.data_type()))).collect();
        tables.push(TableView { name: table.name.to_string(), columns });
    }
    tables
}

fn kind(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => "text".into(),
        DataType::Binary | DataType::BinaryView | DataType::FixedSizeBinary(_) => "bytes".into(),
        DataType::Dictionary(_, values) => kind(values),
        DataType::List(_) => "list".into(),
        DataType::Map(..) => "map".into(),
        DataType::Struct(_) => "struct".into(),
        DataType::Timestamp(..) => "timestamp".into(),
        other => other.to_string().to_lowercase(),
    }
}
