//! [`Rows`]: builders for all columns of one table, filled by name, a row at a time. A column that
//! a row does not set is null there.

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
use opentelemetry_proto::tonic::{
    common::v1::{KeyValue, any_value::Value as Any},
    trace::v1::span::{Event, Link},
};

use super::Decoded;
use crate::{
    Batch, Table,
    attribute::{self, AttributesBuilder},
    columns,
};

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

type Map = HashMap<&'static str, usize, foldhash::fast::RandomState>;

/// Where the columns of a table stand; made once, looked up for every value.
struct Places {
    columns: Map,
    /// Attribute name → the column it has of its own.
    hot: Map,
}

/// The rows of one table, as they are built.
pub(super) struct Rows {
    table: Table,
    builders: Vec<Builder>,
    places: &'static Places,
    rows: usize,
    rejected: u64,
    first_rejection: Option<String>,
}

impl Places {
    fn of(table: Table) -> &'static Self {
        static TABLES: LazyLock<Vec<Places>> = LazyLock::new(|| Table::ALL.into_iter().map(Places::new).collect());
        let place = Table::ALL.iter().position(|other| *other == table).expect("ALL holds every table");
        &TABLES[place]
    }

    fn new(table: Table) -> Self {
        let columns = columns::columns(table);
        let named = columns.iter().enumerate();
        Self {
            columns: named.clone().map(|(place, column)| (column.name, place)).collect(),
            hot: named.filter_map(|(place, column)| Some((column.attribute?, place))).collect(),
        }
    }
}

impl Rows {
    pub(super) fn new(table: Table) -> Self {
        let columns = columns::columns(table);
        let builders = columns.iter().map(|column| Builder::new(&column.data_type)).collect();
        Self { table, builders, places: Places::of(table), rows: 0, rejected: 0, first_rejection: None }
    }

    /// Leaves a row out, before anything of it is set.
    pub(super) fn reject(&mut self, why: impl FnOnce() -> String) {
        self.rejected += 1;
        self.first_rejection.get_or_insert_with(why);
    }

    /// Ends a row.
    pub(super) fn end_row(&mut self) {
        self.rows += 1;
        for builder in &mut self.builders {
            if builder.len() < self.rows {
                builder.append_null();
            }
        }
    }

    pub(super) fn finish(mut self) -> Decoded {
        let Self { rejected, first_rejection, rows, table, .. } = self;
        let mut decoded = Decoded { batch: None, accepted: rows as u64, rejected, first_rejection };
        if rows > 0 {
            let columns = self.builders.iter_mut().map(Builder::finish).collect();
            let rows = RecordBatch::try_new(table.schema(), columns).expect("the builders follow the table's columns");
            decoded.batch = Some(Batch { table, rows });
        }
        decoded
    }

    pub(super) fn text(&mut self, column: &str, value: Option<&str>) {
        match self.column(column) {
            Builder::Text(builder) => builder.append_option(value),
            _ => unreachable!("{column} is text"),
        }
    }

    pub(super) fn id(&mut self, column: &str, id: &[u8]) {
        let empty = id.iter().all(|byte| *byte == 0);
        match self.column(column) {
            Builder::Binary(builder) => builder.append_option((!empty).then_some(id)),
            _ => unreachable!("{column} is binary"),
        }
    }

    pub(super) fn long(&mut self, column: &str, value: Option<i64>) {
        match self.column(column) {
            Builder::Long(builder) => builder.append_option(value),
            _ => unreachable!("{column} is a 64-bit integer"),
        }
    }

    pub(super) fn int(&mut self, column: &str, value: Option<i32>) {
        match self.column(column) {
            Builder::Int(builder) => builder.append_option(value),
            _ => unreachable!("{column} is a 32-bit integer"),
        }
    }

    pub(super) fn double(&mut self, column: &str, value: Option<f64>) {
        match self.column(column) {
            Builder::Double(builder) => builder.append_option(value),
            _ => unreachable!("{column} is a double"),
        }
    }

    pub(super) fn bool(&mut self, column: &str, value: Option<bool>) {
        match self.column(column) {
            Builder::Bool(builder) => builder.append_option(value),
            _ => unreachable!("{column} is a bool"),
        }
    }

    pub(super) fn doubles(&mut self, column: &str, values: impl Iterator<Item = f64>) {
        match self.column(column) {
            Builder::Doubles(builder) => builder.append_value(values.map(Some)),
            _ => unreachable!("{column} is a list of doubles"),
        }
    }

    /// A map and its letters.
    pub(super) fn attributes<'a>(&mut self, column: &str, types: &str, attributes: impl Iterator<Item = &'a KeyValue>) {
        let letters = match self.column(column) {
            Builder::Map(builder) => attribute::append(builder, attributes),
            _ => unreachable!("{column} is a map"),
        };
        self.text(types, letters.as_deref());
    }

    /// Attributes that have a column of their own go there when the type fits; the rest to the map.
    pub(super) fn hot_attributes(&mut self, column: &str, types: &str, attributes: &[KeyValue]) {
        let hot: Vec<bool> = attributes.iter().map(|attribute| self.try_hot(attribute)).collect();
        let rest = attributes.iter().zip(hot).filter_map(|(attribute, hot)| (!hot).then_some(attribute));
        self.attributes(column, types, rest);
    }

    /// Fills a hot column from an older name of the attribute, which stays in the map as well.
    pub(super) fn fill(&mut self, column: &str, value: Option<&Any>) {
        let Some(place) = self.places.columns.get(column).copied() else { return };
        if let Some(value) = value {
            self.put(place, value);
        }
    }

    fn try_hot(&mut self, attribute: &KeyValue) -> bool {
        let Some(place) = self.places.hot.get(attribute.key.as_str()).copied() else { return false };
        attribute.value.as_ref().and_then(|v| v.value.as_ref()).is_some_and(|value| self.put(place, value))
    }

    /// `false` when the type does not fit or the row already has a value.
    fn put(&mut self, place: usize, value: &Any) -> bool {
        let builder = &mut self.builders[place];
        if builder.len() > self.rows {
            return false;
        }
        match (builder, value) {
            (Builder::Text(builder), Any::StringValue(text)) => builder.append_value(text),
            (Builder::Long(builder), Any::IntValue(value)) => builder.append_value(*value),
            (Builder::Int(builder), Any::IntValue(value)) => match i32::try_from(*value) {
                Ok(value) => builder.append_value(value),
                Err(_) => return false,
            },
            _ => return false,
        }
        true
    }

    pub(super) fn events(&mut self, column: &str, events: &[Event]) {
        let Builder::Structs(list) = self.column(column) else { unreachable!("{column} is a list of structs") };
        for event in events {
            let row = list.values();
            field::<Int64Builder>(row, 0).append_value(super::nanos(event.time_unix_nano));
            field::<StringBuilder>(row, 1).append_value(&event.name);
            let letters = attribute::append(field::<AttributesBuilder>(row, 2), event.attributes.iter());
            field::<StringBuilder>(row, 3).append_option(letters);
            row.append(true);
        }
        list.append(!events.is_empty());
    }

    pub(super) fn links(&mut self, column: &str, links: &[Link]) {
        let Builder::Structs(list) = self.column(column) else { unreachable!("{column} is a list of structs") };
        for link in links {
            let row = list.values();
            field::<BinaryBuilder>(row, 0).append_value(&link.trace_id);
            field::<BinaryBuilder>(row, 1).append_value(&link.span_id);
            field::<StringBuilder>(row, 2).append_option(super::non_empty(&link.trace_state));
            let letters = attribute::append(field::<AttributesBuilder>(row, 3), link.attributes.iter());
            field::<StringBuilder>(row, 4).append_option(letters);
            row.append(true);
        }
        list.append(!links.is_empty());
    }

    fn column(&mut self, name: &str) -> &mut Builder {
        let place = self.places.columns[name];
        &mut self.builders[place]
    }
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

    fn append_null(&mut self) {
        match self {
            Self::Binary(b) => b.append_null(),
            Self::Text(b) => b.append_null(),
            Self::Long(b) => b.append_null(),
            Self::Int(b) => b.append_null(),
            Self::Double(b) => b.append_null(),
            Self::Bool(b) => b.append_null(),
            Self::Map(b) => b.append(false).expect("an empty entry is in pairs"),
            Self::Doubles(b) => b.append_null(),
            Self::Structs(b) => b.append(false),
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
