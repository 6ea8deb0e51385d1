//! What the store derives from the rows of a flush: `trace_index`, `services`, `attribute_keys`.
//!
//! All are made from the rows as they came, before any sampling, and are pure: the same rows give
//! the same answer. A row is looked at as bytes. Rows that follow each other mostly repeat trace,
//! service and attribute keys, so rows before are compared first, a hash is asked second, and text
//! is copied only for what is new.

use std::{collections::BTreeSet, hash::BuildHasher, ops::Range, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Int64Array, MapArray, StringArray, StringBuilder,
        UInt32Array,
    },
    compute::take,
    datatypes::{DataType, Int64Type},
    record_batch::RecordBatch,
};
use hashbrown::{DefaultHashBuilder, HashMap, HashTable, hash_table::Entry};
use weir_schema::{Table, UnixNanos, columns};

use crate::files::id_as_number;

const HOUR_NS: i64 = 3_600_000_000_000;

/// Rows of `services` or `attribute_keys` that are remembered as written: 100,000 are about 10 MiB,
/// and a mesh of 1,000 services with 40 keys has few thousand an hour.
const REMEMBERED_ROWS: usize = 100_000;

/// Spans of a trace, at least about: tables are made for so many traces at once, and grow where there are more.
const USUAL_SPANS: usize = 4;

/// Rows that a row's attribute keys are compared with before a hash is asked.
const LATELY: usize = 32;

/// One row of `services`. Ordered by hour first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ServiceRow {
    pub(crate) hour: UnixNanos,
    pub(crate) signal: &'static str,
    pub(crate) service: String,
}

/// One row of `attribute_keys`. Ordered by hour first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AttributeKeyRow {
    pub(crate) hour: UnixNanos,
    pub(crate) signal: &'static str,
    pub(crate) level: &'static str,
    pub(crate) key: String,
    pub(crate) value_type: &'static str,
}

/// What attributes some rows have.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct AttributeKeys {
    pub(crate) rows: BTreeSet<AttributeKeyRow>,
    /// A map holds a key that has a column of its own: its value was of another type, or came twice.
    /// Only then a query must look into the map as well.
    pub(crate) hot_in_map: bool,
}

/// Rows that are in their table already, so that a flush writes only new ones. Bounded: the oldest
/// hours are forgotten first, and a row that was forgotten is written once more, which is harmless.
#[derive(Debug)]
pub(crate) struct Seen<Row> {
    rows: BTreeSet<Row>,
    limit: usize,
}

impl<Row: Ord> Default for Seen<Row> {
    fn default() -> Self {
        Self { rows: BTreeSet::new(), limit: REMEMBERED_ROWS }
    }
}

impl<Row: Ord> Seen<Row> {
    /// Those that are not known to be written.
    pub(crate) fn unseen(&self, mut rows: BTreeSet<Row>) -> BTreeSet<Row> {
        rows.retain(|row| !self.rows.contains(row));
        rows
    }

    /// Remembers rows, after they were written.
    pub(crate) fn remember(&mut self, rows: BTreeSet<Row>) {
        self.rows.extend(rows);
        while self.rows.len() > self.limit {
            self.rows.pop_first();
        }
    }
}

/// Rows of `trace_index`: one for each trace among these spans, by trace id.
pub(crate) fn trace_index(spans: &RecordBatch) -> RecordBatch {
    let traces = Traces::of(spans);
    let ids = spans["trace_id"].as_binary::<i32>();
    let by_id = |trace: &Trace| (id_as_number(ids.value(trace.first_row)), trace.first_row);
    let mut order: Vec<((u128, usize), &Trace)> = traces.all.iter().map(|trace| (by_id(trace), trace)).collect();
    order.sort_unstable_by_key(|(key, _)| *key);
    let sorted = || order.iter().map(|(_, trace)| *trace);
    let roots: UInt32Array = sorted().map(|trace| trace.root.map(|(_, row)| row as u32)).collect();
    let of_root = |column: &str| take(&spans[column], &roots, None).expect("a root is a row; without one it is null");
    let columns: Vec<ArrayRef> = vec![
        Arc::new(BinaryArray::from_iter_values(sorted().map(|trace| ids.value(trace.first_row)))),
        Arc::new(Int64Array::from_iter_values(sorted().map(|trace| trace.start))),
        Arc::new(Int64Array::from_iter_values(sorted().map(|trace| trace.end))),
        of_root("service"),
        of_root("operation"),
        Arc::new(BooleanArray::from_iter(sorted().map(|trace| Some(trace.error)))),
    ];
    batch(Table::TraceIndex, columns)
}

/// Which services these rows of `spans`, `logs` or `metrics` come from.
pub(crate) fn services(table: Table, rows: &RecordBatch) -> BTreeSet<ServiceRow> {
    let hours = hours(table, rows);
    let services = rows["service"].as_string::<i32>();
    let mut found: HashMap<(UnixNanos, &str), ()> = HashMap::new();
    let mut last = None;
    for (row, hour) in hours.iter().enumerate() {
        let service = services.value(row);
        if last != Some((*hour, service)) {
            found.insert((*hour, service), ());
            last = Some((*hour, service));
        }
    }
    let signal = table.name();
    found.into_keys().map(|(hour, service)| ServiceRow { hour, signal, service: service.to_owned() }).collect()
}

/// Which attributes these rows have, those with a column of their own included.
pub(crate) fn attribute_keys(table: Table, rows: &RecordBatch) -> AttributeKeys {
    let hours = hours(table, rows);
    let mut found = AttributeKeys { rows: hot_keys(table, rows, &hours), hot_in_map: false };
    let hot: Vec<&str> = hot_columns(table).map(|(_, attribute)| attribute).collect();
    for (level, map, types) in
        [("record", "attributes", "attribute_types"), ("resource", "resource_attributes", "resource_attribute_types")]
    {
        let keys = Keys::of(rows, map, types);
        for row in keys.distinct_rows(&hours) {
            let (entries, letters) = (keys.entries(row), keys.letters(row));
            for (place, entry) in entries.enumerate() {
                let value_type = type_name(letters.get(place));
                let (hour, key) = (hours[row], keys.keys.value(entry).to_owned());
                found.hot_in_map |= level == "record" && hot.contains(&key.as_str());
                found.rows.insert(AttributeKeyRow { hour, signal: table.name(), level, key, value_type });
            }
        }
    }
    found
}

/// Whether a map in these rows holds an attribute that has a column of its own.
pub(crate) fn hot_in_map(table: Table, batches: &[RecordBatch]) -> bool {
    batches.iter().any(|rows| attribute_keys(table, rows).hot_in_map)
}

/// Rows of `services`.
pub(crate) fn services_batch(rows: &BTreeSet<ServiceRow>) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.hour))),
        text(rows.iter().map(|row| row.signal)),
        text(rows.iter().map(|row| row.service.as_str())),
    ];
    batch(Table::Services, columns)
}

/// Rows of `attribute_keys`.
pub(crate) fn attribute_keys_batch(rows: &BTreeSet<AttributeKeyRow>) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.hour))),
        text(rows.iter().map(|row| row.signal)),
        text(rows.iter().map(|row| row.level)),
        text(rows.iter().map(|row| row.key.as_str())),
        text(rows.iter().map(|row| row.value_type)),
    ];
    batch(Table::AttributeKeys, columns)
}

/// What is known of one trace.
struct Trace {
    first_row: usize,
    start: UnixNanos,
    end: UnixNanos,
    /// Start and row of its root: the earliest, should there be several.
    root: Option<(UnixNanos, usize)>,
    error: bool,
}

/// The traces of some rows, in the order they first appear.
struct Traces {
    all: Vec<Trace>,
}

impl Traces {
    fn of(spans: &RecordBatch) -> Self {
        let ids = spans["trace_id"].as_binary::<i32>();
        let parents = &spans["parent_span_id"];
        let starts = spans["start_unix_nano"].as_primitive::<Int64Type>().values();
        let durations = spans["duration_ns"].as_primitive::<Int64Type>().values();
        let statuses = spans["status"].as_string::<i32>();
        let mut all: Vec<Trace> = Vec::new();
        let mut places: HashMap<&[u8], usize> = HashMap::with_capacity(spans.num_rows() / USUAL_SPANS);
        let mut last: Option<(&[u8], usize)> = None;
        for row in 0..spans.num_rows() {
            let id = ids.value(row);
            let place = match last {
                Some((same, place)) if same == id => place,
                _ => *places.entry(id).or_insert(all.len()),
            };
            last = Some((id, place));
            let (start, end) = (starts[row], starts[row].saturating_add(durations[row]));
            if place == all.len() {
                all.push(Trace { first_row: row, start, end, root: None, error: false });
            }
            let trace = &mut all[place];
            trace.start = trace.start.min(start);
            trace.end = trace.end.max(end);
            trace.error |= statuses.value(row) == "error";
            if parents.is_null(row) && trace.root.is_none_or(|(earliest, _)| start < earliest) {
                trace.root = Some((start, row));
            }
        }
        Self { all }
    }
}

/// The keys of a map column, row by row, with the letters of their types.
struct Keys<'a> {
    map: &'a MapArray,
    /// Where the entries of each row begin; one more than rows.
    offsets: &'a [i32],
    keys: &'a StringArray,
    letters: &'a StringArray,
}

impl<'a> Keys<'a> {
    fn of(rows: &'a RecordBatch, map: &str, letters: &str) -> Self {
        let (map, letters) = (rows[map].as_map(), rows[letters].as_string::<i32>());
        Self { map, offsets: map.value_offsets(), keys: map.keys().as_string(), letters }
    }

    fn entries(&self, row: usize) -> Range<usize> {
        if self.map.is_null(row) {
            return 0..0;
        }
        self.offsets[row] as usize..self.offsets[row + 1] as usize
    }

    /// One letter for each entry; none when all are strings.
    fn letters(&self, row: usize) -> &'a [u8] {
        if self.letters.is_valid(row) { self.letters.value(row).as_bytes() } else { &[] }
    }

    /// The keys of a row, one after another, and where each ends.
    fn bytes(&self, row: usize) -> (&'a [u8], &'a [i32]) {
        let entries = self.entries(row);
        let ends: &'a [i32] = self.keys.value_offsets();
        let ends = &ends[entries.start..=entries.end];
        let (Some(first), Some(last)) = (ends.first(), ends.last()) else { return (&[], &[]) };
        (&self.keys.value_data()[*first as usize..*last as usize], ends)
    }

    fn same(&self, a: usize, b: usize) -> bool {
        let ((bytes_a, ends_a), (bytes_b, ends_b)) = (self.bytes(a), self.bytes(b));
        // the same bytes may be cut differently: "ab", "c" and "a", "bc"
        let cut = |ends: &[i32], place: usize| ends[place] - ends[0];
        ends_a.len() == ends_b.len()
            && bytes_a == bytes_b
            && (1..ends_a.len()).all(|place| cut(ends_a, place) == cut(ends_b, place))
            && self.letters(a) == self.letters(b)
    }

    /// One row of each set of rows that have the same keys, types and hour.
    fn distinct_rows(&self, hours: &[UnixNanos]) -> Vec<usize> {
        let state = DefaultHashBuilder::default();
        let hash = |row: usize| {
            state.hash_one(Shape { keys: self.bytes(row).0, letters: self.letters(row), hour: hours[row] })
        };
        let mut found: HashTable<usize> = HashTable::new();
        // the last row of each length: rows of a few kinds take turns
        let mut lately = [None; LATELY];
        for row in 0..self.map.len() {
            let same = |other: &usize| hours[*other] == hours[row] && self.same(*other, row);
            let last = &mut lately[self.bytes(row).0.len() % LATELY];
            if last.replace(row).is_some_and(|last| same(&last)) {
                continue;
            }
            if let Entry::Vacant(place) = found.entry(hash(row), same, |row| hash(*row)) {
                place.insert(row);
            }
        }
        found.into_iter().collect()
    }
}

/// What rows that are looked for by hash have in common.
#[derive(Hash)]
struct Shape<'a> {
    keys: &'a [u8],
    letters: &'a [u8],
    hour: UnixNanos,
}

/// The hour of each row.
fn hours(table: Table, rows: &RecordBatch) -> Vec<UnixNanos> {
    let times = rows[table.time_column()].as_primitive::<Int64Type>().values();
    let mut hour = 0;
    let of = |time: &UnixNanos| {
        // a division only where the hour changes
        if time.wrapping_sub(hour) as u64 >= HOUR_NS as u64 {
            hour = time.div_euclid(HOUR_NS).saturating_mul(HOUR_NS);
        }
        hour
    };
    times.iter().map(of).collect()
}

/// The attributes that have a column of their own and are not null.
fn hot_keys(table: Table, rows: &RecordBatch, hours: &[UnixNanos]) -> BTreeSet<AttributeKeyRow> {
    let one_hour = hours.first().filter(|first| hours.iter().all(|hour| hour == *first));
    let mut found = BTreeSet::new();
    for (name, attribute) in hot_columns(table) {
        let column = &rows[name];
        let value_type = if column.data_type() == &DataType::Utf8 { "string" } else { "int" };
        let mut add = |hour| {
            let (signal, level, key) = (table.name(), "record", attribute.to_owned());
            found.insert(AttributeKeyRow { hour, signal, level, key, value_type });
        };
        match one_hour {
            _ if column.null_count() == column.len() => {}
            Some(hour) => add(*hour),
            None => {
                let mut last = None;
                for row in (0..column.len()).filter(|row| column.is_valid(*row)) {
                    if last.replace(hours[row]) != Some(hours[row]) {
                        add(hours[row]);
                    }
                }
            }
        }
    }
    found
}

/// Columns that are filled from an attribute: name, attribute.
fn hot_columns(table: Table) -> impl Iterator<Item = (&'static str, &'static str)> {
    columns::columns(table).into_iter().filter_map(|column| Some((column.name, column.attribute?)))
}

/// The type of a letter (see [`weir_schema::attribute`]).
fn type_name(letter: Option<&u8>) -> &'static str {
    match letter {
        Some(b'b') => "boolean",
        Some(b'i') => "int",
        Some(b'd') => "double",
        Some(b'y') => "bytes",
        Some(b'a' | b'A') => "array",
        Some(b'm' | b'M') => "map",
        Some(b'n') => "null",
        _ => "string",
    }
}

fn text<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
    let mut builder = StringBuilder::new();
    values.for_each(|value| builder.append_value(value));
    Arc::new(builder.finish())
}

fn batch(table: Table, columns: Vec<ArrayRef>) -> RecordBatch {
    RecordBatch::try_new(table.schema(), columns).expect("the columns above are the table's")
}

#[cfg(test)]
mod tests;
