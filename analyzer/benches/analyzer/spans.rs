//! Spans to measure with: traces through many services, as a collector would hand them on.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BinaryArray, Int64Array, StringArray, new_null_array},
    record_batch::RecordBatch,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use weir_schema::Table;

/// Rows of a batch: what a busy sender's exporter sends at once, some requests together.
pub(crate) const BATCH_ROWS: usize = 8_192;

const START: i64 = 1_700_000_000_000_000_000;

/// What is generated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// How many services there are; each has three operations and two replicas.
    pub(crate) services: usize,
    /// Spans of one trace: server, client, server, client, …
    pub(crate) trace_spans: usize,
    /// Spans in all.
    pub(crate) spans: usize,
    /// Spans that end in one second of event time.
    pub(crate) spans_per_s: usize,
}

struct Row {
    trace: u128,
    id: u64,
    parent: u64,
    start: i64,
    duration: i64,
    service: usize,
    operation: usize,
    instance: usize,
    server: bool,
}

/// Batches in the order their spans end.
pub(crate) fn batches(shape: Shape) -> Vec<RecordBatch> {
    let mut random = StdRng::seed_from_u64(7);
    let traces = shape.spans / shape.trace_spans;
    let between_ns = 1_000_000_000 * shape.trace_spans as i64 / shape.spans_per_s as i64;
    let mut rows = Vec::with_capacity(shape.spans);
    for trace in 0..traces as i64 {
        add_trace(&mut rows, shape, START + trace * between_ns, &mut random);
    }
    rows.sort_by_key(|row| row.start + row.duration);
    rows.chunks(BATCH_ROWS).map(batch).collect()
}

/// A tree: each server span makes up to three calls, each a client span with a server span below it.
fn add_trace(rows: &mut Vec<Row>, shape: Shape, start: i64, random: &mut StdRng) {
    let (trace, first) = (random.random::<u128>(), rows.len());
    let entry = random.random_range(0..shape.services.div_ceil(20));
    for place in 0..shape.trace_spans {
        let server = place % 2 == 0;
        // a server hangs below the client just before it, a client below one of the servers so far
        let parent = match place {
            0 => None,
            _ if server => Some(first + place - 1),
            _ => Some(first + (place / 6) * 2),
        };
        let of_parent = parent.map(|parent| &rows[parent]);
        let service = of_parent.map_or(entry, |p| match server {
            true => (p.service * 3 + 1 + place % 3) % shape.services,
            false => p.service,
        });
        let (from, room) = of_parent.map_or((start, 40_000_000), |p| (p.start, p.duration));
        let offset = random.random_range(0..=room / 4);
        let duration = random.random_range(room / 4..=room - offset);
        let parent = of_parent.map_or(0, |p| p.id);
        rows.push(Row {
            trace,
            id: random.random::<u64>() | 1,
            parent,
            start: from + offset,
            duration,
            service,
            operation: random.random_range(0..3),
            instance: random.random_range(0..2),
            server,
        });
    }
}

fn batch(rows: &[Row]) -> RecordBatch {
    let schema = Table::Spans.schema();
    let text =
        |value: &dyn Fn(&Row) -> String| Arc::new(StringArray::from_iter_values(rows.iter().map(value))) as ArrayRef;
    let long = |value: fn(&Row) -> i64| Arc::new(Int64Array::from_iter_values(rows.iter().map(value))) as ArrayRef;
    let columns = schema.fields().iter().map(|field| match field.name().as_str() {
        "trace_id" => Arc::new(BinaryArray::from_iter_values(rows.iter().map(|r| r.trace.to_be_bytes()))) as ArrayRef,
        "span_id" => Arc::new(BinaryArray::from_iter_values(rows.iter().map(|r| r.id.to_be_bytes()))),
        "parent_span_id" => {
            let parents = rows.iter().map(|r| (r.parent > 0).then(|| r.parent.to_be_bytes()));
            Arc::new(parents.collect::<BinaryArray>())
        }
        "start_unix_nano" => long(|r| r.start),
        "duration_ns" => long(|r| r.duration),
        "received_unix_nano" => long(|r| r.start + r.duration + 5_000_000),
        "service" => text(&|r| format!("service-{}", r.service)),
        "instance" => text(&|r| format!("service-{}-{}", r.service, r.instance)),
        "operation" => text(&|r| format!("GET /resource/{}", r.operation)),
        "kind" => text(&|r| if r.server { "server".into() } else { "client".into() }),
        "status" => text(&|_| "unset".into()),
        _ => new_null_array(field.data_type(), rows.len()),
    });
    let columns = columns.collect();
    RecordBatch::try_new(schema.clone(), columns).expect("the columns above are the table's")
}
