//! [`Search`]: which traces are looked for, and the statement that finds them.

use std::collections::HashMap;

use crate::error::ApiError;

/// Traces a search answers at most.
const MAX_TRACES: u32 = 500;

/// Traces a search answers when nothing is said.
const DEFAULT_TRACES: u32 = 20;

/// The fields of a search; a trace matches when one of its spans has them all.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Search {
    conditions: Vec<String>,
    limit: u32,
}

impl Search {
    /// Reads `service`, `operation`, `status`, `attribute` (`key=value`), `min_duration_ms`,
    /// `max_duration_ms`, `from`, `to` (RFC 3339) and `limit`; an empty field says nothing.
    pub(crate) fn from_fields(fields: &HashMap<String, String>) -> Result<Self, ApiError> {
        let mut search = Self { conditions: Vec::new(), limit: DEFAULT_TRACES };
        let mut fields: Vec<_> = fields.iter().filter(|(_, value)| !value.trim().is_empty()).collect();
        fields.sort();
        for (key, value) in fields {
            let condition = match key.as_str() {
                "service" | "operation" | "status" => format!("{key} = {}", quoted(value)),
                "attribute" => attribute(value)?,
                "min_duration_ms" => format!("duration_ns >= {:.0}", number(key, value)? * 1e6),
                "max_duration_ms" => format!("duration_ns <= {:.0}", number(key, value)? * 1e6),
                "from" => format!("start_unix_nano >= {}", time(key, value)?),
                "to" => format!("start_unix_nano < {}", time(key, value)?),
                "limit" => {
                    search.limit = (number(key, value)? as u32).clamp(1, MAX_TRACES);
                    continue;
                }
                _ => return Err(ApiError::bad_request(format!("{key} is not a search field"))),
            };
            search.conditions.push(condition);
        }
        Ok(search)
    }

    /// Whether anything narrows it.
    pub(crate) fn narrows(&self) -> bool {
        !self.conditions.is_empty()
    }

    /// The newest traces that match, by their first matching span.
    pub(crate) fn statement(&self) -> String {
        let condition = if self.conditions.is_empty() { "true".to_owned() } else { self.conditions.join(" AND ") };
        format!(
            "SELECT trace_id, min(start_unix_nano) AS start_unix_nano, max(duration_ns) AS duration_ns, \
             count(*) AS matching_spans, sum(CASE WHEN status = 'error' THEN 1 ELSE 0 END) AS error_spans, \
             first_value(service ORDER BY start_unix_nano) AS service, \
             first_value(operation ORDER BY start_unix_nano) AS operation \
             FROM spans WHERE {condition} GROUP BY trace_id ORDER BY start_unix_nano DESC LIMIT {}",
            self.limit
        )
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.trim().replace('\'', "''"))
}

fn number(key: &str, text: &str) -> Result<f64, ApiError> {
    let value = text.trim().parse::<f64>().ok().filter(|value| value.is_finite() && *value >= 0.0);
    value.ok_or_else(|| ApiError::bad_request(format!("{key}={text:?} is not a number from 0")))
}

fn attribute(text: &str) -> Result<String, ApiError> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| ApiError::bad_request(format!("attribute={text:?}: expected key=value")))?;
    Ok(format!("attributes[{}] = {}", quoted(key), quoted(value)))
}

fn time(key: &str, text: &str) -> Result<i64, ApiError> {
    let bad = || ApiError::bad_request(format!("{key}={text:?} is not RFC 3339 such as 2022-08-23T12:00:00Z"));
    let time: jiff::Timestamp = text.trim().parse().map_err(|_| bad())?;
    i64::try_from(time.as_nanosecond()).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(fields: &[(&str, &str)]) -> Result<Search, ApiError> {
        Search::from_fields(&fields.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn fields_become_conditions_and_quotes_stay_inside() {
        let found = search(&[("service", "a'; DROP"), ("attribute", "k=v=w"), ("min_duration_ms", "1.5"), ("to", "")]);
        let statement = found.unwrap().statement();
        assert!(statement.contains("service = 'a''; DROP'"), "{statement}");
        assert!(statement.contains("attributes['k'] = 'v=w' AND duration_ns >= 1500000"), "{statement}");
        assert!(!search(&[]).unwrap().narrows());
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (key, value) in
            [("min_duration_ms", "fast"), ("min_duration_ms", "-1"), ("from", "noon"), ("attribute", "k"), ("x", "1")]
        {
            assert!(search(&[(key, value)]).unwrap_err().message.contains(key), "{key}={value}");
        }
    }
}
