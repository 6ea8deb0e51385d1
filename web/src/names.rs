//! What there is to ask for: services, operations, attribute keys and values.
//!
//! The store keeps `services` and `attribute_keys` by the hour. Both are written when rows go to
//! files, so what is younger is looked up in the rows themselves, of which only a bounded number is
//! read.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::{
    deps::Deps,
    error::ApiError,
    fields::{Fields, TimeRange, now_unix_nano, quoted},
    minutes::{MINUTE_NS, Measured, Of, each_minute},
    red::measured_json,
    rows::{ask, ask_json},
};

const HOUR_NS: i64 = 60 * MINUTE_NS;

/// The newest spans whose attributes are looked at.
const RECENT_SPANS: usize = 2_000;

/// The newest spans among which values of an attribute are counted.
const VALUE_SPANS: usize = 20_000;

/// Keys or values in one answer.
const MAX_ANSWERS: usize = 1_000;

/// Services in a range: who sent what, and the rate, errors and durations of its requests.
pub(crate) async fn services(deps: &Deps, range: TimeRange) -> Result<Value, ApiError> {
    let range = TimeRange { from: range.from.div_euclid(MINUTE_NS) * MINUTE_NS, ..range };
    let mut signals = signals(deps, range).await?;
    let mut measured: BTreeMap<String, [Measured; 2]> = BTreeMap::new();
    each_minute(deps, Of::default(), range, |minute| {
        let [entries, all] = measured.entry(minute.service.clone()).or_default();
        if minute.is_entry() {
            entries.merge(&minute.measured);
        }
        all.merge(&minute.measured);
    })
    .await?;
    for name in measured.keys() {
        signals.entry(name.clone()).or_default().insert("spans".to_owned());
    }
    let service = |(name, signals): (&String, &BTreeSet<String>)| {
        let none = Measured::default();
        let of = measured.get(name).map(|[entries, all]| if entries.count > 0 { entries } else { all });
        let mut json = measured_json(of.unwrap_or(&none), range.seconds());
        json["service"] = name.as_str().into();
        json["signals"] = signals.iter().cloned().collect();
        json
    };
    let services: Vec<Value> = signals.iter().map(service).collect();
    Ok(json!({"from_unix_nano": range.from, "to_unix_nano": range.to, "services": services}))
}

/// By service, the signals it sent.
async fn signals(deps: &Deps, range: TimeRange) -> Result<BTreeMap<String, BTreeSet<String>>, ApiError> {
    let hours = TimeRange { from: range.from.div_euclid(HOUR_NS) * HOUR_NS, ..range };
    let statement =
        format!("SELECT DISTINCT service, signal FROM services WHERE {}", hours.condition("hour_unix_nano"));
    let mut signals: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for rows in ask(deps, &statement).await? {
        for (service, signal) in rows.texts("service")?.into_iter().zip(rows.texts("signal")?) {
            signals.entry(service).or_default().insert(signal);
        }
    }
    Ok(signals)
}

/// The operations of a service, most frequent first.
pub(crate) async fn operations(deps: &Deps, fields: &Fields) -> Result<Value, ApiError> {
    fields.only(&["service", "from", "to", "limit"])?;
    let (service, now) = (fields.required("service")?, now_unix_nano());
    let range = TimeRange::of(fields, now)?.unwrap_or(TimeRange { from: now - 24 * HOUR_NS, to: now });
    let range = TimeRange { from: range.from.div_euclid(MINUTE_NS) * MINUTE_NS, ..range };
    let mut operations: BTreeMap<(String, String), Measured> = BTreeMap::new();
    let of = Of { service: Some(service), operation: None };
    each_minute(deps, of, range, |minute| {
        operations.entry((minute.operation, minute.kind)).or_default().merge(&minute.measured);
    })
    .await?;
    let mut operations: Vec<_> = operations.into_iter().collect();
    operations.sort_by_key(|(_, measured)| std::cmp::Reverse(measured.count));
    let operation = |((operation, kind), measured): &((String, String), Measured)| {
        let mut json = measured_json(measured, range.seconds());
        json["operation"] = operation.as_str().into();
        json["kind"] = kind.as_str().into();
        json
    };
    let limit = fields.limit(MAX_ANSWERS, MAX_ANSWERS)?;
    let operations: Vec<Value> = operations.iter().take(limit).map(operation).collect();
    Ok(json!({"service": service, "from_unix_nano": range.from, "to_unix_nano": range.to, "operations": operations}))
}

/// Attribute keys of spans by name: those that were seen, and where.
pub(crate) async fn attribute_keys(deps: &Deps, fields: &Fields) -> Result<Value, ApiError> {
    fields.only(&["prefix", "signal", "from", "to", "limit"])?;
    let prefix = fields.get("prefix").unwrap_or_default();
    let signal = fields.get("signal").unwrap_or("spans");
    let range = TimeRange::of(fields, now_unix_nano())?;
    let mut keys = indexed_keys(deps, signal, range).await?;
    if signal == "spans" {
        keys.extend(recent_keys(deps, range).await?);
    }
    let limit = fields.limit(MAX_ANSWERS, MAX_ANSWERS)?;
    let matching = keys.into_iter().filter(|key| key.1.starts_with(prefix)).take(limit);
    let keys: Vec<Value> = matching.map(|(level, key)| json!({"level": level, "key": key})).collect();
    Ok(json!({"signal": signal, "keys": keys}))
}

/// The keys as the attribute field of a search takes them.
pub(crate) async fn searchable_keys(deps: &Deps) -> Result<Vec<String>, ApiError> {
    let mut keys = indexed_keys(deps, "spans", None).await?;
    keys.extend(recent_keys(deps, None).await?);
    let name = |(level, key): (String, String)| if level == "resource" { format!("resource.{key}") } else { key };
    Ok(keys.into_iter().map(name).take(MAX_ANSWERS).collect())
}

async fn indexed_keys(
    deps: &Deps,
    signal: &str,
    range: Option<TimeRange>,
) -> Result<BTreeSet<(String, String)>, ApiError> {
    let hours = range.map(|range| TimeRange { from: range.from.div_euclid(HOUR_NS) * HOUR_NS, ..range });
    let hours = hours.map_or_else(String::new, |hours| format!(" AND {}", hours.condition("hour_unix_nano")));
    let statement = format!("SELECT DISTINCT level, key FROM attribute_keys WHERE signal = {}{hours}", quoted(signal));
    let mut keys = BTreeSet::new();
    for rows in ask(deps, &statement).await? {
        keys.extend(rows.texts("level")?.into_iter().zip(rows.texts("key")?));
    }
    Ok(keys)
}

/// The keys of the newest spans, those with a column of their own among them.
async fn recent_keys(deps: &Deps, range: Option<TimeRange>) -> Result<BTreeSet<(String, String)>, ApiError> {
    let condition = range.map_or_else(|| "true".to_owned(), |range| range.condition("start_unix_nano"));
    let statement = format!("SELECT * FROM spans WHERE {condition} ORDER BY start_unix_nano DESC LIMIT {RECENT_SPANS}");
    let mut keys = BTreeSet::new();
    for span in crate::rows::ask_spans(deps, &statement).await? {
        for (level, map) in [("record", "attributes"), ("resource", "resource_attributes")] {
            let entries = span[map].as_object().into_iter().flatten();
            keys.extend(entries.map(|(key, _)| (level.to_owned(), key.clone())));
        }
    }
    Ok(keys)
}

/// The most frequent values of an attribute among the newest spans.
pub(crate) async fn attribute_values(deps: &Deps, fields: &Fields) -> Result<Value, ApiError> {
    fields.only(&["key", "prefix", "service", "from", "to", "limit"])?;
    let key = fields.required("key")?;
    let column = match key.strip_prefix("resource.") {
        Some(key) => format!("resource_attributes[{}]", quoted(key)),
        None => format!("attributes[{}]", quoted(key)),
    };
    let mut conditions = vec!["true".to_owned()];
    conditions.extend(TimeRange::of(fields, now_unix_nano())?.map(|range| range.condition("start_unix_nano")));
    conditions.extend(fields.get("service").map(|service| format!("service = {}", quoted(service))));
    let begins = fields.get("prefix").map(|prefix| format!(" AND starts_with(value, {})", quoted(prefix)));
    let statement = format!(
        "SELECT value, count(*) AS count FROM (SELECT {column} AS value FROM spans WHERE {} \
         ORDER BY start_unix_nano DESC LIMIT {VALUE_SPANS}) WHERE value IS NOT NULL{} \
         GROUP BY value ORDER BY count DESC, value LIMIT {}",
        conditions.join(" AND "),
        begins.unwrap_or_default(),
        fields.limit(20, MAX_ANSWERS)?
    );
    Ok(json!({"key": key, "spans": VALUE_SPANS, "values": ask_json(deps, &statement).await?}))
}
