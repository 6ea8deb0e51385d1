//! What a commit says of one file, for us in tags and for other readers as statistics; and the way back.

use std::{collections::HashMap, time::Instant};

use deltalake_core::kernel::Add;
use weir_schema::{Table, columns};

use crate::{
    files::{NewFile, Origin, Tail},
    view::{Checked, DataFile},
};

/// The tag of a file's hash.
const HASH: &str = "weir.xxh3_64";

/// The tag of the hash of its tail, and of where that begins.
const TAIL: &str = "weir.tail_xxh3_64";

/// The tag that says whether a map holds an attribute that has a column of its own.
const HOT_IN_MAP: &str = "weir.hot_in_map";

/// The tag of how many attributes had a column of their own then. Columns are appended: who knew fewer did not look for the others.
const HOT_COLUMNS: &str = "weir.hot_columns";

/// The tag that says whether a file is packed as tightly as it gets.
const RECOMPRESSED: &str = "weir.recompressed";

/// The tag of the hash of the file that a file was packed from.
const PACKED_FROM: &str = "weir.packed_from";

/// The tag of the log records that a file's rows come from.
const ORIGIN: &str = "weir.origin";

/// Nanoseconds of a millisecond.
const MS_NS: i64 = 1_000_000;

/// A file that was just written, as a commit names it.
pub(super) fn add(file: &NewFile, table: Table, data_change: bool) -> Add {
    let hex = |hash: u64| format!("{hash:016x}");
    let tags = [
        (HASH, hex(file.hash)),
        (HOT_IN_MAP, file.hot_in_map.to_string()),
        (HOT_COLUMNS, hot_columns(table).to_string()),
        (RECOMPRESSED, file.recompressed.to_string()),
    ];
    let tags = tags.into_iter().chain(file.packed_from.map(|hash| (PACKED_FROM, hex(hash))));
    let tags = tags.chain(file.tail.map(|tail| (TAIL, tail.to_tag())));
    let tags = tags.chain(file.origin.to_tag().map(|origin| (ORIGIN, origin)));
    Add {
        path: file.name.clone(),
        partition_values: HashMap::new(),
        size: i64::try_from(file.bytes).unwrap_or(i64::MAX),
        modification_time: now_ms(),
        data_change,
        stats: Some(stats(file, table.time_column())),
        tags: Some(tags.map(|(key, value)| (key.to_owned(), Some(value))).collect()),
        deletion_vector: None,
        base_row_id: None,
        default_row_commit_version: None,
        clustering_provider: None,
    }
}

/// A file that was just written, as views have it.
pub(in crate::files) fn data_file(file: &NewFile) -> DataFile {
    DataFile {
        name: file.name.clone(),
        bytes: file.bytes,
        rows: file.rows,
        time_range: file.time_range,
        written_unix_nano: now_ms().saturating_mul(MS_NS),
        hash: Some(file.hash),
        tail: file.tail,
        hot_in_map: file.hot_in_map,
        recompressed: file.recompressed,
        packed_from: file.packed_from,
        origin: file.origin.clone(),
        since: Instant::now(),
        checked: Checked::intact(),
    }
}

/// A file of a commit, as views have it.
pub(super) fn read_add(add: &Add, table: Table) -> DataFile {
    let stats: serde_json::Value = add.stats.as_deref().and_then(|s| serde_json::from_str(s).ok()).unwrap_or_default();
    let bound = |key: &str| stats.get(key)?.get(table.time_column())?.as_i64();
    let tag = |name: &str| add.tags.as_ref()?.get(name)?.as_deref();
    let hash = |name: &str| u64::from_str_radix(tag(name)?, 16).ok();
    let knew_all =
        tag(HOT_COLUMNS).and_then(|count| count.parse().ok()).is_some_and(|count: usize| count >= hot_columns(table));
    DataFile {
        name: add.path.clone(),
        bytes: u64::try_from(add.size).unwrap_or(0),
        rows: stats.get("numRecords").and_then(serde_json::Value::as_u64).unwrap_or(0),
        time_range: bound("minValues").zip(bound("maxValues")),
        written_unix_nano: add.modification_time.saturating_mul(MS_NS),
        hash: hash(HASH),
        tail: tag(TAIL).and_then(Tail::from_tag),
        hot_in_map: tag(HOT_IN_MAP) != Some("false") || !knew_all,
        recompressed: tag(RECOMPRESSED) == Some("true"),
        packed_from: hash(PACKED_FROM),
        origin: tag(ORIGIN).map(Origin::from_tag).unwrap_or_default(),
        since: Instant::now(),
        checked: Checked::default(),
    }
}

/// What other readers prune by.
fn stats(file: &NewFile, time_column: &str) -> String {
    let bounds = |bound: fn((i64, i64)) -> i64| match file.time_range {
        Some(range) => serde_json::json!({ time_column: bound(range) }),
        None => serde_json::json!({}),
    };
    let (low, high) = (bounds(|(low, _)| low), bounds(|(_, high)| high));
    serde_json::json!({"numRecords": file.rows, "minValues": low, "maxValues": high, "nullCount": {time_column: 0}})
        .to_string()
}

/// Attributes that have a column of their own.
fn hot_columns(table: Table) -> usize {
    columns::columns(table).iter().filter(|column| column.attribute.is_some()).count()
}

/// The wall clock, in milliseconds.
pub(super) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_clock_that_is_ahead_are_as_old_as_their_file() {
        let newest = |most: i64| {
            let stats = format!(r#"{{"minValues":{{"start_unix_nano":1}},"maxValues":{{"start_unix_nano":{most}}}}}"#);
            let add = Add { modification_time: 7, stats: Some(stats), ..Add::default() };
            read_add(&add, Table::Spans).newest_unix_nano(9 * MS_NS)
        };
        assert_eq!((newest(5), newest(i64::MAX)), (Some(5), Some(7 * MS_NS)));
        assert_eq!(newest(8 * MS_NS), Some(8 * MS_NS), "the server's clock was behind when it wrote");
    }

    #[test]
    fn a_file_of_a_version_with_fewer_columns_may_hold_their_attributes_in_its_map() {
        let known = hot_columns(Table::Spans);
        let file = |hot: Option<&str>, columns: Option<usize>| {
            let columns = columns.map(|count| count.to_string());
            let tags = [(HOT_IN_MAP, hot.map(str::to_owned)), (HOT_COLUMNS, columns)];
            let add = Add {
                path: "part.parquet".into(),
                tags: Some(tags.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
                ..Add::default()
            };
            read_add(&add, Table::Spans).hot_in_map
        };
        let cases = [
            (Some("false"), Some(known), false),
            (Some("true"), Some(known), true),
            (Some("false"), Some(known - 1), true),
            (Some("false"), None, true),
            // a newer version's: what it knows more is no column here
            (Some("false"), Some(known + 1), false),
            (None, None, true),
        ];
        for (hot, columns, expect) in cases {
            assert_eq!(file(hot, columns), expect, "{hot:?} {columns:?}");
        }
    }
}
