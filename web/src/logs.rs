//! Log records of a trace, by time, page by page.

use std::fmt;

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
const DEFAULT_LOGS: usize = 500;

/// Records of one time are in the same order in every answer; those that do not differ in all of this may change places.
const ORDER: &str = "time_unix_nano, received_unix_nano, service, span_id, body";

/// Some records, and where the rest begins if there are more.
pub(crate) struct Page {
    pub(crate) logs: Vec<Value>,
    pub(crate) next: Option<Cursor>,
}

/// Where a page of records ended, and what had been received when the first page was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// The time of its last record.
    time_unix_nano: i64,
    /// Records of this very time that were answered.
    answered: usize,
    as_of_unix_nano: i64,
}

/// `?trace_id=`, and `span_id`, `from`, `to`, `limit` and `cursor` if need be.
pub(crate) async fn answer(deps: &Deps, fields: &Fields) -> Result<Value, ApiError> {
    fields.only(&["trace_id", "span_id", "from", "to", "limit", "cursor"])?;
    let (now, trace_id) = (now_unix_nano(), hex_id::<16>("trace_id", fields.required("trace_id")?)?);
    let mut conditions = vec![format!("trace_id = '{trace_id}'")];
    if let Some(span_id) = fields.get("span_id") {
        conditions.push(format!("span_id = '{}'", hex_id::<8>("span_id", span_id)?));
    }
    let after = fields.get("cursor").map(Cursor::parse).transpose()?;
    // a time ago is the same time on every page
    let now = after.map_or(now, |cursor| cursor.as_of_unix_nano);
    conditions.extend(TimeRange::of(fields, now)?.map(|range| range.condition("time_unix_nano")));
    let limit = fields.limit(DEFAULT_LOGS, MAX_LOGS)?;
    let Page { logs, next } = page(deps, conditions, limit, after, now).await?;
    Ok(json!({"trace_id": trace_id, "logs": logs, "next": next.map(|next| next.to_string())}))
}

/// The first records of a trace.
pub(crate) async fn of_trace(deps: &Deps, trace_id: &str) -> Result<Page, ApiError> {
    page(deps, vec![format!("trace_id = '{trace_id}'")], DEFAULT_LOGS, None, now_unix_nano()).await
}

async fn page(
    deps: &Deps,
    mut conditions: Vec<String>,
    limit: usize,
    after: Option<Cursor>,
    now: i64,
) -> Result<Page, ApiError> {
    let as_of_unix_nano = after.map_or(now, |cursor| cursor.as_of_unix_nano);
    if let Some(cursor) = after {
        conditions.push(format!("time_unix_nano >= {}", cursor.time_unix_nano));
        conditions.push(format!("received_unix_nano <= {as_of_unix_nano}"));
    }
    let (conditions, skipped) = (conditions.join(" AND "), after.map_or(0, |cursor| cursor.answered));
    let statement =
        format!("SELECT * FROM logs WHERE {conditions} ORDER BY {ORDER} LIMIT {} OFFSET {skipped}", limit + 1);
    let mut logs = ask_json(deps, &statement).await?;
    let is_cut = logs.len() > limit;
    logs.truncate(limit);
    let next = is_cut.then(|| Cursor::behind(&logs, after, as_of_unix_nano)).flatten();
    Ok(Page { logs, next })
}

impl Cursor {
    /// Behind the last of these, which came after `before`.
    fn behind(logs: &[Value], before: Option<Self>, as_of_unix_nano: i64) -> Option<Self> {
        let time = |log: &Value| log["time_unix_nano"].as_i64();
        let time_unix_nano = time(logs.last()?)?;
        // those that came while the first page was read stand in no later one
        let known = |log: &&Value| log["received_unix_nano"].as_i64().is_none_or(|at| at <= as_of_unix_nano);
        let of_that_time = logs.iter().rev().take_while(|log| time(log) == Some(time_unix_nano)).filter(known).count();
        let before = before.filter(|before| before.time_unix_nano == time_unix_nano);
        let answered = of_that_time + before.map_or(0, |before| before.answered);
        Some(Self { time_unix_nano, answered, as_of_unix_nano })
    }

    /// Reads what [`fmt::Display`] wrote.
    fn parse(text: &str) -> Result<Self, ApiError> {
        let read = || {
            let mut parts = text.splitn(3, '.');
            let time_unix_nano = parts.next()?.parse().ok()?;
            let answered = parts.next()?.parse().ok()?;
            Some(Self { time_unix_nano, answered, as_of_unix_nano: parts.next()?.parse().ok()? })
        };
        read().ok_or_else(|| ApiError::bad_request(format!("cursor={text:?} is not the \"next\" of an answer")))
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.time_unix_nano, self.answered, self.as_of_unix_nano)
    }
}

/// An id of N bytes, lower case.
fn hex_id<const N: usize>(name: &str, text: &str) -> Result<String, ApiError> {
    let mut bytes = [0; N];
    let read = hex::decode_to_slice(text, &mut bytes);
    read.map_err(|_| ApiError::bad_request(format!("{name}={text:?}: {} hex digits are an id", 2 * N)))?;
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_counts_the_records_of_its_time_over_pages() {
        let logs = |times: &[i64]| times.iter().map(|time| json!({"time_unix_nano": time})).collect::<Vec<_>>();
        let first = Cursor::behind(&logs(&[1, 2, 2]), None, 9).unwrap();
        assert_eq!(first, Cursor { time_unix_nano: 2, answered: 2, as_of_unix_nano: 9 });
        assert_eq!(Cursor::parse(&first.to_string()).unwrap(), first);
        let second = Cursor::behind(&logs(&[2, 2]), Some(first), 9).unwrap();
        assert_eq!((second.time_unix_nano, second.answered), (2, 4));
        let third = Cursor::behind(&logs(&[2, 3]), Some(second), 9).unwrap();
        assert_eq!((third.time_unix_nano, third.answered), (3, 1));
        assert!(Cursor::parse("2.x.9").is_err());
    }
}
