//! Parquet spans: columns `trace_id, span_id, parent_id, service | pod, operation,
//! start_unix_nano, end_unix_nano`; ids as hex or any other text, times as integers.
//!
//! Rows are sorted by start time, run by run of [`ROWS_PER_RUN`], so that the analyzer meets them
//! as they happened. A pod's service is its name without the two hashes Kubernetes adds.

use std::{path::Path, sync::Arc};

use anyhow::Context;
use arrow::{
    array::{Array, ArrayRef, AsArray, BinaryBuilder, Int64Array, StringArray, new_null_array},
    compute::{cast, concat_batches, sort_to_indices, take},
    datatypes::{DataType, Field, Int64Type, Schema},
    record_batch::RecordBatch,
};
use weir_schema::{Batch, Table};
use weir_store::Store;

use super::{Chunk, Item, Reader};

/// Rows sorted together: about 600 MB of ids and names at worst.
const ROWS_PER_RUN: usize = 4_000_000;

/// Rows stored at once.
const ROWS_PER_CHUNK: usize = 32_768;

/// The columns a file must have, in the order of [`normal_schema`].
const COLUMNS: [&str; 7] =
    ["trace_id", "span_id", "parent_id", "service", "operation", "start_unix_nano", "end_unix_nano"];

/// The spans of a file.
pub(super) fn open(path: &Path) -> Result<Reader, anyhow::Error> {
    let file = Store::read_parquet_spans(path)?;
    let length = file.rows;
    let runs = Runs { batches: Box::new(file.batches.map(|b| b.map_err(Into::into))), received: now(), read: 0 };
    let items = runs.flatten();
    Ok(Reader { length, unit: "rows", items: Box::new(items) })
}

/// Reads a run, sorts it, and gives its chunks.
struct Runs {
    batches: Box<dyn Iterator<Item = Result<RecordBatch, anyhow::Error>>>,
    received: i64,
    read: u64,
}

impl Iterator for Runs {
    type Item = Vec<Item>;

    fn next(&mut self) -> Option<Vec<Item>> {
        let mut run = Vec::new();
        let mut items = Vec::new();
        let mut rows = 0;
        while rows < ROWS_PER_RUN {
            match self.batches.next() {
                None => break,
                Some(Ok(batch)) => {
                    rows += batch.num_rows();
                    match normal(&batch) {
                        Ok(batch) => run.push(batch),
                        Err(error) => items.push(Item::Bad(format!("rows from {}: {error:#}", self.read))),
                    }
                }
                Some(Err(error)) => items.push(Item::Bad(format!("rows from {}: {error:#}", self.read))),
            }
        }
        if rows == 0 && items.is_empty() {
            return None;
        }
        match sorted(&run) {
            Ok(run) => self.chunks(&run, &mut items),
            Err(error) => items.push(Item::Bad(format!("rows from {}: {error:#}", self.read))),
        }
        Some(items)
    }
}

impl Runs {
    fn chunks(&mut self, run: &RecordBatch, items: &mut Vec<Item>) {
        for offset in (0..run.num_rows()).step_by(ROWS_PER_CHUNK) {
            let rows = run.slice(offset, ROWS_PER_CHUNK.min(run.num_rows() - offset));
            match span_rows(&rows, self.received) {
                Ok((rows, bad)) => {
                    items.extend(
                        bad.into_iter()
                            .map(|(row, why)| Item::Bad(format!("row {} by start time: {why}", self.read + row))),
                    );
                    self.read += ROWS_PER_CHUNK.min(run.num_rows() - offset) as u64;
                    items.push(Item::Chunk(Chunk::Rows(Batch { table: Table::Spans, rows }), self.read));
                }
                Err(error) => items.push(Item::Bad(format!("rows from {}: {error:#}", self.read))),
            }
        }
    }
}

fn normal_schema() -> Arc<Schema> {
    let field = |name: &str| {
        let data_type = if name.ends_with("_nano") { DataType::Int64 } else { DataType::Utf8 };
        Field::new(name, data_type, true)
    };
    Arc::new(Schema::new(COLUMNS.map(field).to_vec()))
}

/// The columns we read, cast to one set of types; `pod` stands in for `service`.
fn normal(batch: &RecordBatch) -> Result<RecordBatch, anyhow::Error> {
    let schema = normal_schema();
    let columns = schema.fields().iter().map(|field| {
        let name = field.name().as_str();
        let column = match (batch.column_by_name(name), name) {
            (Some(column), _) => cast(column, field.data_type())?,
            (None, "service") => {
                service_of_pods(batch.column_by_name("pod").context("neither service nor pod is there")?)?
            }
            (None, "parent_id") => new_null_array(&DataType::Utf8, batch.num_rows()),
            (None, _) => anyhow::bail!("column {name} is missing; there are {:?}", names(batch)),
        };
        Ok(column)
    });
    let columns = columns.collect::<Result<Vec<ArrayRef>, anyhow::Error>>()?;
    Ok(RecordBatch::try_new(schema, columns)?)
}

fn names(batch: &RecordBatch) -> Vec<String> {
    batch.schema().fields().iter().map(|f| f.name().clone()).collect()
}

fn service_of_pods(pods: &ArrayRef) -> Result<ArrayRef, anyhow::Error> {
    let pods = cast(pods, &DataType::Utf8)?;
    let services: StringArray = pods.as_string::<i32>().iter().map(|pod| pod.map(service_of_pod)).collect();
    Ok(Arc::new(services))
}

/// `cartservice-579f59597d-wc2lz` → `cartservice`: drops up to two trailing parts that look like hashes.
fn service_of_pod(pod: &str) -> &str {
    let hash = |part: &str, lengths: std::ops::RangeInclusive<usize>| {
        lengths.contains(&part.len()) && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    let Some((rest, last)) = pod.rsplit_once('-') else { return pod };
    if !hash(last, 5..=5) {
        return pod;
    }
    match rest.rsplit_once('-') {
        Some((service, set)) if hash(set, 6..=10) && set.bytes().any(|b| b.is_ascii_digit()) => service,
        _ => pod,
    }
}

fn sorted(run: &[RecordBatch]) -> Result<RecordBatch, anyhow::Error> {
    let all = concat_batches(&normal_schema(), run)?;
    let order = sort_to_indices(all.column(5), None, None)?;
    let columns = all.columns().iter().map(|column| take(column, &order, None)).collect::<Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new(all.schema(), columns)?)
}

type BadRows = Vec<(u64, String)>;

/// Rows of `spans`; a row without ids or with its end before its start is left out and named.
fn span_rows(rows: &RecordBatch, received: i64) -> Result<(RecordBatch, BadRows), anyhow::Error> {
    let text = |i: usize| rows.column(i).as_string::<i32>();
    let time = |i: usize| rows.column(i).as_primitive::<Int64Type>();
    let (trace_ids, span_ids, parents, services, operations) = (text(0), text(1), text(2), text(3), text(4));
    let (starts, ends) = (time(5), time(6));
    let mut bad = Vec::new();
    let mut columns = SpanColumns::default();
    for row in 0..rows.num_rows() {
        let whole = [0, 1, 3, 4, 5, 6].iter().all(|column| rows.column(*column).is_valid(row));
        if !whole {
            bad.push((row as u64, "an id, service, operation or time is null".to_owned()));
            continue;
        }
        let (start, end) = (starts.value(row), ends.value(row));
        if end < start {
            bad.push((row as u64, format!("end {end} is before start {start}")));
            continue;
        }
        columns.trace_id.append_value(id::<16>(trace_ids.value(row)));
        columns.span_id.append_value(id::<8>(span_ids.value(row)));
        let parent = parents.is_valid(row).then(|| parents.value(row)).filter(|p| !p.is_empty() && *p != "root");
        columns.parent.append_option(parent.map(id::<8>));
        columns.start.push(start);
        columns.duration.push(end - start);
        columns.service.push(services.value(row).to_owned());
        columns.operation.push(operations.value(row).to_owned());
    }
    Ok((columns.finish(received)?, bad))
}

/// An id as bytes: hex of the right length as it stands, any other text by a 128-bit hash, so that
/// equal texts stay equal.
fn id<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    if text.len() == 2 * N && hex::decode_to_slice(text, &mut bytes).is_ok() {
        return bytes;
    }
    let hash = xxhash_rust::xxh3::xxh3_128(text.as_bytes()).to_be_bytes();
    bytes.copy_from_slice(&hash[..N]);
    bytes
}

#[derive(Default)]
struct SpanColumns {
    trace_id: BinaryBuilder,
    span_id: BinaryBuilder,
    parent: BinaryBuilder,
    start: Vec<i64>,
    duration: Vec<i64>,
    service: Vec<String>,
    operation: Vec<String>,
}

impl SpanColumns {
    fn finish(mut self, received: i64) -> Result<RecordBatch, anyhow::Error> {
        let rows = self.start.len();
        let constant =
            |text: &str| Arc::new(StringArray::from_iter_values(std::iter::repeat_n(text, rows))) as ArrayRef;
        let mut columns: Vec<(&str, ArrayRef)> = vec![
            ("trace_id", Arc::new(self.trace_id.finish())),
            ("span_id", Arc::new(self.span_id.finish())),
            ("parent_span_id", Arc::new(self.parent.finish())),
            ("start_unix_nano", Arc::new(Int64Array::from(self.start))),
            ("duration_ns", Arc::new(Int64Array::from(self.duration))),
            ("service", Arc::new(StringArray::from(self.service))),
            ("operation", Arc::new(StringArray::from(self.operation))),
            ("kind", constant("unspecified")),
            ("status", constant("unset")),
            ("received_unix_nano", Arc::new(Int64Array::from(vec![received; rows]))),
        ];
        let schema = Table::Spans.schema();
        let arrays = schema.fields().iter().map(|field| {
            let place = columns.iter().position(|(name, _)| name == field.name());
            place.map_or_else(|| new_null_array(field.data_type(), rows), |place| columns.swap_remove(place).1)
        });
        let arrays: Vec<ArrayRef> = arrays.collect();
        Ok(RecordBatch::try_new(schema, arrays)?)
    }
}

fn now() -> i64 {
    crate::server::now_unix_nano()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_service_is_its_name_without_hashes() {
        let cases = [
            ("cartservice-579f59597d-wc2lz", "cartservice"),
            ("ts-order-service-5f8c7dbb4d-x2v9k", "ts-order-service"),
            ("redis-cart-74594bd569-zl6cc", "redis-cart"),
            ("frontend", "frontend"),
            ("my-service", "my-service"),
            ("payment-service-alpha", "payment-service-alpha"),
        ];
        for (pod, service) in cases {
            assert_eq!(service_of_pod(pod), service);
        }
    }

    #[test]
    fn ids_that_are_hex_stay_and_others_hash_alike() {
        assert_eq!(id::<8>("00000000000000ff"), [0, 0, 0, 0, 0, 0, 0, 255]);
        assert_eq!(id::<8>("not hex"), id::<8>("not hex"));
        assert_ne!(id::<8>("a"), id::<8>("b"));
    }
}
