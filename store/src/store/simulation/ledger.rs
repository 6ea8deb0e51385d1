//! [`Ledger`]: what was sent and what was acked, and what SQL must say of it.
//!
//! A request is made of its number alone, so that a retry has the same bytes. Its rows carry the
//! number as their trace id, or as their operation.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef, AsArray, BinaryArray, Float64Array, Int64Array, StringArray},
    datatypes::{DataType, Int64Type},
};
use futures::StreamExt;
use opentelemetry_proto::tonic::{
    collector::{logs::v1::ExportLogsServiceRequest, trace::v1::ExportTraceServiceRequest},
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message;
use rand::{Rng, rngs::StdRng};
use weir_schema::otlp;

use super::super::*;

/// When the first request starts: 2023, on the hour.
const START_UNIX_NANO: u64 = 1_700_006_400_000_000_000;

/// A number from the environment.
pub(in crate::store) fn number_of(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}: not a number: {text}")))
}

/// What a request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Kind {
    Spans,
    Logs,
    Operations,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    kind: Kind,
    rows: u64,
    acked: bool,
}

/// Everything sent, by number.
#[derive(Debug, Default)]
pub(in crate::store) struct Ledger {
    sent: BTreeMap<u64, Sent>,
}

impl Ledger {
    /// Takes up a new request of a random kind and size.
    pub(in crate::store) fn next(&mut self, random: &mut StdRng) -> u64 {
        let kind = [Kind::Spans, Kind::Spans, Kind::Spans, Kind::Logs, Kind::Operations][random.random_range(0..5)];
        self.take(kind, random.random_range(1..5))
    }

    /// Takes up a new request.
    pub(in crate::store) fn take(&mut self, kind: Kind, rows: u64) -> u64 {
        let number = self.sent.len() as u64 + 1;
        self.sent.insert(number, Sent { kind, rows, acked: false });
        number
    }

    /// One that may be sent again: rows of our own are not, they have no sender to do so.
    pub(in crate::store) fn any_request(&self, random: &mut StdRng) -> Option<u64> {
        let requests: Vec<_> = self.sent.iter().filter(|(_, sent)| sent.kind != Kind::Operations).collect();
        (!requests.is_empty()).then(|| *requests[random.random_range(0..requests.len())].0)
    }

    /// Sends a request as it is each time.
    pub(in crate::store) async fn send(&self, store: &Store, number: u64) -> Result<Appended, AppendError> {
        let Sent { kind, rows, .. } = self.sent[&number];
        let (signal, body) = match kind {
            Kind::Spans => (Signal::Traces, spans(number, rows).encode_to_vec()),
            Kind::Logs => (Signal::Logs, logs(number, rows, start(number)).encode_to_vec()),
            Kind::Operations => return store.append_rows(operations(number, rows)).await,
        };
        let (body, received) = (Bytes::from(body), (START_UNIX_NANO + number) as i64);
        let batch = otlp::decode(signal, Encoding::Protobuf, &body, received).unwrap().batch;
        let request = OtlpRequest {
            signal,
            encoding: Encoding::Protobuf,
            codec_version: otlp::CODEC_VERSION,
            received_unix_nano: received,
            body,
        };
        store.append_otlp(request, batch).await
    }

    pub(in crate::store) fn ack(&mut self, number: u64) {
        self.sent.get_mut(&number).unwrap().acked = true;
    }

    pub(in crate::store) fn acked(&self) -> u64 {
        self.sent.values().filter(|sent| sent.acked).count() as u64
    }

    /// Nothing lost, nothing that was never sent, nothing twice or in part.
    pub(in crate::store) async fn check(&self, store: &Store, what: &str) -> Result<(), Unanswered> {
        let lost = self.lost(store, what).await?;
        assert!(lost.is_empty(), "{what}: acked but lost: {lost:?}");
        Ok(())
    }

    /// The acked requests that are not there. What is there was sent, and is there once and whole.
    pub(in crate::store) async fn lost(&self, store: &Store, what: &str) -> Result<Vec<u64>, Unanswered> {
        store.replayed().await;
        let mut there = BTreeSet::new();
        for kind in [Kind::Spans, Kind::Logs, Kind::Operations] {
            for row in rows(store, kind.statement()).await.map_err(unanswered(what))? {
                let [number, count, distinct] = row[..] else { panic!("{row:?}") };
                let sent = self.sent.get(&(number as u64)).filter(|sent| sent.kind == kind);
                let sent = sent.unwrap_or_else(|| panic!("{what}: request {number} was never sent as {kind:?}"));
                let whole = count as u64 == sent.rows && distinct == count;
                assert!(whole, "{what}: request {number} has {count} rows, {distinct} of them different: {sent:?}");
                there.insert(number as u64);
            }
        }
        let acked = self.sent.iter().filter(|(_, sent)| sent.acked).map(|(number, _)| *number);
        Ok(acked.filter(|number| !there.contains(number)).collect())
    }

    /// `trace_index` says the same as the spans that it was made of.
    pub(in crate::store) async fn check_index(&self, store: &Store, what: &str) -> Result<(), Unanswered> {
        let of_spans =
            "SELECT trace_id, min(start_unix_nano), max(start_unix_nano + duration_ns) FROM spans GROUP BY trace_id";
        let own = "SELECT trace_id, min(start_unix_nano), max(end_unix_nano) FROM trace_index GROUP BY trace_id";
        agree(store, own, of_spans, what).await
    }

    /// The store's own tables say the same as the spans and logs that they were made of.
    pub(in crate::store) async fn check_derived(&self, store: &Store, what: &str) -> Result<(), Unanswered> {
        self.check_index(store, what).await?;
        let hour = |time: &str| format!("{time} / 3600000000000 * 3600000000000");
        let (of_spans, of_logs) = (hour("start_unix_nano"), hour("time_unix_nano"));
        let services =
            format!("SELECT 'spans', service, {of_spans} FROM spans UNION SELECT 'logs', service, {of_logs} FROM logs");
        agree(store, "SELECT DISTINCT signal, service, hour_unix_nano FROM services", &services, what).await?;
        let keys = "SELECT 'spans', unnest(map_keys(attributes)) FROM spans \
                    UNION SELECT 'logs', unnest(map_keys(attributes)) FROM logs";
        let own = "SELECT DISTINCT signal, key FROM attribute_keys WHERE level = 'record'";
        agree(store, own, keys, what).await
    }
}

/// Two statements answer the same rows.
async fn agree(store: &Store, own: &str, made_of: &str, what: &str) -> Result<(), Unanswered> {
    let mut answers = Vec::new();
    for statement in [own, made_of] {
        let rows = texts(store, statement).await.map_err(unanswered(what))?;
        answers.push(rows.into_iter().collect::<BTreeSet<_>>());
    }
    assert_eq!(answers[0], answers[1], "{what}: {own}");
    Ok(())
}

/// A statement of a check had no answer: the disk did not read. Nothing is known to be wrong.
#[derive(Debug)]
pub(in crate::store) struct Unanswered {
    #[expect(dead_code, reason = "for who reads the failure")]
    what: String,
    #[expect(dead_code, reason = "for who reads the failure")]
    error: SqlError,
}

fn unanswered(what: &str) -> impl FnOnce(SqlError) -> Unanswered {
    let what = what.to_owned();
    |error| Unanswered { what, error }
}

impl Kind {
    /// Number, rows, distinct rows.
    fn statement(self) -> &'static str {
        match self {
            Self::Spans => "SELECT trace_id, count(*), count(DISTINCT span_id) FROM spans GROUP BY trace_id",
            Self::Logs => {
                "SELECT trace_id, count(*), count(DISTINCT span_id) FROM logs WHERE trace_id IS NOT NULL GROUP BY trace_id"
            }
            Self::Operations => {
                "SELECT operation, count(*), count(DISTINCT input_tokens) FROM operations GROUP BY operation"
            }
        }
    }
}

fn spans(number: u64, rows: u64) -> ExportTraceServiceRequest {
    let span = |row: u64| Span {
        trace_id: u128::from(number).to_be_bytes().to_vec(),
        span_id: (number * 16 + row + 1).to_be_bytes().to_vec(),
        name: "work".into(),
        kind: 2,
        start_time_unix_nano: start(number) + row,
        end_time_unix_nano: start(number) + row + 1_000,
        attributes: vec![text(&key(number), "v")],
        ..Span::default()
    };
    let scope_spans = vec![ScopeSpans { spans: (0..rows).map(span).collect(), ..ScopeSpans::default() }];
    let resource_spans = ResourceSpans { resource: resource(number), scope_spans, ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }
}

fn logs(number: u64, rows: u64, start_unix_nano: u64) -> ExportLogsServiceRequest {
    let record = |row: u64| LogRecord {
        trace_id: u128::from(number).to_be_bytes().to_vec(),
        span_id: (number * 16 + row + 1).to_be_bytes().to_vec(),
        time_unix_nano: start_unix_nano + row,
        body: Some(AnyValue { value: Some(Value::StringValue("said".into())) }),
        attributes: vec![text(&key(number), "v")],
        ..LogRecord::default()
    };
    let log_records = (0..rows).map(record).collect();
    let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
    let resource_logs = ResourceLogs { resource: resource(number), scope_logs, ..ResourceLogs::default() };
    ExportLogsServiceRequest { resource_logs: vec![resource_logs] }
}

/// Logs of 1970, for retention to drop: of no request, so of no trace.
pub(in crate::store) fn old_logs() -> Batch {
    let body = logs(0, 1, 1).encode_to_vec();
    otlp::decode(Signal::Logs, Encoding::Protobuf, &Bytes::from(body), 1).unwrap().batch.unwrap()
}

/// Rows of `operations`: the number is the operation, the row its count of input tokens.
fn operations(number: u64, rows: u64) -> Batch {
    let table = Table::Operations;
    let length = usize::try_from(rows).unwrap();
    let schema = table.schema();
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        match (field.name().as_str(), field.data_type()) {
            ("operation", _) => Arc::new(StringArray::from(vec![number.to_string(); length])),
            ("input_tokens", _) => Arc::new(Int64Array::from_iter_values(0..rows as i64)),
            ("minute_unix_nano", _) => Arc::new(Int64Array::from(vec![START_UNIX_NANO as i64; length])),
            (_, DataType::Utf8) => Arc::new(StringArray::from(vec!["x"; length])),
            (_, DataType::Int64) => Arc::new(Int64Array::from(vec![1; length])),
            (_, DataType::Float64) => Arc::new(Float64Array::from(vec![1.0; length])),
            (_, DataType::Binary) => Arc::new(BinaryArray::from(vec![b"".as_slice(); length])),
            (name, other) => panic!("{name}: {other}"),
        }
    });
    let rows = RecordBatch::try_new(schema.clone(), columns.collect()).unwrap();
    Batch { table, rows }
}

/// A minute apart, so that hours change.
fn start(number: u64) -> u64 {
    START_UNIX_NANO + number * 60_000_000_000
}

fn key(number: u64) -> String {
    format!("key{}", number % 5)
}

fn resource(number: u64) -> Option<Resource> {
    let attributes = vec![text("service.name", &format!("service{}", number % 3))];
    Some(Resource { attributes, ..Resource::default() })
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(value.into())) });
    KeyValue { key: key.into(), value, ..KeyValue::default() }
}

/// An answer as numbers: ids and names are read as the number of their request.
async fn rows(store: &Store, statement: &str) -> Result<Vec<Vec<i64>>, SqlError> {
    cells(store, statement, |column, row| match column.data_type() {
        DataType::Binary => {
            i64::try_from(u128::from_be_bytes(column.as_binary::<i32>().value(row).try_into().unwrap())).unwrap()
        }
        DataType::Utf8 => column.as_string::<i32>().value(row).parse().unwrap(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row),
        other => panic!("{statement}: {other}"),
    })
    .await
}

/// An answer as text.
pub(in crate::store) async fn texts(store: &Store, statement: &str) -> Result<Vec<Vec<String>>, SqlError> {
    cells(store, statement, |column, row| arrow::util::display::array_value_to_string(column, row).unwrap()).await
}

/// How many planned faults of the disk may meet one statement.
const FAULTS: usize = 3;

/// A statement that a planned fault of the disk met is asked again: a fault comes once.
async fn cells<T>(
    store: &Store,
    statement: &str,
    cell: impl Fn(&ArrayRef, usize) -> T,
) -> Result<Vec<Vec<T>>, SqlError> {
    for _ in 0..FAULTS {
        match cells_once(store, statement, &cell).await {
            Err(SqlError::Execution(why)) if why.contains("Input/output error") => {}
            answered => return answered,
        }
    }
    cells_once(store, statement, &cell).await
}

async fn cells_once<T>(
    store: &Store,
    statement: &str,
    cell: &impl Fn(&ArrayRef, usize) -> T,
) -> Result<Vec<Vec<T>>, SqlError> {
    let mut answer = store.sql(statement, None).await?;
    let mut rows = Vec::new();
    while let Some(batch) = answer.stream.next().await {
        let batch = batch?;
        rows.extend((0..batch.num_rows()).map(|row| batch.columns().iter().map(|c| cell(c, row)).collect()));
    }
    Ok(rows)
}
