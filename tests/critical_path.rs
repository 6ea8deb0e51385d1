//! Critical paths of stored and of recorded traces.
//!
//! The recorded ones are two days of two systems as Parquet (compare/rca/README.md), in the folder that `TEST_DATA` names, by default
//! `../shared/data` beside the workspace; without them the test is skipped. Of the larger day it takes every 20th trace;
//! `TEST_TRACES=all` takes all of both, and `--nocapture` prints what was found.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use arrow::{
    array::{AsArray, StringArray},
    compute::{cast, concat_batches},
    datatypes::{DataType, Int64Type},
    record_batch::RecordBatch,
};
use serde_json::{Value, json};
use weir_analyzer::{
    critical_path::{SpanNode, Timeline},
    flame::Flame,
};
use weir_store::Store;

use crate::support::{client, request, send, server, span};

const START: u64 = 1_700_000_000_000_000_000;
const MS: u64 = 1_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn traces_and_flames_are_answered_with_slack_drag_and_marks() {
    let dir = tempfile::tempdir().unwrap();
    let weir = server(dir.path()).await;
    let otlp = format!("http://{}", weir.addresses.otlp_http);
    for minute in 0..30 {
        assert!(send(&client(), &otlp, &shop(u128::from(minute) + 1, START + minute * 60_000 * MS)).await);
    }
    let get = async |path: &str| -> Value {
        let answer = client().get(format!("http://{}/api/v1{path}", weir.addresses.web)).send().await.unwrap();
        answer.json().await.unwrap()
    };
    let trace = get("/traces/00000000000000000000000000000001").await;
    let said: BTreeMap<&str, Value> = trace["spans"].as_array().unwrap().iter().map(said).collect();
    let expected = [
        ("GET /", json!([4, 0, 20, 0, false, null])),
        ("GET /cart", json!([12, 0, 2, 0, false, null])),
        ("call stock", json!([2, 2, 0, 0, false, null])),
        ("GET /stock", json!([10, 2, 0, -500, false, null])),
        ("mail", json!([9, null, 0, 0, true, "messaging"])),
        ("publish", json!([2, 0, 2, 0, false, null])),
    ];
    assert_eq!(said, BTreeMap::from(expected));
    let range = format!("from={}&to={}", START, START + 3_600_000 * MS);
    let flame = get(&format!("/critical-path?{range}")).await;
    assert_eq!(totals(&flame), json!([30, false, 30, 600 * MS, 30]), "{flame}");
    let share = |path: &Value| (path["operation"].as_str().unwrap().to_owned(), path["share"].as_f64().unwrap());
    let shares: BTreeMap<String, f64> = flame["paths"].as_array().unwrap().iter().map(share).collect();
    let expected = [("GET /", 1.0), ("GET /cart", 0.6), ("publish", 0.1)].map(|(name, share)| (name.to_owned(), share));
    assert_eq!(shares, BTreeMap::from(expected));
    let cart = get(&format!("/critical-path?service=cart&limit=12&{range}")).await;
    assert_eq!(totals(&cart), json!([12, true, 12, 144 * MS, 12]), "{cart}");
    assert_eq!(cart, get(&format!("/critical-path?service=cart&limit=12&{range}")).await, "the same sample every time");
    weir.stop().await.unwrap();
}

/// A shop asks cart (12 ms) and, beside it, stock (10 ms, whose clock is ahead), then publishes what a mailer picks up.
fn shop(trace: u128, at: u64) -> opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest {
    let kind = |mut span: opentelemetry_proto::tonic::trace::v1::Span, kind: i32| {
        span.kind = kind;
        span
    };
    let id = u64::try_from(trace).unwrap() * 10;
    let own = vec![
        span(trace, id + 1, 0, "GET /", at, 20 * MS),
        kind(span(trace, id + 3, id + 1, "call stock", at + MS, 12 * MS), 3),
        kind(span(trace, id + 5, id + 1, "publish", at + 16 * MS, 2 * MS), 4),
    ];
    let mut all = request("gateway", own);
    let others = [
        ("cart", span(trace, id + 2, id + 1, "GET /cart", at + 3 * MS, 12 * MS)),
        ("stock", span(trace, id + 4, id + 3, "GET /stock", at + 502 * MS, 10 * MS)),
        ("mailer", kind(span(trace, id + 6, id + 5, "mail", at + 17 * MS, 9 * MS), 5)),
    ];
    for (service, span) in others {
        all.resource_spans.extend(request(service, vec![span]).resource_spans);
    }
    all
}

/// Self time, slack, drag and skew in milliseconds, and what is marked.
fn said(span: &Value) -> (&str, Value) {
    let ms = |key: &str| span[key].as_i64().map(|ns| ns / 1_000_000);
    let times = ["self_time_ns", "slack_ns", "drag_ns", "skew_ns"].map(ms);
    let [own, slack, drag, skew] = times;
    (span["operation"].as_str().unwrap(), json!([own, slack, drag, skew, span["async"], span["undecided"]]))
}

fn totals(flame: &Value) -> Value {
    json!([flame["traces"], flame["sampled"], flame["requests"], flame["total_ns"], flame["paths"][0]["requests"]])
}

#[test]
fn segments_of_every_recorded_trace_add_up_to_its_root() {
    for (day, every) in [("train-ticket-2023-01-30", 1), ("online-boutique-2022-08-23", 20)] {
        let file = data().join("nezha").join(day).join("spans.parquet");
        if !file.is_file() {
            println!("skipped: no {}; TEST_DATA names the folder", file.display());
            continue;
        }
        let all = std::env::var("TEST_TRACES").is_ok_and(|traces| traces == "all");
        check(day, &Rows::read(&file), if all { 1 } else { every });
    }
}

fn data() -> PathBuf {
    let usual = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    std::env::var_os("TEST_DATA").map_or_else(usual, PathBuf::from)
}

fn check(day: &str, rows: &Rows, every: usize) {
    let mut found = Found::default();
    let mut flame = Flame::default();
    let traces = rows.traces();
    for of_trace in traces.values().step_by(every) {
        let spans: Vec<SpanNode> = of_trace.iter().map(|row| rows.span(*row)).collect();
        let timeline = Timeline::of(&spans);
        let root = timeline.main_root().expect("a trace has a span");
        let (segments, timings) = timeline.whole();
        let sum: i64 = segments.iter().map(|segment| segment.end_unix_nano - segment.start_unix_nano).sum();
        assert_eq!(sum, spans[root].end - spans[root].start, "{day}: the root {root} of {spans:?}");
        let disjoint = segments.windows(2).all(|pair| pair[0].end_unix_nano <= pair[1].start_unix_nano);
        assert!(disjoint, "{day}: {segments:?}");
        assert_eq!((timings[root].slack_ns, timings[root].drag_ns), (Some(0), sum));
        for timing in &timings {
            assert!(timing.critical_ns == 0 || timing.slack_ns == Some(0), "{day}: {timing:?}");
            assert!(timing.drag_ns <= timing.end_unix_nano - timing.start_unix_nano, "{day}: {timing:?}");
            found.add(timing);
        }
        found.traces += 1;
        found.segments += segments.len();
        found.root_ns += sum;
        flame.add(&spans, &timeline.path(root));
    }
    assert_eq!((flame.requests(), flame.root_ns()), (found.traces, found.root_ns));
    let other_ns = flame.other_ns();
    let roots: i64 = flame.paths().iter().filter(|path| path.parent.is_none()).map(|path| path.total_ns).sum();
    assert_eq!(roots + other_ns, found.root_ns, "{day}: the frames hold all time");
    println!("{day}, every {every}: {found:#?}");
}

/// What there was, for the record.
#[derive(Debug, Default)]
struct Found {
    traces: u64,
    spans: u64,
    segments: usize,
    root_ns: i64,
    on_path: u64,
    without_slack: u64,
    with_drag: u64,
    clocks_set: u64,
    undecided: BTreeMap<&'static str, u64>,
}

impl Found {
    fn add(&mut self, timing: &weir_analyzer::critical_path::Timing) {
        self.spans += 1;
        self.on_path += u64::from(timing.critical_ns > 0);
        self.without_slack += u64::from(timing.slack_ns == Some(0));
        self.with_drag += u64::from(timing.drag_ns > 0);
        self.clocks_set += u64::from(timing.skew_ns != 0);
        if let Some(undecided) = timing.undecided {
            *self.undecided.entry(undecided.name()).or_default() += 1;
        }
    }
}

/// The rows of a recording, copies and all.
struct Rows {
    ids: [StringArray; 3],
    pods: StringArray,
    operations: StringArray,
    rows: RecordBatch,
}

impl Rows {
    fn read(file: &Path) -> Self {
        let batches: Vec<RecordBatch> = Store::read_parquet_spans(file).unwrap().batches.map(Result::unwrap).collect();
        let rows = concat_batches(&batches[0].schema(), &batches).unwrap();
        let text = |name: &str| cast(&rows[name], &DataType::Utf8).unwrap().as_string::<i32>().clone();
        let ids = ["trace_id", "span_id", "parent_id"].map(text);
        Self { ids, pods: text("pod"), operations: text("operation"), rows }
    }

    /// Rows by trace.
    fn traces(&self) -> BTreeMap<&str, Vec<usize>> {
        let mut traces: HashMap<&str, Vec<usize>> = HashMap::new();
        for row in 0..self.rows.num_rows() {
            traces.entry(self.ids[0].value(row)).or_default().push(row);
        }
        traces.into_iter().collect()
    }

    fn span(&self, row: usize) -> SpanNode {
        let time = |name: &str| self.rows[name].as_primitive::<Int64Type>().value(row);
        let id = |text: &str| u64::from_str_radix(text, 16).ok().map(u64::to_be_bytes);
        let pod = self.pods.value(row);
        SpanNode {
            span_id: id(self.ids[1].value(row)).expect("a span has an id"),
            // "root" is none
            parent: id(self.ids[2].value(row)),
            start: time("start_unix_nano"),
            end: time("end_unix_nano"),
            kind: "unspecified".into(),
            // without the two parts of its hash
            service: pod.rsplitn(3, '-').last().unwrap_or(pod).to_owned(),
            instance: pod.to_owned(),
            operation: self.operations.value(row).to_owned(),
            ..SpanNode::default()
        }
    }
}
