//! [`Search`]: which traces are looked for, newest first, a page at a time.
//!
//! A trace matches when one of its spans has everything that is asked; its place in the order is its
//! newest span that matches. The statements are plain conjuncts with `ORDER BY start_unix_nano DESC
//! LIMIT n`, so that they open few files and stop early; nothing is grouped over the whole store.
//! A page ends with a [`Cursor`]; the next one begins below it and sees only what had been received
//! when the first page was made, so that pages neither repeat nor lose a trace while spans arrive.

mod cursor;
mod find;
mod summary;

pub(crate) use cursor::Cursor;
pub(crate) use find::{Found, FoundTrace, NEAR_NS, find, ids, is_one_of};

use crate::{
    error::ApiError,
    fields::{Fields, TimeRange, quoted},
};

/// Traces of a page at most: a larger answer is a job for SQL.
const MAX_TRACES: usize = 5_000;

/// Traces of a page when nothing is said.
const DEFAULT_TRACES: usize = 20;

/// What can be asked.
pub(crate) const FIELDS: [&str; 11] = [
    "service",
    "operation",
    "status",
    "errors",
    "attribute",
    "min_duration_ms",
    "max_duration_ms",
    "from",
    "to",
    "limit",
    "cursor",
];

/// What is asked of one span of a trace.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Search {
    conditions: Vec<String>,
    limit: usize,
    after: Option<Cursor>,
    as_of_unix_nano: i64,
}

impl Search {
    /// Reads [`FIELDS`]: `attribute` is `key=value`, several times if need be, and `resource.key=value`
    /// for an attribute of the resource; an empty field says nothing.
    pub(crate) fn from_fields(fields: &Fields, now: i64) -> Result<Self, ApiError> {
        fields.only(&FIELDS)?;
        let mut conditions = Vec::new();
        if let Some(range) = TimeRange::of(fields, now)? {
            conditions.push(range.condition("start_unix_nano"));
        }
        for name in ["service", "operation", "status"] {
            conditions.extend(fields.get(name).map(|value| format!("{name} = {}", quoted(value))));
        }
        match fields.get("errors") {
            None | Some("false") => {}
            Some("true" | "on") => conditions.push("status = 'error'".to_owned()),
            Some(other) => return Err(ApiError::bad_request(format!("errors={other:?} is neither true nor false"))),
        }
        for (name, sign) in [("min_duration_ms", ">="), ("max_duration_ms", "<=")] {
            conditions.extend(fields.number(name)?.map(|ms| format!("duration_ns {sign} {:.0}", ms * 1e6)));
        }
        for text in fields.all("attribute") {
            conditions.push(attribute(text)?);
        }
        let after = fields.get("cursor").map(Cursor::parse).transpose()?;
        let as_of_unix_nano = after.map_or(now, |cursor| cursor.as_of_unix_nano);
        Ok(Self { conditions, limit: fields.limit(DEFAULT_TRACES, MAX_TRACES)?, after, as_of_unix_nano })
    }

    /// Traces with a span that has all of these conditions.
    pub(crate) fn of_conditions(conditions: Vec<String>, limit: usize, now: i64) -> Self {
        Self { conditions, limit: limit.clamp(1, MAX_TRACES), after: None, as_of_unix_nano: now }
    }

    /// Whether anything narrows it.
    pub(crate) fn narrows(&self) -> bool {
        !self.conditions.is_empty()
    }

    /// Whether it goes on below an earlier page.
    pub(crate) fn goes_on(&self) -> bool {
        self.after.is_some()
    }

    /// What every span must have, also of this.
    fn condition(&self, further: impl IntoIterator<Item = String>) -> String {
        let as_of = self.after.map(|cursor| format!("received_unix_nano <= {}", cursor.as_of_unix_nano));
        let all: Vec<String> = self.conditions.iter().cloned().chain(as_of).chain(further).collect();
        if all.is_empty() { "true".to_owned() } else { all.join(" AND ") }
    }
}

fn attribute(text: &str) -> Result<String, ApiError> {
    let pair = text.split_once('=').filter(|(key, _)| !key.trim().is_empty());
    let (key, value) = pair.ok_or_else(|| ApiError::bad_request(format!("attribute={text:?}: expected key=value")))?;
    let (map, key) = match key.trim().strip_prefix("resource.") {
        Some(key) => ("resource_attributes", key),
        None => ("attributes", key.trim()),
    };
    Ok(format!("{map}[{}] = {}", quoted(key), quoted(value.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::tests::fields;

    fn search(pairs: &[(&str, &str)]) -> Result<Search, ApiError> {
        Search::from_fields(&fields(pairs), 1_000)
    }

    #[test]
    fn fields_become_conditions_and_quotes_stay_inside() {
        let found = search(&[
            ("service", "a'; DROP"),
            ("attribute", "k=v=w"),
            ("attribute", "resource.host=h'"),
            ("min_duration_ms", "1.5"),
            ("errors", "true"),
            ("to", ""),
        ]);
        let condition = found.unwrap().condition(["x".to_owned()]);
        let expected = "service = 'a''; DROP' AND status = 'error' AND duration_ns >= 1500000 \
            AND attributes['k'] = 'v=w' AND resource_attributes['host'] = 'h''' AND x";
        assert_eq!(condition, expected);
        assert!(!search(&[]).unwrap().narrows());
        assert_eq!(search(&[]).unwrap().condition([]), "true");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (key, value) in [
            ("min_duration_ms", "fast"),
            ("min_duration_ms", "-1"),
            ("from", "noon"),
            ("attribute", "k"),
            ("attribute", "=v"),
            ("errors", "some"),
            ("cursor", "7"),
            ("x", "1"),
        ] {
            assert!(search(&[(key, value)]).unwrap_err().message.contains(key), "{key}={value}");
        }
    }
}
