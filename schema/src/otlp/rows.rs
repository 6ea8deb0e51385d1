//! [`Rows`]: builders for all columns of one table, filled a row at a time. A column that a row does
//! not set is null there; runs of nulls are added at once when the column is next set, so columns
//! that nobody uses cost nothing.

use std::sync::{Arc, LazyLock};

use arrow::{
    array::{
        ArrayBuilder, ArrayRef, BinaryBuilder, BooleanBuilder, Float64Builder, Int32Builder, Int64Builder, ListBuilder,
        StringBuilder, StructBuilder,
    },
    datatypes::{DataType, Field},
    record_batch::RecordBatch,
};
use hashbrown::HashMap;

use super::{
    Decoded,
    value::{Attribute, Value},
    wire::{Fields, Malformed},
};
use crate::{
    Batch, Table,
    attribute::{self, AttributesBuilder},
    columns,
};

/// Bytes of resource attributes that the rows of one request may repeat. A request of 4 MiB could
/// otherwise ask for 40 GiB: one large resource, many small spans.
const MAX_REPEATED_BYTES: usize = 256 << 20;

/// The builder of one column.
enum Builder {
    Binary(BinaryBuilder),
    Text(StringBuilder),
    Long(Int64Builder),
    Int(Int32Builder),
    Double(Float64Builder),
    Bool(BooleanBuilder),
    Map(Box<AttributesBuilder>),
    Doubles(ListBuilder<Float64Builder>),
    Structs(Box<ListBuilder<StructBuilder>>),
}

/// Attribute name → the column it has of its own.
type Hot = HashMap<&'static str, usize, foldhash::fast::RandomState>;

/// The rows of one table, as they are built.
pub(super) struct Rows {
    table: Table,
    builders: Vec<Builder>,
    hot: &'static Hot,
    rows: usize,
    repeated_bytes: usize,
    rejected: u64,
    first_rejection: Option<String>,
    /// Room for the letters of one map.
    letters: String,
}

/// Where a column stands in its table; asked once, when the places of a table are made.
pub(super) fn place(table: Table, column: &str) -> usize {
    let columns = columns::columns(table);
    columns.iter().position(|c| c.name == column).expect("places are made of columns that exist")
}

/// A struct with the place of each named column.
macro_rules! places {
    ($name:ident of $table:expr => $($column:ident),* $(,)?) => {
        #[derive(Clone, Copy)]
        struct $name {
            $($column: usize),*
        }

        impl $name {
            fn get() -> Self {
                static PLACES: std::sync::LazyLock<$name> =
                    std::sync::LazyLock::new(|| $name { $($column: super::rows::place($table, stringify!($column))),* });
                *PLACES
            }
        }
    };
}
pub(super) use places;

impl Rows {
    pub(super) fn new(table: Table) -> Self {
        let builders = columns::columns(table).iter().map(|column| Builder::new(&column.data_type)).collect();
        Self {
            table,
            builders,
            hot: hot(table),
            rows: 0,
            repeated_bytes: 0,
            rejected: 0,
            first_rejection: None,
            letters: String::new(),
        }
    }

    /// Leaves a row out, before anything of it is set.
    pub(super) fn reject(&mut self, why: impl FnOnce() -> String) {
        self.rejected += 1;
        self.first_rejection.get_or_insert_with(why);
    }

    /// Ends a row.
    pub(super) fn end_row(&mut self) {
        self.rows += 1;
    }

    pub(super) fn finish(mut self) -> Decoded {
        let Self { rejected, first_rejection, rows, table, .. } = self;
        let mut decoded = Decoded { batch: None, accepted: rows as u64, rejected, first_rejection };
        if rows > 0 {
            let column = |builder: &mut Builder| {
                builder.fill(rows);
                builder.finish()
            };
            let columns = self.builders.iter_mut().map(column).collect();
            let rows = RecordBatch::try_new(table.schema(), columns).expect("the builders follow the table's columns");
            decoded.batch = Some(Batch { table, rows });
        }
        decoded
    }

    /// Counts what a row repeats of its resource.
    pub(super) fn repeat(&mut self, bytes: usize) -> Result<(), Malformed> {
        self.repeated_bytes += bytes;
        if self.repeated_bytes > MAX_REPEATED_BYTES {
            let why = format!(
                "resource attributes repeated for each row are more than {} MiB: send fewer rows in a request",
                MAX_REPEATED_BYTES >> 20
            );
            return Err(Malformed::new(why));
        }
        Ok(())
    }

    #[inline]
    pub(super) fn text(&mut self, place: usize, value: &str) {
        match self.column(place) {
            Builder::Text(builder) => builder.append_value(value),
            _ => unreachable!("column {place} is text"),
        }
    }

    #[inline]
    pub(super) fn maybe_text(&mut self, place: usize, value: Option<&str>) {
        if let Some(value) = value {
            self.text(place, value);
        }
    }

    /// An id; all zero means none.
    #[inline]
    pub(super) fn id(&mut self, place: usize, id: &[u8]) {
        if id.iter().all(|byte| *byte == 0) {
            return;
        }
        match self.column(place) {
            Builder::Binary(builder) => builder.append_value(id),
            _ => unreachable!("column {place} is binary"),
        }
    }

    #[inline]
    pub(super) fn long(&mut self, place: usize, value: i64) {
        match self.column(place) {
            Builder::Long(builder) => builder.append_value(value),
            _ => unreachable!("column {place} is a 64-bit integer"),
        }
    }

    #[inline]
    pub(super) fn int(&mut self, place: usize, value: i32) {
        match self.column(place) {
            Builder::Int(builder) => builder.append_value(value),
            _ => unreachable!("column {place} is a 32-bit integer"),
        }
    }

    #[inline]
    pub(super) fn double(&mut self, place: usize, value: f64) {
        match self.column(place) {
            Builder::Double(builder) => builder.append_value(value),
            _ => unreachable!("column {place} is a double"),
        }
    }

    pub(super) fn bool(&mut self, place: usize, value: bool) {
        match self.column(place) {
            Builder::Bool(builder) => builder.append_value(value),
            _ => unreachable!("column {place} is a bool"),
        }
    }

    pub(super) fn doubles(&mut self, place: usize, values: &[f64]) {
        match self.column(place) {
            Builder::Doubles(builder) => builder.append_value(values.iter().copied().map(Some)),
            _ => unreachable!("column {place} is a list of doubles"),
        }
    }

    #[inline]
    pub(super) fn map(&mut self, place: usize) -> &mut AttributesBuilder {
        match self.column(place) {
            Builder::Map(builder) => builder,
            _ => unreachable!("column {place} is a map"),
        }
    }

    /// A map and, in the column `types`, its letters.
    pub(super) fn attributes<'a>(
        &mut self,
        place: usize,
        types: usize,
        attributes: impl Iterator<Item = Attribute<'a>>,
    ) -> Result<(), Malformed> {
        let mut letters = std::mem::take(&mut self.letters);
        let appended = attribute::append(self.map(place), &mut letters, attributes);
        self.maybe_text(types, super::non_empty(&letters));
        self.letters = letters;
        appended
    }

    /// Puts an attribute into the column it has of its own, if it has one and the type fits.
    #[inline]
    pub(super) fn try_hot(&mut self, attribute: &Attribute<'_>) -> bool {
        let place = self.hot.get(attribute.key).copied();
        place.is_some_and(|place| self.put(place, attribute.value))
    }

    /// `false` when the type does not fit or the row already has a value.
    #[inline]
    pub(super) fn put(&mut self, place: usize, value: Value<'_>) -> bool {
        let rows = self.rows;
        if self.builders[place].len() > rows {
            return false;
        }
        match (self.column(place), value) {
            (Builder::Text(builder), Value::Text(text)) => builder.append_value(text),
            (Builder::Long(builder), Value::Int(value)) => builder.append_value(value),
            (Builder::Int(builder), Value::Int(value)) => match i32::try_from(value) {
                Ok(value) => builder.append_value(value),
                Err(_) => return false,
            },
            _ => return false,
        }
        true
    }

    /// The events of a span, each a message.
    pub(super) fn events(&mut self, place: usize, events: &[&[u8]]) -> Result<(), Malformed> {
        if events.is_empty() {
            return Ok(());
        }
        let Builder::Structs(list) = self.column(place) else { unreachable!("column {place} is a list of structs") };
        let mut event = Event::default();
        let mut letters = String::new();
        for (position, message) in events.iter().enumerate() {
            event.read(message).map_err(|e| e.item("events", position))?;
            let row = list.values();
            field::<Int64Builder>(row, 0).append_value(super::nanos(event.time));
            field::<StringBuilder>(row, 1).append_value(event.name);
            let attributes = event.attributes.iter().copied();
            attribute::append(field::<AttributesBuilder>(row, 2), &mut letters, attributes)?;
            field::<StringBuilder>(row, 3).append_option(super::non_empty(&letters));
            row.append(true);
        }
        list.append(true);
        Ok(())
    }

    /// The links of a span, each a message.
    pub(super) fn links(&mut self, place: usize, links: &[&[u8]]) -> Result<(), Malformed> {
        if links.is_empty() {
            return Ok(());
        }
        let Builder::Structs(list) = self.column(place) else { unreachable!("column {place} is a list of structs") };
        let mut link = Link::default();
        let mut letters = String::new();
        for (position, message) in links.iter().enumerate() {
            link.read(message).map_err(|e| e.item("links", position))?;
            let row = list.values();
            field::<BinaryBuilder>(row, 0).append_value(link.trace_id);
            field::<BinaryBuilder>(row, 1).append_value(link.span_id);
            field::<StringBuilder>(row, 2).append_option(super::non_empty(link.trace_state));
            let attributes = link.attributes.iter().copied();
            attribute::append(field::<AttributesBuilder>(row, 3), &mut letters, attributes)?;
            field::<StringBuilder>(row, 4).append_option(super::non_empty(&letters));
            row.append(true);
        }
        list.append(true);
        Ok(())
    }

    /// The builder of a column, with nulls for the rows that did not set it.
    #[inline]
    fn column(&mut self, place: usize) -> &mut Builder {
        let builder = &mut self.builders[place];
        builder.fill(self.rows);
        builder
    }
}

#[derive(Default)]
struct Event<'a> {
    time: u64,
    name: &'a str,
    attributes: Vec<Attribute<'a>>,
}

impl<'a> Event<'a> {
    fn read(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        (self.time, self.name) = (0, "");
        self.attributes.clear();
        let mut fields = Fields::of(message);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => self.time = field.fixed64("time_unix_nano")?,
                2 => self.name = field.text("name")?,
                3 => Attribute::push(field, "attributes", &mut self.attributes)?,
                _ => {}
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Link<'a> {
    trace_id: &'a [u8],
    span_id: &'a [u8],
    trace_state: &'a str,
    attributes: Vec<Attribute<'a>>,
}

impl<'a> Link<'a> {
    fn read(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        (self.trace_id, self.span_id, self.trace_state) = (&[], &[], "");
        self.attributes.clear();
        let mut fields = Fields::of(message);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => self.trace_id = field.bytes("trace_id")?,
                2 => self.span_id = field.bytes("span_id")?,
                3 => self.trace_state = field.text("trace_state")?,
                4 => Attribute::push(field, "attributes", &mut self.attributes)?,
                _ => {}
            }
        }
        Ok(())
    }
}

fn hot(table: Table) -> &'static Hot {
    static TABLES: LazyLock<Vec<Hot>> = LazyLock::new(|| {
        let of = |table| {
            let columns = columns::columns(table).into_iter().enumerate();
            columns.filter_map(|(place, column)| Some((column.attribute?, place))).collect()
        };
        Table::ALL.into_iter().map(of).collect()
    });
    &TABLES[table as usize]
}

fn field<B: ArrayBuilder>(row: &mut StructBuilder, place: usize) -> &mut B {
    row.field_builder(place).expect("the builder follows the fields of the struct")
}

impl Builder {
    fn new(data_type: &DataType) -> Self {
        match data_type {
            DataType::Binary => Self::Binary(BinaryBuilder::new()),
            DataType::Utf8 => Self::Text(StringBuilder::new()),
            DataType::Int64 => Self::Long(Int64Builder::new()),
            DataType::Int32 => Self::Int(Int32Builder::new()),
            DataType::Float64 => Self::Double(Float64Builder::new()),
            DataType::Boolean => Self::Bool(BooleanBuilder::new()),
            DataType::Map(..) => Self::Map(Box::new(attribute::builder())),
            DataType::List(item) => Self::list(item),
            other => unreachable!("no table has a column of type {other}"),
        }
    }

    fn list(item: &Arc<Field>) -> Self {
        let DataType::Struct(fields) = item.data_type() else {
            return Self::Doubles(ListBuilder::new(Float64Builder::new()).with_field(item.clone()));
        };
        let builder = |field: &Arc<Field>| -> Box<dyn ArrayBuilder> {
            match field.data_type() {
                DataType::Binary => Box::new(BinaryBuilder::new()),
                DataType::Int64 => Box::new(Int64Builder::new()),
                DataType::Map(..) => Box::new(attribute::builder()),
                _ => Box::new(StringBuilder::new()),
            }
        };
        let row = StructBuilder::new(fields.clone(), fields.iter().map(builder).collect());
        Self::Structs(Box::new(ListBuilder::new(row).with_field(item.clone())))
    }

    #[inline]
    fn len(&self) -> usize {
        match self {
            Self::Binary(b) => b.len(),
            Self::Text(b) => b.len(),
            Self::Long(b) => b.len(),
            Self::Int(b) => b.len(),
            Self::Double(b) => b.len(),
            Self::Bool(b) => b.len(),
            Self::Map(b) => b.len(),
            Self::Doubles(b) => b.len(),
            Self::Structs(b) => b.len(),
        }
    }

    /// Nulls up to `rows`.
    #[inline]
    fn fill(&mut self, rows: usize) {
        let missing = rows.saturating_sub(self.len());
        if missing > 0 {
            self.append_nulls(missing);
        }
    }

    fn append_nulls(&mut self, count: usize) {
        match self {
            Self::Binary(b) => b.append_nulls(count),
            Self::Text(b) => b.append_nulls(count),
            Self::Long(b) => b.append_nulls(count),
            Self::Int(b) => b.append_nulls(count),
            Self::Double(b) => b.append_nulls(count),
            Self::Bool(b) => b.append_nulls(count),
            Self::Map(b) => b.append_nulls(count).expect("no entry is open between rows"),
            Self::Doubles(b) => b.append_nulls(count),
            Self::Structs(b) => b.append_nulls(count),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Binary(b) => Arc::new(b.finish()),
            Self::Text(b) => Arc::new(b.finish()),
            Self::Long(b) => Arc::new(b.finish()),
            Self::Int(b) => Arc::new(b.finish()),
            Self::Double(b) => Arc::new(b.finish()),
            Self::Bool(b) => Arc::new(b.finish()),
            Self::Map(b) => Arc::new(b.finish()),
            Self::Doubles(b) => Arc::new(b.finish()),
            Self::Structs(b) => Arc::new(b.finish()),
        }
    }
}
