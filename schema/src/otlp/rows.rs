//! [`Rows`]: the columns of one table as they grow, a row at a time. A column that a row does not set
//! is null there; runs of nulls are added at once when the column is next set, so columns that nobody
//! uses cost nothing. What all rows of a resource share is added once for all of them.

mod column;
mod hot;
mod lists;

use arrow::record_batch::RecordBatch;

use self::column::Column;
pub(super) use self::hot::hot_place;
use super::{
    Decoded,
    value::{Attribute, Value},
    wire::Malformed,
};
use crate::{
    Batch, Table,
    attribute::{self, Letters},
    cells::Maps,
    columns,
};

/// Bytes of resource attributes that the rows of one request may repeat. A request of 4 MiB could
/// otherwise ask for 40 GiB: one large resource, many small spans.
const MAX_REPEATED_BYTES: usize = 128 << 20;

/// What a row without content takes: two bytes on the wire make one.
const ROW_BYTES: usize = 128;

/// Bytes of rows without content that any request may have.
const EMPTY_ROWS_BYTES: usize = 16 << 20;

/// Bytes of rows without content, for each byte of the request. Rows of real telemetry have 20 bytes
/// at the least.
const AMPLIFICATION: usize = 10;

/// The rows of one table, as they are built.
pub(super) struct Rows {
    table: Table,
    columns: Vec<Column>,
    rows: usize,
    max_rows: usize,
    repeated_bytes: usize,
    rejected: u64,
    first_rejection: Option<String>,
    first_warning: Option<String>,
    /// Room for the letters of one map.
    letters: Letters,
}

/// Where a column stands in its table; asked once, when the places of a table are made.
pub(super) fn place(table: Table, column: &str) -> usize {
    let columns = columns::columns(table);
    columns.iter().position(|c| c.name == column).expect("places are made of columns that exist")
}

/// A struct with the place of each named column, those of resource and scope among them.
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

            /// Of what all rows of a resource share.
            fn source(self) -> super::source::SourcePlaces {
                super::source::SourcePlaces {
                    service: self.service,
                    instance: self.instance,
                    resource_attributes: self.resource_attributes,
                    resource_attribute_types: self.resource_attribute_types,
                }
            }

            /// Of what all rows of a scope share.
            fn scope(self) -> super::scope::ScopePlaces {
                super::scope::ScopePlaces {
                    name: self.scope_name,
                    version: self.scope_version,
                    attributes: self.scope_attributes,
                    attribute_types: self.scope_attribute_types,
                    schema_url: self.schema_url,
                }
            }
        }
    };
}
pub(super) use places;

impl Rows {
    /// Rows of a request of `request_bytes`.
    pub(super) fn new(table: Table, request_bytes: usize) -> Self {
        let columns =
            columns::columns(table).iter().map(|column| Column::new(column.name, &column.data_type)).collect();
        let max_bytes = EMPTY_ROWS_BYTES.max(AMPLIFICATION * request_bytes);
        Self {
            table,
            columns,
            rows: 0,
            max_rows: max_bytes / ROW_BYTES,
            repeated_bytes: 0,
            rejected: 0,
            first_rejection: None,
            first_warning: None,
            letters: Letters::default(),
        }
    }

    /// Rows so far.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.rows
    }

    /// Room for `rows` more, in the columns that all rows have.
    pub(super) fn reserve(&mut self, rows: usize, places: &[usize]) {
        let rows = rows.min(self.max_rows.saturating_sub(self.rows));
        places.iter().for_each(|place| self.columns[*place].reserve(rows));
    }

    /// Leaves a row out, before anything of it is set.
    pub(super) fn reject(&mut self, why: impl FnOnce() -> String) {
        self.rejected += 1;
        self.first_rejection.get_or_insert_with(why);
    }

    /// Says what a row is stored without.
    pub(super) fn warn(&mut self, what: impl FnOnce() -> String) {
        self.first_warning.get_or_insert_with(what);
    }

    /// Ends a row.
    #[inline]
    pub(super) fn end_row(&mut self) -> Result<(), Malformed> {
        self.rows += 1;
        if self.rows > self.max_rows {
            return Err(Malformed::new(format!("more than {} rows in a request of its size", self.max_rows)));
        }
        Ok(())
    }

    /// # Errors
    /// Text that is not UTF-8, somewhere.
    pub(super) fn finish(self) -> Result<Decoded, Malformed> {
        let Self { rejected, first_rejection, first_warning, rows, table, columns, .. } = self;
        let mut decoded = Decoded { batch: None, accepted: rows as u64, rejected, first_rejection, first_warning };
        if rows > 0 {
            let finished = columns.into_iter().map(|mut column| {
                column.fill(rows);
                column.finish()
            });
            let finished = finished.collect::<Result<_, _>>().map_err(|_| Malformed::new("is not UTF-8"))?;
            let rows = RecordBatch::try_new(table.schema(), finished).expect("the columns are the table's");
            decoded.batch = Some(Batch { table, rows });
        }
        Ok(decoded)
    }

    /// Counts what the rows from `first` on repeat of their resource.
    pub(super) fn repeat(&mut self, first: usize, bytes: usize) -> Result<(), Malformed> {
        self.repeated_bytes = self.repeated_bytes.saturating_add(bytes.saturating_mul(self.rows - first));
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
    pub(super) fn text(&mut self, place: usize, value: &[u8]) {
        match self.column(place) {
            Column::Text(cells) => cells.append(value),
            _ => unreachable!("column {place} is text"),
        }
    }

    #[inline]
    pub(super) fn maybe_text(&mut self, place: usize, value: &[u8]) {
        if !value.is_empty() {
            self.text(place, value);
        }
    }

    /// The same text in all rows from `first` on.
    pub(super) fn text_from(&mut self, place: usize, first: usize, value: Option<&[u8]>) {
        let Some(value) = value else { return };
        match self.column_from(place, first) {
            (Column::Text(cells), rows) => cells.append_n(value, rows),
            _ => unreachable!("column {place} is text"),
        }
    }

    /// The same map in all rows from `first` on.
    pub(super) fn map_from(&mut self, place: usize, first: usize, map: &Maps) {
        match self.column_from(place, first) {
            (Column::Map(maps), rows) => maps.append_n(map, rows),
            _ => unreachable!("column {place} is a map"),
        }
    }

    /// The same number in all rows from `first` on.
    pub(super) fn long_from(&mut self, place: usize, first: usize, value: i64) {
        match self.column_from(place, first) {
            (Column::Long(builder), rows) => builder.append_value_n(value, rows),
            _ => unreachable!("column {place} is a 64-bit integer"),
        }
    }

    /// An id; all zero means none.
    #[inline]
    pub(super) fn id(&mut self, place: usize, id: &[u8]) {
        if is_unset(id) {
            return;
        }
        match self.column(place) {
            Column::Binary(cells) => cells.append(id),
            _ => unreachable!("column {place} is binary"),
        }
    }

    #[inline]
    pub(super) fn long(&mut self, place: usize, value: i64) {
        match self.column(place) {
            Column::Long(builder) => builder.append_value(value),
            _ => unreachable!("column {place} is a 64-bit integer"),
        }
    }

    /// A count or flags, of which zero says nothing.
    #[inline]
    pub(super) fn maybe_count(&mut self, place: usize, value: u32) {
        if value > 0 {
            self.long(place, i64::from(value));
        }
    }

    #[inline]
    pub(super) fn int(&mut self, place: usize, value: i32) {
        match self.column(place) {
            Column::Int(builder) => builder.append_value(value),
            _ => unreachable!("column {place} is a 32-bit integer"),
        }
    }

    #[inline]
    pub(super) fn double(&mut self, place: usize, value: f64) {
        match self.column(place) {
            Column::Double(builder) => builder.append_value(value),
            _ => unreachable!("column {place} is a double"),
        }
    }

    /// The same answer in all rows from `first` on.
    pub(super) fn bool_from(&mut self, place: usize, first: usize, value: bool) {
        match self.column_from(place, first) {
            (Column::Bool(builder), rows) => builder.append_n(rows, value),
            _ => unreachable!("column {place} is a bool"),
        }
    }

    pub(super) fn doubles(&mut self, place: usize, values: &[f64]) {
        match self.column(place) {
            Column::Doubles(builder) => {
                builder.values().append_slice(values);
                builder.append(true);
            }
            _ => unreachable!("column {place} is a list of doubles"),
        }
    }

    /// A map and, in the column `types`, its letters.
    pub(super) fn attributes<'a>(
        &mut self,
        place: usize,
        types: usize,
        attributes: impl Iterator<Item = Attribute<'a>>,
    ) -> Result<(), Malformed> {
        let rows = self.rows;
        let Column::Map(maps) = filled(&mut self.columns[place], rows) else { unreachable!("column {place} is a map") };
        attribute::append(maps, &mut self.letters, attributes)?;
        self.letters(types);
        Ok(())
    }

    /// Adds an entry to the map of this row, which `end_attributes` ends.
    #[inline]
    pub(super) fn add_attribute(&mut self, place: usize, attribute: Attribute<'_>) -> Result<(), Malformed> {
        let rows = self.rows;
        let Column::Map(maps) = filled(&mut self.columns[place], rows) else { unreachable!("column {place} is a map") };
        attribute::append_entry(maps, &mut self.letters, attribute)
    }

    /// A value of any type as text; says its letter.
    pub(super) fn value(&mut self, place: usize, value: Value<'_>) -> Result<u8, Malformed> {
        let Column::Text(cells) = self.column(place) else { unreachable!("column {place} is text") };
        let letter = attribute::write_text(value, cells.open_cell())?;
        cells.end_cell();
        Ok(letter)
    }

    /// Ends the map of this row and sets its letters.
    #[inline]
    pub(super) fn end_attributes(&mut self, place: usize, types: usize) {
        match self.column(place) {
            Column::Map(maps) => maps.end_map(),
            _ => unreachable!("column {place} is a map"),
        }
        self.letters(types);
        self.letters.clear();
    }

    #[inline]
    fn letters(&mut self, place: usize) {
        let rows = self.rows;
        let Some(letters) = self.letters.needed() else { return };
        match filled(&mut self.columns[place], rows) {
            Column::Text(cells) => cells.append(letters),
            _ => unreachable!("column {place} is text"),
        }
    }

    /// `false` when the type does not fit or the row already has a value.
    #[inline]
    pub(super) fn put(&mut self, place: usize, value: Value<'_>) -> bool {
        let rows = self.rows;
        if self.columns[place].len() > rows {
            return false;
        }
        match (self.column(place), value) {
            (Column::Text(cells), Value::Text(text)) => cells.append(text),
            (Column::Long(builder), Value::Int(value)) => builder.append_value(value),
            (Column::Int(builder), Value::Int(value)) => match i32::try_from(value) {
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
        let Column::Events(list) = self.column(place) else { unreachable!("column {place} is events") };
        list.append(events)
    }

    /// The links of a span, each a message.
    pub(super) fn links(&mut self, place: usize, links: &[&[u8]]) -> Result<(), Malformed> {
        if links.is_empty() {
            return Ok(());
        }
        let Column::Links(list) = self.column(place) else { unreachable!("column {place} is links") };
        list.append(links)
    }

    /// A column, with nulls for the rows that did not set it.
    #[inline]
    fn column(&mut self, place: usize) -> &mut Column {
        filled(&mut self.columns[place], self.rows)
    }

    /// A column with nulls for the rows before `first`, and how many rows lack it.
    fn column_from(&mut self, place: usize, first: usize) -> (&mut Column, usize) {
        (filled(&mut self.columns[place], first), self.rows - first)
    }
}

#[inline]
fn filled(column: &mut Column, rows: usize) -> &mut Column {
    column.fill(rows);
    column
}

/// Whether an id says nothing: empty or all zero.
#[inline]
pub(super) fn is_unset(id: &[u8]) -> bool {
    match id.len() {
        8 => id == [0; 8],
        16 => id == [0; 16],
        _ => id.iter().all(|byte| *byte == 0),
    }
}
