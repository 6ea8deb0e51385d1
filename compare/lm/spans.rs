//! [`estimated`]: a server's requests as rows of `spans`, shown to the analyzer as they would come, and what it says.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BinaryArray, Int64Array, StringArray, new_null_array},
    record_batch::RecordBatch,
};
use weir_analyzer::{Analyzer, Config, Snapshot, lm::LmView};
use weir_schema::Table;

use super::servers::{Coming, Server, Shown};

/// Some day; windows begin with it.
const BEGINNING: i64 = 1_700_000_040_000_000_000;

/// What the service view says at the end, when the last request that came is still under way.
pub(crate) fn estimated(server: &Server, coming: &[Coming], shown: &[Shown]) -> LmView {
    let last = watched(server, coming, shown);
    last.services.into_iter().find_map(|service| service.lm).unwrap_or_default()
}

/// The mesh at the end of the last window that has the service's requests.
pub(crate) fn watched(server: &Server, coming: &[Coming], shown: &[Shown]) -> Snapshot {
    let until_ms = coming.last().map_or(0.0, |c| c.at_ms);
    let mut analyzer = Analyzer::new(Config::default());
    let ended: Vec<(usize, &Coming, &Shown)> = coming
        .iter()
        .zip(shown)
        .enumerate()
        .map(|(at, (c, s))| (at, c, s))
        .filter(|(_, _, s)| s.end_ms <= until_ms)
        .collect();
    analyzer.push(&batch(server, &ended));
    let mut last = Snapshot::default();
    let mut now = BEGINNING;
    while now < BEGINNING + ns(until_ms) + 2_000_000_000 {
        now += 10_000_000_000;
        let snapshot = analyzer.step(now).snapshot;
        last = snapshot.filter(|snapshot| snapshot.services.iter().any(|service| service.lm.is_some())).unwrap_or(last);
    }
    last
}

fn ns(ms: f64) -> i64 {
    (ms * 1e6) as i64
}

fn batch(server: &Server, ended: &[(usize, &Coming, &Shown)]) -> RecordBatch {
    let schema = Table::Spans.schema();
    let long = |value: fn(&Coming, &Shown) -> i64| {
        Arc::new(Int64Array::from_iter_values(ended.iter().map(|(_, c, s)| value(c, s)))) as ArrayRef
    };
    let text = |text: &'static str| Arc::new(StringArray::from(vec![text; ended.len()])) as ArrayRef;
    let id = |at: usize| at as u64 + 1;
    let columns = schema.fields().iter().map(|field| match field.name().as_str() {
        "trace_id" => Arc::new(BinaryArray::from_iter_values(ended.iter().map(|e| u128::from(id(e.0)).to_be_bytes()))),
        "span_id" => Arc::new(BinaryArray::from_iter_values(ended.iter().map(|e| id(e.0).to_be_bytes()))) as ArrayRef,
        "start_unix_nano" => long(|c, _| BEGINNING + ns(c.at_ms)),
        "duration_ns" => long(|c, s| ns(s.end_ms - c.at_ms)),
        "time_to_first_token_ns" => long(|c, s| ns(s.first_token_ms - c.at_ms)),
        "gen_ai_input_tokens" => long(|c, _| c.input_tokens as i64),
        "gen_ai_output_tokens" => long(|c, _| c.output_tokens as i64),
        "received_unix_nano" => long(|_, s| BEGINNING + ns(s.end_ms)),
        "service" => text("model"),
        "operation" => text("chat"),
        "kind" => text("server"),
        "status" => text("ok"),
        "instance" if server.named => {
            Arc::new(StringArray::from_iter_values(ended.iter().map(|(_, _, s)| format!("model-{}", s.replica))))
        }
        _ => new_null_array(field.data_type(), ended.len()),
    });
    RecordBatch::try_new(schema.clone(), columns.collect()).expect("the columns above are the table's")
}
