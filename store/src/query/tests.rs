//! Searches over files: what is pruned, and that pruning changes no answer.

use std::{path::Path, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray, Int32Array, Int64Array, MapBuilder, MapFieldNames, StringArray, StringBuilder},
    record_batch::RecordBatch,
    util::pretty::pretty_format_batches,
};
use datafusion::{
    common::{ScalarValue, human_readable_count},
    prelude::{Expr, col, lit},
};
use futures::TryStreamExt;
use parquet::{arrow::ArrowWriter, file::properties::WriterProperties, schema::types::ColumnPath};
use weir_schema::{Batch, Table};

use super::{footers::Footers, functions, prune::Needs};
use crate::{Config, SqlConfig, Store, store::tests::spans};

/// A span of these tests. `route` is hot; a status that is no number has to stay in the map.
struct Span {
    trace: u8,
    start: i64,
    service: &'static str,
    route: Option<&'static str>,
    status: Option<i32>,
    attributes: Vec<(&'static str, String)>,
}

fn rows(all: &[Span]) -> RecordBatch {
    let plain = spans(&all.iter().enumerate().map(|(n, s)| (s.trace, n as u64 + 1, s.start)).collect::<Vec<_>>());
    let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
    let mut map = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    for span in all {
        for (key, value) in &span.attributes {
            map.keys().append_value(key);
            map.values().append_value(value);
        }
        map.append(true).unwrap();
    }
    let schema = plain.schema();
    let map = Arc::new(map.finish()) as ArrayRef;
    let columns = schema.fields().iter().zip(plain.columns()).map(|(field, column)| -> ArrayRef {
        match field.name().as_str() {
            "service" => Arc::new(StringArray::from_iter_values(all.iter().map(|s| s.service))),
            "duration_ns" => Arc::new(Int64Array::from_iter_values(all.iter().map(|s| s.start % 1000))),
            "http_route" => Arc::new(StringArray::from_iter(all.iter().map(|s| s.route))),
            "http_response_status_code" => Arc::new(Int32Array::from_iter(all.iter().map(|s| s.status))),
            "attributes" => arrow::compute::cast(&map, field.data_type()).unwrap(),
            _ => column.clone(),
        }
    });
    RecordBatch::try_new(schema.clone(), columns.collect()).unwrap()
}

/// Rows of a fixed sequence: `x` after `x` of a linear congruential generator.
fn random_spans(count: usize, seed: u64) -> Vec<Span> {
    let mut state = seed;
    let mut next = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let span = |_| {
        let wrong = next(50) == 0;
        let mut attributes = vec![("user.id", format!("user-{}", next(200))), ("zone", format!("z{}", next(3)))];
        if wrong {
            attributes.push(("http.response.status_code", "teapot".into()));
        }
        Span {
            trace: next(200) as u8 + 1,
            start: next(1_000_000) as i64,
            service: ["cart", "checkout", "a service with a long name"][next(3) as usize],
            route: [None, Some("/cart"), Some("/a/route/that/is/long")][next(3) as usize],
            status: (!wrong).then(|| [200, 404, 500][next(3) as usize]),
            attributes,
        }
    };
    (0..count).map(span).collect()
}

async fn store(dir: &Path) -> Store {
    let config = Config {
        dir: dir.to_owned(),
        flush_age_ms: 3_600_000,
        flush_rows: usize::MAX,
        compact_files: 1_000,
        ..Config::default()
    };
    Store::open(config).await.unwrap()
}

async fn append(store: &Store, spans: &[Span]) {
    store.append_rows(Batch { table: Table::Spans, rows: rows(spans) }).await.unwrap();
}

async fn answer(store: &Store, statement: &str) -> Vec<RecordBatch> {
    let answer = store.sql(statement, None).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
    answer.stream.try_collect().await.unwrap_or_else(|e| panic!("{statement}: {e}"))
}

async fn text(store: &Store, statement: &str) -> String {
    pretty_format_batches(&answer(store, statement).await).unwrap().to_string()
}

async fn number(store: &Store, statement: &str) -> i64 {
    answer(store, statement).await[0].column(0).as_primitive::<arrow::datatypes::Int64Type>().value(0)
}

const STATEMENTS: [&str; 17] = [
    "SELECT count(*), sum(start_unix_nano) FROM spans WHERE trace_id = '07070707070707070707070707070707'",
    "SELECT count(*) FROM spans WHERE trace_id IN ('07070707070707070707070707070707', '09090909090909090909090909090909')",
    "SELECT count(*) FROM spans WHERE attributes['user.id'] = 'user-17'",
    "SELECT count(*) FROM spans WHERE attributes['user.id'] = 'user-17' OR attributes['user.id'] = 'user-18'",
    "SELECT count(*) FROM spans WHERE attributes['user.id'] = 'user-17' OR service = 'cart'",
    "SELECT count(*) FROM spans WHERE attributes['user.id'] = 'nobody'",
    "SELECT count(*) FROM spans WHERE attributes['http.route'] = '/cart' AND attributes['zone'] = 'z1'",
    "SELECT count(*) FROM spans WHERE attributes['http.response.status_code'] = '500'",
    "SELECT count(*) FROM spans WHERE attributes['http.response.status_code'] = 'teapot'",
    "SELECT count(*) FROM spans WHERE attributes['http.response.status_code'] IS NULL",
    "SELECT * FROM spans WHERE attributes['zone'] = 'z2' ORDER BY start_unix_nano DESC, span_id LIMIT 20",
    "SELECT span_id, service FROM spans WHERE service LIKE 'a %' ORDER BY start_unix_nano DESC, span_id LIMIT 7",
    "SELECT service, attributes['zone'] AS z, count(*) FROM spans WHERE start_unix_nano BETWEEN 1000 AND 500000 GROUP BY 1, 2 ORDER BY 1, 2",
    "SELECT count(*) FROM spans WHERE attributes['http.response.status_code'] >= 404",
    "SELECT count(*) FROM spans WHERE attributes['user.id'] = ANY(ARRAY['user-17', 'user-18']) AND trace_id = lower('07070707070707070707070707070707')",
    "SELECT count(*) FROM spans WHERE ts(start_unix_nano) > TIMESTAMP '1970-01-01 00:00:00.0007' AND attributes['zone'] LIKE 'z%'",
    "SELECT count(*) FROM spans WHERE duration_ns > 500 AND service = 'checkout' AND start_unix_nano > 700000",
];

#[tokio::test(flavor = "multi_thread")]
async fn files_answer_as_memory_does() {
    let (in_memory, in_files, in_both) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (memory, files, both) =
        (store(in_memory.path()).await, store(in_files.path()).await, store(in_both.path()).await);
    // a fixed seed: a failure comes again
    for chunk in random_spans(6_000, 7).chunks(1_500) {
        append(&memory, chunk).await;
        both.flush().await.unwrap();
        append(&both, chunk).await;
        append(&files, chunk).await;
        files.flush().await.unwrap();
    }
    for statement in STATEMENTS {
        let expect = text(&memory, statement).await;
        assert_eq!(text(&files, statement).await, expect, "{statement}");
        assert_eq!(text(&both, statement).await, expect, "{statement}");
    }
    files.upkeep().await.unwrap();
    let packed = text(&files, "EXPLAIN SELECT * FROM spans").await;
    assert!(packed.contains("packed-") && !packed.contains("part-"), "{packed}");
    for statement in STATEMENTS {
        assert_eq!(text(&files, statement).await, text(&memory, statement).await, "packed tightly: {statement}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_of_the_wrong_type_stays_findable() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let span = |status, attributes| Span { trace: 1, start: 5, service: "cart", route: None, status, attributes };
    append(&store, &[span(Some(500), vec![])]).await;
    let five_hundred = "SELECT count(*) FROM spans WHERE attributes['http.response.status_code'] = '500'";
    let teapot = "SELECT count(*) FROM spans WHERE attributes['http.response.status_code'] = 'teapot'";
    let plan = text(&store, &format!("EXPLAIN {five_hundred}")).await;
    assert!(plan.contains("http_response_status_code = Int32(500)") && !plan.contains("attr("), "{plan}");
    assert_eq!((number(&store, five_hundred).await, number(&store, teapot).await), (1, 0));
    append(&store, &[span(None, vec![("http.response.status_code", "teapot".into())])]).await;
    assert_eq!((number(&store, five_hundred).await, number(&store, teapot).await), (1, 1), "in memory");
    store.flush().await.unwrap();
    assert_eq!((number(&store, five_hundred).await, number(&store, teapot).await), (1, 1), "in a file");
}

/// Files with a trace each: the `n`th starts at `n` million.
async fn with_files(dir: &Path, count: u8) -> Store {
    let store = store(dir).await;
    for trace in 1..=count {
        let span = |n: i64| Span {
            trace,
            start: i64::from(trace) * 1_000_000 + n,
            service: "cart",
            route: Some("/cart"),
            status: Some(200),
            attributes: vec![("user.id", format!("user-{trace}")), ("zone", "z1".into())],
        };
        append(&store, &(0..100).map(span).collect::<Vec<_>>()).await;
        store.flush().await.unwrap();
    }
    store
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_and_a_time_open_only_the_files_they_must() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_files(dir.path(), 8).await;
    let files = async |filter: &str| {
        let plan = text(&store, &format!("EXPLAIN SELECT * FROM spans WHERE {filter}")).await;
        plan.matches(".parquet").count()
    };
    assert_eq!(files("trace_id = '03030303030303030303030303030303'").await, 1);
    assert_eq!(files("trace_id IN ('03030303030303030303030303030303', '05050505050505050505050505050505')").await, 2);
    assert_eq!(files("trace_id = '03030303030303030303030303030303' AND start_unix_nano > 4000000").await, 0);
    assert_eq!(files("start_unix_nano >= 7000000").await, 2);
    assert_eq!(files("service = 'cart'").await, 8);
}

/// Ways to write one filter, the first as it prunes.
const SAME: [(&str, &[&str]); 6] = [
    (
        "trace_id = '0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a'",
        &[
            "TRACE_ID = '0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A'",
            "lower('0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A') = trace_id",
            "trace_id = id('0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a')",
            "trace_id = ANY(ARRAY['0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a'])",
            "trace_id IN ('0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a')",
        ],
    ),
    (
        "start_unix_nano >= 7000000",
        &[
            "start_unix_nano >= '1970-01-01T00:00:00.007Z'",
            "start_unix_nano >= '1970-01-01 00:00:00.007'",
            "start_unix_nano >= TIMESTAMP '1970-01-01 00:00:00.007'",
            "start_unix_nano >= '1970-01-01 01:00:00.007+01'::timestamptz",
            "start_unix_nano >= TIMESTAMP '1970-01-01 01:00:00.007' - INTERVAL '1 hour'",
            "ts(start_unix_nano) >= '1970-01-01 00:00:00.007'",
            "ts(start_unix_nano) >= TIMESTAMP '1970-01-01 00:00:00.007'",
            "TIMESTAMP '1970-01-01 00:00:00.007' <= ts(Start_Unix_Nano)",
            "ts(start_unix_nano)::timestamptz >= to_timestamp_micros(7000)",
        ],
    ),
    (
        "start_unix_nano BETWEEN 3000000 AND 4000050",
        &[
            "ts(start_unix_nano) BETWEEN '1970-01-01T00:00:00.003Z' AND TIMESTAMP '1970-01-01 00:00:00.00400005'",
            "start_unix_nano BETWEEN '1970-01-01 00:00:00.003' AND '1970-01-01 00:00:00.00400005'",
        ],
    ),
    ("start_unix_nano < 0", &["start_unix_nano < DATE '1970-01-01'", "ts(start_unix_nano) < '1970-01-01'"]),
    (
        "http_response_status_code >= 500",
        &["attributes['http.response.status_code'] >= 500", "500 <= ATTRIBUTES['http.response.status_code']"],
    ),
    (
        "attributes['user.id'] IN ('user-3', 'user-4', 'user-5', 'user-6')",
        &["attributes['user.id'] = ANY(ARRAY['user-3', 'user-4', 'user-5', 'user-6'])"],
    ),
];

/// The plan names the files and the filters, and what is counted while it runs is how much of them was read.
#[tokio::test(flavor = "multi_thread")]
async fn what_means_the_same_has_the_same_plan_and_reads_as_little() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_files(dir.path(), 10).await;
    let explained =
        async |filter: &str| text(&store, &format!("EXPLAIN SELECT span_id FROM spans WHERE {filter}")).await;
    let measured = async |filter: &str| {
        let plan = text(&store, &format!("EXPLAIN ANALYZE SELECT span_id FROM spans WHERE {filter}")).await;
        let counts = ["bytes_scanned=", "row_groups_pruned_statistics=", "late_rows_read="];
        counts.map(|name| plan.split(name).nth(1).and_then(|rest| rest.split([',', ']']).next()).map(str::to_owned))
    };
    for (first, others) in SAME {
        let (plan, counts) = (explained(first).await, measured(first).await);
        for other in others {
            assert_eq!(explained(other).await, plan, "{other}");
            assert_eq!(measured(other).await, counts, "{other}");
        }
    }
    let files = async |filter: &str| explained(filter).await.matches(".parquet").count();
    assert_eq!(files("ts(start_unix_nano) >= '1970-01-01 00:00:00.007'").await, 4);
    assert_eq!(files("start_unix_nano > now() - INTERVAL '1 hour'").await, 0);
    assert_eq!(files("ts(start_unix_nano) < now() - INTERVAL '1 hour'").await, 10);
    let all = number(&store, "SELECT count(*) FROM spans WHERE start_unix_nano < now()").await;
    assert_eq!(all, 1_000);
}

/// Row groups of one file: bytes are read of those that a time wants.
#[tokio::test(flavor = "multi_thread")]
async fn a_timestamp_reads_the_row_groups_that_nanoseconds_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let span = |n: i64| Span { trace: 1, start: n, service: "cart", route: None, status: None, attributes: vec![] };
    // two row groups of 128 Ki rows and a shorter one
    append(&store, &(0..300_000).map(span).collect::<Vec<_>>()).await;
    store.flush().await.unwrap();
    let read = async |filter: &str| {
        let plan = text(&store, &format!("EXPLAIN ANALYZE SELECT sum(duration_ns) FROM spans WHERE {filter}")).await;
        let metric =
            |name: &str| plan.split(name).nth(1).and_then(|rest| rest.split([',', ']']).next()).map(str::to_owned);
        (metric("bytes_scanned="), metric("row_groups_pruned_statistics="))
    };
    let all = read("service = 'cart'").await;
    let one = read("start_unix_nano >= 290000").await;
    assert_ne!(one, all);
    for filter in [
        "ts(start_unix_nano) >= TIMESTAMP '1970-01-01 00:00:00.00029'",
        "start_unix_nano >= TIMESTAMP '1970-01-01 00:00:00.00029'",
        "start_unix_nano >= '1970-01-01 00:00:00.00029'",
    ] {
        assert_eq!(read(filter).await, one, "{filter}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_filter_is_evaluated_before_the_rest_is_decoded() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_files(dir.path(), 8).await;
    let plan = text(&store, "EXPLAIN ANALYZE SELECT * FROM spans WHERE attributes['user.id'] = 'user-3'").await;
    assert!(!plan.contains("FilterExec"), "{plan}");
    assert!(plan.contains("late_rows_selected=100"), "{plan}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_pages_that_hold_a_value_are_decoded() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let span = |n: i64| Span {
        trace: 1,
        start: n,
        service: "cart",
        route: None,
        status: None,
        attributes: vec![("user.id", format!("user-{}", n / 100)), ("zone", format!("z{}", n % 3))],
    };
    append(&store, &(0..30_000).map(span).collect::<Vec<_>>()).await;
    store.flush().await.unwrap();
    // four pages of 8,192 rows, the fourth shorter
    for (filter, selected, read) in [
        ("attributes['user.id'] = 'user-100'", 100, 8_192),
        ("'user-299' = attributes['user.id']", 100, 30_000 - 3 * 8_192),
        ("attributes['user.id'] IN ('user-1', 'user-100')", 200, 2 * 8_192),
        ("attributes['user.id'] = 'user-10'", 100, 8_192),
        ("attributes['user.id'] = 'user-100' AND start_unix_nano >= 10050", 50, 2 * 8_192 - 10_050),
        ("attributes['zone'] = 'z1'", 10_000, 30_000),
        ("attributes['nothing'] = 'z1'", 0, 0),
        ("attributes['zone'] = 'user-1'", 0, 8_192),
    ] {
        assert_eq!(number(&store, &format!("SELECT count(*) FROM spans WHERE {filter}")).await, selected, "{filter}");
        let plan = text(&store, &format!("EXPLAIN ANALYZE SELECT * FROM spans WHERE {filter}")).await;
        let metric = |name: &str| {
            let number = plan.split(name).nth(1).and_then(|rest| rest.split([',', ']']).next()).unwrap();
            number.to_owned()
        };
        let shown = |rows: i64| human_readable_count(rows as usize);
        assert_eq!(
            (metric("late_rows_selected="), metric("late_rows_read=")),
            (shown(selected), shown(read)),
            "{plan}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_rows_are_found_without_the_older_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_files(dir.path(), 24).await;
    let of_zone = "FROM spans WHERE attributes['zone'] = 'z1' ORDER BY start_unix_nano DESC LIMIT 20";
    for columns in ["start_unix_nano", "service AS of, start_unix_nano AS started"] {
        let newest = format!("SELECT {columns} {of_zone}");
        let found = answer(&store, &newest).await;
        let starts = found[0].columns().last().unwrap().as_primitive::<arrow::datatypes::Int64Type>();
        assert_eq!((starts.len(), starts.value(0)), (20, 24_000_099));
        let plan = text(&store, &format!("EXPLAIN ANALYZE {newest}")).await;
        let read = plan.split("late_rows_read=").nth(1).and_then(|rest| rest.split([',', ']']).next()).unwrap();
        let read: usize = read.parse().unwrap_or_else(|_| panic!("{plan}"));
        let partitions = std::thread::available_parallelism().map_or(2, usize::from);
        assert!(read <= 200 * partitions, "each partition looks into a file or two of 24: {plan}");
    }
}

#[test]
fn filters_exclude_row_groups_where_there_are_some() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let span = |n: i64| Span {
        trace: (n / 100) as u8 + 1,
        start: n,
        service: "cart",
        route: None,
        status: None,
        attributes: vec![("user.id", format!("user-{}", n / 100))],
    };
    let rows = rows(&(0..400).map(span).collect::<Vec<_>>());
    let values = ColumnPath::new(["attributes", "key_value", "value"].map(String::from).to_vec());
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(100))
        .set_column_bloom_filter_enabled(values, true)
        .set_column_bloom_filter_enabled("trace_id".into(), true)
        .build();
    let file = std::fs::File::create(&path).unwrap();
    let mut writer = ArrowWriter::try_new(file, rows.schema(), Some(properties)).unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
    let footer = Footers::new(std::sync::Arc::new(crate::disk::RealDisk)).get(&path).unwrap();
    let wanted = |filter: Expr| {
        let groups = Needs::of(Table::Spans, &[filter]).row_groups(&footer);
        groups.into_iter().map(|wanted| if wanted { '1' } else { '0' }).collect::<String>()
    };
    let attr = functions::scalars().into_iter().find(|function| function.name() == "attr").unwrap();
    let user = || attr.call(vec![col("attributes"), lit("user.id")]);
    let trace = |n: u8| lit(ScalarValue::Binary(Some(vec![n; 16])));
    let cases = [
        (user().eq(lit("user-2")), "0010"),
        (lit("user-2").eq(user()), "0010"),
        (user().eq(lit("user-2")).or(user().eq(lit("user-3"))), "0011"),
        (user().in_list(vec![lit("user-0"), lit("user-3")], false), "1001"),
        (user().in_list(vec![lit("user-0"), lit("user-3")], true), "1111"),
        (user().not_eq(lit("user-2")), "1111"),
        (user().eq(lit("user-2")).or(col("service").eq(lit("x"))), "1111"),
        (user().eq(lit("user-2")).and(col("trace_id").eq(trace(1))), "0000"),
        (col("trace_id").eq(trace(2)), "0100"),
        (col("service").eq(lit("nobody")), "1111"),
        (col("start_unix_nano").gt(lit(299_i64)), "0001"),
        (lit(100_i64).gt(col("start_unix_nano")), "1000"),
        (col("start_unix_nano").between(lit(150_i64), lit(250_i64)), "0110"),
    ];
    for (filter, expect) in cases {
        assert_eq!(wanted(filter.clone()), expect, "{filter}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_documented_function_runs_its_example() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_files(dir.path(), 1).await;
    for function in functions::functions() {
        assert!(function.example.contains(&format!("{}(", function.name)), "{}", function.example);
        let rows: usize = answer(&store, function.example).await.iter().map(RecordBatch::num_rows).sum();
        assert!(rows > 0, "{}", function.example);
    }
    let time = text(&store, "SELECT ts(1700000000000000001) AS t").await;
    assert!(time.contains("2023-11-14T22:13:20.000000001"), "{time}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_tell_nothing_of_the_machine() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_files(dir.path(), 1).await;
    let folder = dir.path().to_string_lossy().trim_start_matches('/').to_owned();
    for statement in
        ["EXPLAIN SELECT * FROM spans", "EXPLAIN ANALYZE SELECT count(*) FROM spans WHERE service = 'cart'"]
    {
        let plan = text(&store, statement).await;
        assert!(plan.contains("[spans/") && !plan.contains(&folder), "{plan}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_into_memory_goes_to_the_data_folder() {
    let dir = tempfile::tempdir().unwrap();
    let left = dir.path().join("scratch/left-by-a-kill");
    std::fs::create_dir_all(&left).unwrap();
    // each partition keeps 10 MB to merge with, and has more than the rest to sort
    let partitions = std::thread::available_parallelism().map_or(2, usize::from);
    let (memory_bytes, sorted_rows) = (partitions * (16 << 20), partitions * 500_000);
    let sql = SqlConfig { memory_bytes, ..SqlConfig::default() };
    let store = Store::open(Config { dir: dir.path().to_owned(), sql, ..Config::default() }).await.unwrap();
    assert!(!left.exists());
    let folders: Vec<_> = std::fs::read_dir(dir.path().join("scratch")).unwrap().map(|f| f.unwrap().path()).collect();
    assert_eq!(folders.len(), 1, "{folders:?}");
    let sorted = format!("SELECT value, value % 7 AS m FROM generate_series(1, {sorted_rows}) ORDER BY m, value DESC");
    let mut answer = store.sql(&sorted, None).await.unwrap();
    let mut spilled = 0;
    let mut rows = 0;
    while let Some(batch) = answer.stream.try_next().await.unwrap_or_else(|error| panic!("{error}")) {
        rows += batch.num_rows();
        spilled = spilled.max(std::fs::read_dir(&folders[0]).unwrap().count());
    }
    assert_eq!(rows, sorted_rows);
    assert!(spilled > 0, "it went to files");
}
