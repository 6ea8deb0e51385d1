//! The statements people run most, over two million spans in files: `cargo bench --bench queries`.
//!
//! Spans come in time order, eight to a trace, with seven attributes: three hot ones and four in the
//! map, of which one has two million values. The first run of a statement, which reads footers, is
//! not among the measured.

use std::{hint::black_box, sync::Arc};

use arrow::{
    array::{
        ArrayRef, BinaryArray, Int32Array, Int64Array, MapBuilder, MapFieldNames, StringArray, StringBuilder,
        new_null_array,
    },
    compute::cast,
    record_batch::RecordBatch,
};
use criterion::{Criterion, criterion_group, criterion_main};
use futures::TryStreamExt;
use tokio::runtime::Runtime;
use weir_schema::{Batch, Table};
use weir_store::{Config, Store};

const SPANS: i64 = 2_000_000;
const SPANS_PER_APPEND: i64 = 50_000;
const SPANS_PER_TRACE: i64 = 8;
const START_UNIX_NANO: i64 = 1_700_000_000_000_000_000;
const STEP_NS: i64 = 50_000;

/// A number that looks random and is the same in every run.
fn hash(n: i64) -> u64 {
    let mixed = (n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 16
}

fn trace_id(n: i64) -> [u8; 16] {
    let trace = n / SPANS_PER_TRACE;
    let (high, low) = (hash(trace), hash(trace + SPANS));
    ((u128::from(high) << 64) | u128::from(low)).to_be_bytes()
}

fn service(n: i64) -> String {
    format!("service-{}", hash(n) % 20)
}

fn attributes(rows: std::ops::Range<i64>) -> ArrayRef {
    let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
    let mut map = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    for n in rows {
        let entries = [
            ("user.id", format!("user-{}", hash(n) % 100_000)),
            ("request.id", format!("{:016x}", hash(n + 7))),
            ("cloud.availability_zone", format!("eu-west-{}", hash(n) % 3)),
            ("thread.name", format!("worker-{}", hash(n) % 64)),
        ];
        for (key, value) in entries {
            map.keys().append_value(key);
            map.values().append_value(value);
        }
        map.append(true).expect("keys and values are of one length");
    }
    Arc::new(map.finish())
}

fn spans(rows: std::ops::Range<i64>) -> RecordBatch {
    let schema = Table::Spans.schema();
    let count = usize::try_from(rows.end - rows.start).unwrap_or(0);
    let text = |of: &dyn Fn(i64) -> String| Arc::new(StringArray::from_iter_values(rows.clone().map(of))) as ArrayRef;
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        match field.name().as_str() {
            "trace_id" => Arc::new(BinaryArray::from_iter_values(rows.clone().map(trace_id))),
            "span_id" => Arc::new(BinaryArray::from_iter_values(rows.clone().map(|n| hash(n).to_be_bytes()))),
            "start_unix_nano" => {
                Arc::new(Int64Array::from_iter_values(rows.clone().map(|n| START_UNIX_NANO + n * STEP_NS)))
            }
            "duration_ns" => Arc::new(Int64Array::from_iter_values(
                rows.clone().map(|n| 1_000_000 + (hash(n) % 1_000_000_000) as i64 / (1 + n % 100)),
            )),
            "received_unix_nano" => Arc::new(Int64Array::from(vec![START_UNIX_NANO; count])),
            "service" => text(&service),
            "operation" => text(&|n| format!("GET /api/{}", hash(n) % 50)),
            "kind" => text(&|n| if n % 2 == 0 { "server".into() } else { "client".into() }),
            "status" => text(&|n| if n % 100 == 0 { "error".into() } else { "ok".into() }),
            "http_route" => text(&|n| format!("/api/{}", hash(n) % 50)),
            "http_method" => text(&|_| "GET".into()),
            "http_status" => {
                Arc::new(Int32Array::from_iter_values(rows.clone().map(|n| if n % 100 == 0 { 500 } else { 200 })))
            }
            "attributes" => cast(&attributes(rows.clone()), field.data_type()).expect("a map of the same kind"),
            _ => new_null_array(field.data_type(), count),
        }
    });
    RecordBatch::try_new(schema.clone(), columns.collect()).expect("columns of the schema")
}

async fn filled(dir: &std::path::Path) -> Store {
    let config = Config { dir: dir.to_owned(), ..Config::default() };
    let store = Store::open(config).await.expect("a fresh folder opens");
    for first in (0..SPANS).step_by(SPANS_PER_APPEND as usize) {
        let rows = spans(first..first + SPANS_PER_APPEND);
        store.append_rows(Batch { table: Table::Spans, rows }).await.expect("rows are stored");
        if first % (4 * SPANS_PER_APPEND) == 0 {
            store.flush().await.expect("rows go to files");
        }
    }
    store.flush().await.expect("rows go to files");
    store
}

async fn rows(store: &Store, statement: &str) -> usize {
    let answer = store.sql(statement, None).await.expect(statement);
    let batches: Vec<RecordBatch> = answer.stream.try_collect().await.expect(statement);
    batches.iter().map(RecordBatch::num_rows).sum()
}

fn queries(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime starts");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = runtime.block_on(filled(dir.path()));
    let newest = |filter: &str| format!("SELECT * FROM spans WHERE {filter} ORDER BY start_unix_nano DESC LIMIT 20");
    let trace: String = trace_id(SPANS / 3).iter().map(|byte| format!("{byte:02x}")).collect();
    let request = format!("{:016x}", hash(SPANS / 3 + 7));
    let statements = [
        ("trace", format!("SELECT * FROM spans WHERE trace_id = '{trace}' ORDER BY start_unix_nano")),
        ("hot_attribute_frequent", newest("attributes['http.route'] = '/api/7'")),
        ("hot_attribute_number", newest("attributes['http.response.status_code'] = '500'")),
        ("hot_attribute_absent", newest("attributes['http.route'] = '/nowhere'")),
        ("cold_attribute_frequent", newest("attributes['cloud.availability_zone'] = 'eu-west-1'")),
        ("cold_attribute_rare", newest("attributes['user.id'] = 'user-4711'")),
        ("cold_attribute_once", newest(&format!("attributes['request.id'] = '{request}'"))),
        ("service_duration", newest("service = 'service-7' AND duration_ns > 900000000")),
        ("count_by_service", "SELECT service, count(*), avg(duration_ns) FROM spans GROUP BY service".to_owned()),
        ("plan_only", "SELECT * FROM spans WHERE start_unix_nano < 0".to_owned()),
    ];
    let mut group = criterion.benchmark_group("query");
    group.sample_size(20);
    for (name, statement) in statements {
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(runtime.block_on(rows(&store, &statement))));
        });
    }
    group.finish();
}

criterion_group!(benches, queries);
criterion_main!(benches);
