//! Log records of a trace, by time.

use serde_json::{Value, json};

use crate::{
    deps::Deps,
    error::ApiError,
    fields::{Fields, TimeRange, now_unix_nano},
    rows::ask_json,
};

/// Log records in one answer.
const MAX_LOGS: usize = 5_000;

/// Log records when nothing is said.
pub(crate) const DEFAULT_LOGS: usize = 500;

/// `?trace_id=`, and `span_id`, `from`, `to` and `limit` if need be.
pub(crate) async fn answer(deps: &Deps, fields: &Fields) -> Result<Value, ApiError> {
    fields.only(&["trace_id", "span_id", "from", "to", "limit"])?;
    let trace_id = hex_id::<16>("trace_id", fields.required("trace_id")?)?;
    let mut conditions = vec![format!("trace_id = '{trace_id}'")];
    if let Some(span_id) = fields.get("span_id") {
        conditions.push(format!("span_id = '{}'", hex_id::<8>("span_id", span_id)?));
    }
    conditions.extend(TimeRange::of(fields, now_unix_nano())?.map(|range| range.condition("time_unix_nano")));
    let limit = fields.limit(DEFAULT_LOGS, MAX_LOGS)?;
    let logs = ask_json(deps, &statement(&conditions, limit)).await?;
    Ok(json!({"trace_id": trace_id, "logs": logs}))
}

/// The first records of a trace.
pub(crate) async fn of_trace(deps: &Deps, trace_id: &str) -> Result<Vec<Value>, ApiError> {
    ask_json(deps, &statement(&[format!("trace_id = '{trace_id}'")], DEFAULT_LOGS)).await
}

fn statement(conditions: &[String], limit: usize) -> String {
    format!("SELECT * FROM logs WHERE {} ORDER BY time_unix_nano LIMIT {limit}", conditions.join(" AND "))
}

/// An id of N bytes, lower case.
fn hex_id<const N: usize>(name: &str, text: &str) -> Result<String, ApiError> {
    let mut bytes = [0; N];
    let read = hex::decode_to_slice(text, &mut bytes);
    read.map_err(|_| ApiError::bad_request(format!("{name}={text:?}: {} hex digits are an id", 2 * N)))?;
    Ok(hex::encode(bytes))
}
