//! The store as a whole: durable, visible, exactly once, across crashes and while a flush runs.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, BinaryArray, Int64Array, StringArray, new_null_array},
    datatypes::Int64Type,
};

use weir_schema::otlp;

use futures::StreamExt;

use super::*;
use crate::Retention;

/// Rows of `spans`: trace, span, start.
pub(crate) fn spans(rows: &[(u8, u64, i64)]) -> RecordBatch {
    let schema = Table::Spans.schema();
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        let text = |value: &str| Arc::new(StringArray::from(vec![value; rows.len()])) as ArrayRef;
        match field.name().as_str() {
            "trace_id" => Arc::new(BinaryArray::from_iter_values(rows.iter().map(|(trace, ..)| [*trace; 16]))),
            "span_id" => Arc::new(BinaryArray::from_iter_values(rows.iter().map(|(_, span, _)| span.to_be_bytes()))),
            "start_unix_nano" => Arc::new(Int64Array::from_iter_values(rows.iter().map(|(.., start)| *start))),
            "duration_ns" | "received_unix_nano" => Arc::new(Int64Array::from(vec![5; rows.len()])),
            "service" => text("cart"),
            "operation" => text("GET"),
            "kind" => text("server"),
            "status" => text("ok"),
            _ => new_null_array(field.data_type(), rows.len()),
        }
    });
    RecordBatch::try_new(schema.clone(), columns.collect()).unwrap()
}

pub(crate) fn config(dir: &Path) -> Config {
    Config { dir: dir.to_owned(), flush_age_ms: 3_600_000, flush_rows: usize::MAX, ..Config::default() }
}

/// Opens a folder and waits for the log's past.
pub(crate) async fn open(config: Config) -> Store {
    let store = Store::open(config).await.unwrap();
    store.replayed().await;
    store
}

fn batch(first: u64, count: u64) -> Batch {
    let rows: Vec<_> = (first..first + count).map(|n| ((n % 250) as u8 + 1, n + 1, n as i64)).collect();
    Batch { table: Table::Spans, rows: spans(&rows) }
}

async fn number(store: &Store, statement: &str) -> i64 {
    let answer = store.sql(statement, None).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
    let batches: Vec<_> = answer.stream.collect().await;
    let batch = batches.into_iter().next().unwrap().unwrap();
    batch.column(0).as_primitive::<Int64Type>().value(0)
}

async fn count(store: &Store) -> (i64, i64) {
    (
        number(store, "SELECT count(*) FROM spans").await,
        number(store, "SELECT count(DISTINCT span_id) FROM spans").await,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_weir_concludes_has_room_when_requests_have_none() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(Config { memory_limit_bytes: 16 << 20, ..config(dir.path()) }).await;
    for refused in 0..3 {
        let mut first = 0;
        while store.has_room().is_ok() {
            store.append_rows(batch(first, 1_000)).await.unwrap();
            first += 1_000;
            assert!(first < 10_000_000, "a limit of 16 MiB is never met");
        }
        store.append_rows(batch(0, 1)).await.unwrap_or_else(|e| panic!("refused with requests, time {refused}: {e}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_visible_at_once_and_after_flush_and_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(config(dir.path())).await;
    store.append_rows(batch(0, 100)).await.unwrap();
    assert_eq!(count(&store).await, (100, 100), "in memory");
    store.flush().await.unwrap();
    assert_eq!(count(&store).await, (100, 100), "in a file");
    store.append_rows(batch(100, 50)).await.unwrap();
    assert_eq!(count(&store).await, (150, 150), "in both");
    store.close().await.unwrap();
    let store = open(config(dir.path())).await;
    assert_eq!(count(&store).await, (150, 150), "after a restart");
    assert_eq!(
        number(&store, "SELECT count(*) FROM spans WHERE trace_id = '01010101010101010101010101010101'").await,
        1
    );
    assert_eq!(number(&store, "SELECT count(*) FROM spans WHERE start_unix_nano >= 120").await, 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loses_nothing_and_repeats_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(config(dir.path())).await;
    store.append_rows(batch(0, 100)).await.unwrap();
    store.flush().await.unwrap();
    store.append_rows(batch(100, 100)).await.unwrap();
    drop(store); // no close: what is in memory is only in the log
    let store = open(config(dir.path())).await;
    assert_eq!(count(&store).await, (200, 200));
    store.flush().await.unwrap();
    drop(store);
    let store = open(config(dir.path())).await;
    assert_eq!(count(&store).await, (200, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_is_cut_wherever_it_tears() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(config(dir.path())).await;
    store.append_rows(batch(0, 10)).await.unwrap();
    let segment = wal::segments(&RealDisk, &dir.path().join("wal")).unwrap().pop().unwrap().path;
    let whole = std::fs::metadata(&segment).unwrap().len();
    store.append_rows(batch(10, 1)).await.unwrap();
    drop(store);
    let bytes = std::fs::read(&segment).unwrap();
    for cut in usize::try_from(whole).unwrap()..bytes.len() {
        std::fs::write(&segment, &bytes[..cut]).unwrap();
        let past = wal::Past::read(&RealDisk, &dir.path().join("wal")).unwrap();
        assert_eq!(past.next_sequence, 2, "cut at {cut}");
    }
    std::fs::write(&segment, &bytes[..bytes.len() - 1]).unwrap();
    let store = open(config(dir.path())).await;
    assert_eq!(count(&store).await, (10, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_request_is_stored_once_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let request = OtlpRequest {
        signal: Signal::Traces,
        encoding: Encoding::Protobuf,
        codec_version: weir_schema::otlp::CODEC_VERSION,
        received_unix_nano: 1_000,
        body: Bytes::from_static(b""),
    };
    let store = open(config(dir.path())).await;
    let first = store.append_otlp(request.clone(), None).await.unwrap();
    let again = store.append_otlp(request.clone(), None).await.unwrap();
    assert_eq!((first.duplicate, again), (false, Appended { wal_sequence: first.wal_sequence, duplicate: true }));
    store.close().await.unwrap();
    let store = open(config(dir.path())).await;
    assert!(store.append_otlp(request, None).await.unwrap().duplicate);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_during_flushes_counts_every_row_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(config(dir.path())).await;
    let flusher = store.clone();
    let flushes = tokio::spawn(async move {
        for _ in 0..12 {
            flusher.flush().await.unwrap();
        }
    });
    let mut appended = 0;
    while !flushes.is_finished() {
        store.append_rows(batch(appended, 20)).await.unwrap();
        appended += 20;
        let total = i64::try_from(appended).unwrap();
        assert_eq!(count(&store).await, (total, total));
    }
    flushes.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_has_one_writer_and_says_who() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Store::locked_by(dir.path()), None);
    let store = open(config(dir.path())).await;
    store.set_server_url("http://127.0.0.1:7070").unwrap();
    let Err(OpenError::Locked { url, .. }) = Store::open(config(dir.path())).await else {
        panic!("the folder is locked")
    };
    assert_eq!(url.as_deref(), Some("http://127.0.0.1:7070"));
    assert_eq!(Store::locked_by(dir.path()).unwrap().pid, std::process::id());
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_statements_end_in_errors_and_the_store_lives() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(config(dir.path())).await;
    store.append_rows(batch(0, 2_000)).await.unwrap();
    let limits = SqlConfig { timeout_ms: 2_000, memory_bytes: 64 << 20, max_rows: 10_000, ..SqlConfig::default() };
    let deep = format!("SELECT 1{}", "+1".repeat(400));
    let cases = [
        "SELECT max(a.start_unix_nano + b.start_unix_nano + c.start_unix_nano) FROM spans a, spans b, spans c",
        "SELECT a.* FROM spans a, spans b",
        "SELECT * FROM '/etc/passwd'",
        "SELECT nothing FROM spans",
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r",
        &deep,
    ];
    for statement in cases {
        let ended = match store.sql(statement, Some(limits.clone())).await {
            Err(error) => Err(error),
            Ok(answer) => answer.stream.collect::<Vec<_>>().await.into_iter().collect::<Result<Vec<_>, _>>(),
        };
        assert!(ended.is_err() || statement == deep, "{statement}");
    }
    assert_eq!(count(&store).await, (2_000, 2_000));
}

/// Many small files, as flushes of a quiet service make them.
async fn small_files(store: &Store, files: u64) {
    for n in 0..files {
        store.append_rows(batch(n * 10, 10)).await.unwrap();
        store.flush().await.unwrap();
    }
}

fn spans_status(store: &Store) -> TableStatus {
    store.status().tables.into_iter().find(|table| table.name == "spans").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn small_files_become_one_and_queries_see_every_row_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(Config { compact_files: 4, ..config(dir.path()) }).await;
    small_files(&store, 9).await;
    store.upkeep().await.unwrap();
    store.upkeep().await.unwrap();
    assert_eq!(count(&store).await, (90, 90));
    assert!(spans_status(&store).files <= 4, "{:?}", spans_status(&store));
    store.close().await.unwrap();
    let left = std::fs::read_dir(dir.path().join("tables/spans")).unwrap();
    let left = left.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|e| e == "parquet")).count();
    let store = open(config(dir.path())).await;
    assert_eq!((count(&store).await, spans_status(&store).files), ((90, 90), left), "what was replaced is deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_row_groups_are_spliced_and_answer_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(Config { compact_files: 4, ..config(dir.path()) }).await;
    let rows = 70_000;
    for n in 0..3 {
        store.append_rows(batch(n * rows, rows)).await.unwrap();
        store.flush().await.unwrap();
    }
    let before =
        number(&store, "SELECT sum(start_unix_nano) FROM spans WHERE trace_id = '07070707070707070707070707070707'");
    let before = before.await;
    store.upkeep().await.unwrap();
    assert_eq!(spans_status(&store).files, 1, "half as many as small files need are enough");
    assert_eq!(count(&store).await, (210_000, 210_000));
    let after =
        number(&store, "SELECT sum(start_unix_nano) FROM spans WHERE trace_id = '07070707070707070707070707070707'");
    assert_eq!(after.await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_up_reads_no_rows_of_files_that_cannot_have_the_trace() {
    for packed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(config(dir.path())).await;
        let rows = spans(&(0..100).map(|span| (1, span + 1, 7)).collect::<Vec<_>>());
        store.append_rows(Batch { table: Table::Spans, rows }).await.unwrap();
        store.flush().await.unwrap();
        if packed {
            store.upkeep().await.unwrap();
        }
        store.close().await.unwrap();
        let mut files = std::fs::read_dir(dir.path().join("tables/spans")).unwrap().map(|file| file.unwrap().path());
        let path = files.find(|path| path.extension().is_some_and(|extension| extension == "parquet")).unwrap();
        assert_eq!(path.file_name().unwrap().to_string_lossy().starts_with("packed-"), packed);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[10] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let store = open(config(dir.path())).await;
        let warnings = async |trace: &str| {
            let statement = format!("SELECT * FROM spans WHERE trace_id = '{}'", trace.repeat(16));
            store.sql(&statement, None).await.unwrap().warnings
        };
        assert_eq!(warnings("02").await, Vec::<String>::new(), "no row was read that is damaged");
        let of_the_trace = warnings("01").await;
        assert!(of_the_trace.len() == 1 && of_the_trace[0].contains("is damaged"), "{of_the_trace:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_stay_are_packed_once() {
    let dir = tempfile::tempdir().unwrap();
    let names = || {
        let files = std::fs::read_dir(dir.path().join("tables/spans")).unwrap();
        let names = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name.ends_with(".parquet")).collect();
        names.sort();
        names
    };
    let store = open(config(dir.path())).await;
    for n in 0..2 {
        store.append_rows(batch(n * 10_000, 10_000)).await.unwrap();
        store.flush().await.unwrap();
    }
    let (fresh, bytes) = (names(), spans_status(&store).bytes);
    store.upkeep().await.unwrap();
    let packed = names();
    assert!(packed.len() == 2 && packed.iter().all(|name| name.starts_with("packed-")), "{fresh:?} to {packed:?}");
    assert!(spans_status(&store).bytes < bytes);
    assert_eq!(count(&store).await, (20_000, 20_000));
    store.close().await.unwrap();
    let store = open(config(dir.path())).await;
    store.upkeep().await.unwrap();
    assert_eq!((names(), count(&store).await), (packed, (20_000, 20_000)), "that they are is known after a start");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_old_or_too_much_goes_in_whole_files() {
    let dir = tempfile::tempdir().unwrap();
    // the spans of these tests are of 1970
    let max_age_hours_of = [(Table::TraceIndex, 0)].into();
    let retention = Retention { max_age_hours: 1, max_age_hours_of, max_bytes: 0 };
    let store = open(Config { retention, ..config(dir.path()) }).await;
    store.append_rows(batch(0, 10)).await.unwrap();
    assert_eq!(count(&store).await, (10, 10), "rows in memory stay until they are in a file");
    store.flush().await.unwrap();
    store.upkeep().await.unwrap();
    assert_eq!(count(&store).await, (0, 0));
    assert_eq!(number(&store, "SELECT count(*) FROM trace_index").await, 10, "a table may have an age of its own");
    store.close().await.unwrap();

    let retention = Retention { max_bytes: 1, ..Retention::default() };
    let store = open(Config { retention, ..config(dir.path()) }).await;
    small_files(&store, 2).await;
    store.upkeep().await.unwrap();
    assert_eq!(count(&store).await, (0, 0), "nothing fits one byte");
    assert_eq!(number(&store, "SELECT count(*) FROM trace_index").await, 0, "nor what was derived from it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_stays_the_node_it_was_begun_as() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(Config { node: "eu-1".into(), ..config(dir.path()) }).await;
    store.append_rows(batch(0, 10)).await.unwrap();
    store.close().await.unwrap();
    for node in ["weir", "eu-2", "eu-1"] {
        let store = open(Config { node: node.into(), ..config(dir.path()) }).await;
        assert_eq!(count(&store).await, (10, 10), "opened as {node}: the log's rows are in files");
        store.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_decoded_is_kept_and_the_rest_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(config(dir.path())).await;
    let request = OtlpRequest {
        signal: Signal::Traces,
        encoding: Encoding::Protobuf,
        codec_version: otlp::CODEC_VERSION,
        received_unix_nano: 1,
        body: Bytes::from_static(b"of another version"),
    };
    store.append_otlp(request, None).await.unwrap();
    store.append_rows(batch(0, 10)).await.unwrap();
    drop(store);
    let store = open(config(dir.path())).await;
    assert_eq!(count(&store).await, (10, 10));
    let kept = std::fs::read_dir(dir.path().join("quarantine")).unwrap().map(|entry| entry.unwrap().path());
    let kept: Vec<_> = kept.filter(|path| path.extension().is_some_and(|end| end == "record")).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    let bytes = std::fs::read(&kept[0]).unwrap();
    assert!(bytes.windows(18).any(|part| part == b"of another version"));
    let warnings = store.sql("SELECT count(*) FROM spans", None).await.unwrap().warnings;
    assert!(warnings[0].starts_with("1 damaged piece of the log is under quarantine/"), "{warnings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_missing_is_named_and_the_rest_answers() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(config(dir.path())).await;
    for first in [0, 100] {
        store.append_rows(batch(first, 60)).await.unwrap();
        store.flush().await.unwrap();
    }
    let folder = dir.path().join("tables/spans");
    let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let gone = files.into_iter().find(|path| path.extension().is_some_and(|end| end == "parquet")).unwrap();
    let away = dir.path().join("away");
    std::fs::rename(&gone, &away).unwrap();
    let answer = store.sql("SELECT count(*) FROM spans", None).await.unwrap();
    let name = gone.file_name().unwrap().to_str().unwrap();
    assert_eq!(answer.warnings, [format!("spans/{name} is missing: its 60 rows are left out")]);
    drop(answer);
    assert_eq!(count(&store).await, (60, 60));
    std::fs::rename(&away, &gone).unwrap();
    assert_eq!(count(&store).await, (120, 120), "it was not taken out of its table");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_made_while_rows_come_is_a_store_and_is_restored_once() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(config(dir.path())).await;
    store.append_rows(batch(0, 100)).await.unwrap();
    let appender = store.clone();
    let appends = tokio::spawn(async move {
        for n in 10..20 {
            appender.append_rows(batch(n * 10, 10)).await.unwrap();
        }
    });
    let path = store.backup("first").await.unwrap();
    appends.await.unwrap();
    assert!(store.backup("first").await.is_err(), "the name is taken");
    assert!(store.backup("../out").await.is_err(), "a name is no path");
    assert!(store.restore("second").await.is_err(), "there is none of that name");
    assert_eq!(count(&store).await, (200, 200));
    let restored = store.restore("first").await.unwrap();
    assert_eq!((restored.rows, count(&store).await), (0, (200, 200)), "what is still here is not added");
    store.upkeep().await.unwrap();
    let restored = store.restore("first").await.unwrap();
    assert_eq!((restored.rows, count(&store).await), (0, (200, 200)), "nor what is packed otherwise by now");

    // it opens as a store of its own
    let copy = open(config(&path)).await;
    let (rows, distinct) = count(&copy).await;
    assert!(rows == distinct && (100..=200).contains(&rows), "{rows}");
    copy.close().await.unwrap();

    // and goes into a store that has rows already, once
    std::fs::create_dir_all(other.path().join("backups")).unwrap();
    std::fs::rename(&path, other.path().join("backups/first")).unwrap();
    let store = open(config(other.path())).await;
    store.append_rows(batch(1_000, 5)).await.unwrap();
    let restored = store.restore("first").await.unwrap();
    assert_eq!((restored.skipped_files, count(&store).await), (0, (rows + 5, rows + 5)));
    assert_eq!(number(&store, "SELECT count(DISTINCT trace_id) FROM trace_index").await, rows.min(250));
    let again = store.restore("first").await.unwrap();
    assert_eq!((again.rows, again.files, count(&store).await), (0, 0, (rows + 5, rows + 5)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_merged_since_a_backup_is_restored_only_when_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(Config { compact_files: 2, ..config(dir.path()) }).await;
    let append = async |first: u64| {
        store.append_rows(batch(first, 100)).await.unwrap();
        store.flush().await.unwrap();
    };
    append(0).await;
    append(100).await;
    store.backup("early").await.unwrap();
    append(200).await;
    append(300).await;
    store.upkeep().await.unwrap();
    let files = |name: &str| {
        let files = std::fs::read_dir(dir.path().join("tables").join(name)).unwrap().map(|file| file.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|end| end == "parquet")).collect::<Vec<_>>()
    };
    assert_eq!(files("spans").len(), 1, "merged");
    let restored = store.restore("early").await.unwrap();
    assert_eq!((restored.rows, count(&store).await), (0, (400, 400)), "merged rows are there");

    let merged = &files("spans")[0];
    let mut content = std::fs::read(merged).unwrap();
    content[20] ^= 1;
    std::fs::write(merged, content).unwrap();
    store.upkeep().await.unwrap();
    assert_eq!(count(&store).await, (0, 0), "it is set aside");
    let restored = store.restore("early").await.unwrap();
    assert_eq!((restored.rows, count(&store).await), (200, (200, 200)), "what the backup has of it is back");
    let again = store.restore("early").await.unwrap();
    assert_eq!((again.rows, count(&store).await), (0, (200, 200)));
    store.backup("late").await.unwrap();
    let late = store.restore("late").await.unwrap();
    assert_eq!((late.rows, count(&store).await), (0, (200, 200)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stores_own_tables_follow_the_spans() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(config(dir.path())).await;
    store.append_rows(batch(0, 500)).await.unwrap();
    store.flush().await.unwrap();
    store.append_rows(batch(500, 1)).await.unwrap();
    store.flush().await.unwrap();
    assert_eq!(number(&store, "SELECT count(DISTINCT trace_id) FROM trace_index").await, 250);
    let range = "SELECT max(end_unix_nano) - min(start_unix_nano) FROM trace_index";
    let exact = "SELECT max(start_unix_nano + duration_ns) - min(start_unix_nano) FROM spans";
    assert_eq!(number(&store, "SELECT count(*) FROM spans").await, 501);
    assert_eq!(number(&store, "SELECT max(start_unix_nano) FROM spans").await, 500);
    assert_eq!(number(&store, "SELECT max(start_unix_nano + duration_ns) FROM spans").await, 505);
    assert_eq!(number(&store, range).await, number(&store, exact).await);
    assert_eq!(number(&store, "SELECT count(*) FROM services WHERE service = 'cart' AND signal = 'spans'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_an_older_version_gains_the_columns_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(config(dir.path())).await;
    store.append_rows(batch(0, 10)).await.unwrap();
    store.flush().await.unwrap();
    store.close().await.unwrap();
    // what an older version wrote: a schema without one of today's columns
    let log = dir.path().join("tables/spans/_delta_log/00000000000000000000.json");
    let text = std::fs::read_to_string(&log).unwrap();
    let column = r#"{\"name\":\"sample_weight\",\"type\":\"double\",\"nullable\":true,\"metadata\":{}},"#;
    assert!(text.contains(column), "{text}");
    std::fs::write(&log, text.replace(column, "")).unwrap();
    let store = open(config(dir.path())).await;
    store.append_rows(batch(10, 10)).await.unwrap();
    store.flush().await.unwrap();
    assert_eq!(count(&store).await, (20, 20));
    let logged: String = std::fs::read_dir(dir.path().join("tables/spans/_delta_log"))
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default())
        .collect();
    assert!(logged.contains("ADD COLUMN") && logged.contains("sample_weight"));
}
