//! Rows for people and programs: JSON objects, CSV, aligned text, Parquet. Ids become lower-case
//! hex, attribute maps objects of typed values.
//!
//! An answer may have columns that are there for this alone, the letters of the types of a map
//! ([`is_shown`] says which are not): they are read here and shown nowhere.

mod cells;

use std::sync::Arc;

use arrow::{
    array::StringArray,
    datatypes::{DataType, Field, FieldRef, Schema, SchemaRef},
    error::ArrowError,
    record_batch::RecordBatch,
};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};
use serde_json::{Map, Value};
use weir_schema::{Table, columns};

use crate::error::StoreError;
use cells::Column;

/// What the name of a hidden column of letters has after that of its map.
const LETTERS: &str = "$types";

/// The hidden column of the letters of a map.
pub(crate) fn hidden_types_of(map: &str) -> String {
    format!("{map}{LETTERS}")
}

/// Whether a column is for people, and not the letters of another one.
#[must_use]
pub fn is_shown(name: &str) -> bool {
    !name.ends_with(LETTERS)
}

/// The columns that people are shown.
#[must_use]
pub fn shown_schema(schema: &SchemaRef) -> SchemaRef {
    let shown = schema.fields().iter().filter(|field| is_shown(field.name())).cloned();
    Arc::new(Schema::new_with_metadata(shown.collect::<Vec<_>>(), schema.metadata().clone()))
}

/// The rows without what people are not shown.
///
/// # Errors
/// None: the places are those of the rows' own columns.
pub fn shown(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    batch.project(&shown_places(batch.schema_ref()))
}

pub(crate) fn shown_places(schema: &Schema) -> Vec<usize> {
    let fields = schema.fields().iter().enumerate();
    fields.filter(|(_, field)| is_shown(field.name())).map(|(place, _)| place).collect()
}

/// Each row as a JSON object.
#[must_use]
pub fn to_json_rows(batch: &RecordBatch) -> Vec<Value> {
    let columns: Vec<Column<'_>> =
        shown_places(batch.schema_ref()).into_iter().map(|at| Column::of(batch, at)).collect();
    let cells = |row: usize| columns.iter().map(move |column| (column.name.to_owned(), column.json(row)));
    (0..batch.num_rows()).map(|row| Value::Object(cells(row).collect())).collect()
}

/// One column as JSON values.
pub(crate) fn column_to_json(batch: &RecordBatch, place: usize) -> Vec<Value> {
    let column = Column::of(batch, place);
    (0..batch.num_rows()).map(|row| column.json(row)).collect()
}

/// Each span as a JSON object of what it has, whose `attributes` are whole: those that have a column of
/// their own are there too, under their OpenTelemetry name.
#[must_use]
pub fn spans_to_json(batch: &RecordBatch) -> Vec<Value> {
    let columns = columns::columns(Table::Spans);
    let hot: Vec<(&str, &str)> = columns.iter().filter_map(|c| Some((c.attribute?, c.name))).collect();
    let shown: Vec<Column<'_>> = shown_places(batch.schema_ref()).into_iter().map(|at| Column::of(batch, at)).collect();
    let span = |row: usize| {
        let cells = shown.iter().map(|column| (column.name.to_owned(), column.json(row)));
        let mut span: Map<String, Value> = cells.filter(|(_, value)| !value.is_null()).collect();
        let of_columns: Vec<(&str, Value)> =
            hot.iter().filter_map(|(attribute, column)| Some((*attribute, span.get(*column)?.clone()))).collect();
        if let Some(attributes) = span.get_mut("attributes").and_then(Value::as_object_mut) {
            for (attribute, value) in of_columns {
                attributes.entry(attribute).or_insert(value);
            }
        }
        Value::Object(span)
    };
    (0..batch.num_rows()).map(span).collect()
}

/// The rows as a table with a header.
#[must_use]
pub fn table(batches: &[RecordBatch]) -> String {
    let Some(first) = batches.first() else { return String::new() };
    let places = shown_places(first.schema_ref());
    let header = places.iter().map(|place| first.schema_ref().field(*place).name().clone());
    let rows = batches.iter().flat_map(|batch| {
        let columns: Vec<Column<'_>> = places.iter().map(|place| Column::of(batch, *place)).collect();
        let row = move |row| -> Vec<String> {
            columns.iter().map(|column| column.text(row, short).unwrap_or_default()).collect()
        };
        (0..batch.num_rows()).map(row)
    });
    text_table(header, rows)
}

/// Lines of text under a header, each column as wide as it needs.
pub fn text_table<H, R>(header: impl IntoIterator<Item = H>, rows: impl IntoIterator<Item = R>) -> String
where
    H: Into<String>,
    R: IntoIterator<Item = String>,
{
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(header.into_iter().map(Into::into));
    for row in rows {
        table.add_row(row);
    }
    table.to_string()
}

/// The header line of a CSV.
#[must_use]
pub fn csv_header(schema: &SchemaRef) -> String {
    let names: Vec<String> = shown_schema(schema).fields().iter().map(|field| csv_cell(field.name())).collect();
    names.join(",") + "\n"
}

/// The rows of a CSV: null is nothing at all, an empty text a pair of quotes.
#[must_use]
pub fn csv_rows(batch: &RecordBatch) -> String {
    let columns: Vec<Column<'_>> =
        shown_places(batch.schema_ref()).into_iter().map(|at| Column::of(batch, at)).collect();
    let mut text = String::new();
    for row in 0..batch.num_rows() {
        for (place, column) in columns.iter().enumerate() {
            if place > 0 {
                text.push(',');
            }
            if let Some(cell) = column.text(row, exact) {
                text.push_str(&csv_cell(&cell));
            }
        }
        text.push('\n');
    }
    text
}

/// An answer as a Parquet file in memory: what people are shown. Intervals, which its writer does not take, become the text that a
/// CSV has.
pub struct ParquetAnswer {
    /// The file's writer.
    pub writer: ArrowWriter<Vec<u8>>,
    schema: SchemaRef,
}

impl ParquetAnswer {
    /// A file for answers of this schema.
    ///
    /// # Errors
    /// Columns that Parquet cannot hold.
    pub fn new(schema: &SchemaRef) -> Result<Self, StoreError> {
        let held = |field: &FieldRef| match field.data_type() {
            DataType::Interval(_) => Arc::new(Field::new(field.name(), DataType::Utf8, true)),
            _ => field.clone(),
        };
        let held: Vec<FieldRef> = shown_schema(schema).fields().iter().map(held).collect();
        let schema = Arc::new(Schema::new(held));
        let level = ZstdLevel::try_new(3).unwrap_or_default();
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
        Ok(Self { writer: ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties))?, schema })
    }

    /// Adds rows.
    ///
    /// # Errors
    /// They are not of the schema.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), StoreError> {
        let held = |place: usize| match batch.column(place).data_type() {
            DataType::Interval(_) => {
                let column = Column::of(batch, place);
                Arc::new(StringArray::from_iter((0..batch.num_rows()).map(|row| column.text(row, exact))))
            }
            _ => batch.column(place).clone(),
        };
        let held = shown_places(batch.schema_ref()).into_iter().map(held).collect();
        Ok(self.writer.write(&RecordBatch::try_new(self.schema.clone(), held)?)?)
    }
}

/// A double as people read it: whole numbers without a fraction's noise, and small ones not as zero.
fn short(value: f64) -> String {
    let rounded = (value * 1e6).round() / 1e6;
    if value != 0.0 && value.abs() < 1e-3 { format!("{value:.3e}") } else { format!("{rounded}") }
}

/// A double that reads back the same.
fn exact(value: f64) -> String {
    format!("{value}")
}

/// Quoted where needed, and where it is empty, for null is nothing; a text that a spreadsheet would run as a formula gets a quote in front.
fn csv_cell(text: &str) -> String {
    let formula = text.starts_with(['=', '@', '\t']) || (text.starts_with(['+', '-']) && text.parse::<f64>().is_err());
    let text = if formula { format!("'{text}") } else { text.to_owned() };
    if text.is_empty() || text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{
            Array, ArrayRef, Decimal128Array, Float32Array, Float64Array, Int16Array, Int32Array, MapBuilder,
            StringArray, StringBuilder,
        },
        datatypes::Field,
    };

    use super::*;

    #[test]
    fn an_attribute_with_a_column_is_among_the_attributes() {
        let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        map.keys().append_value("shop.tier");
        map.values().append_value("gold");
        map.append(true).unwrap();
        let columns: [(&str, ArrayRef); 3] = [
            ("http_response_status_code", Arc::new(Int32Array::from(vec![200]))),
            ("http_route", Arc::new(StringArray::new_null(1))),
            ("attributes", Arc::new(map.finish())),
        ];
        let spans = spans_to_json(&RecordBatch::try_from_iter(columns).unwrap());
        assert_eq!(spans[0]["attributes"], serde_json::json!({"shop.tier": "gold", "http.response.status_code": 200}));
    }

    #[test]
    fn every_type_of_number_is_one_in_json_and_csv() {
        let decimal = |value: i128, scale: i8| {
            Arc::new(Decimal128Array::from(vec![value]).with_precision_and_scale(38, scale).unwrap()) as ArrayRef
        };
        let cases: [(ArrayRef, Value, &str); 8] = [
            (Arc::new(Float32Array::from(vec![0.1])), serde_json::json!(0.1), "0.1"),
            (Arc::new(Int16Array::from(vec![-3])), serde_json::json!(-3), "-3"),
            (decimal(1250, 2), serde_json::json!(12.5), "12.50"),
            (decimal(7, 0), serde_json::json!(7), "7"),
            (Arc::new(Float64Array::from(vec![f64::NAN])), Value::Null, "NaN"),
            (Arc::new(Float64Array::from(vec![f64::NEG_INFINITY])), Value::Null, "-inf"),
            (Arc::new(StringArray::from(vec![""])), serde_json::json!(""), "\"\""),
            (Arc::new(StringArray::new_null(1)), Value::Null, ""),
        ];
        for (column, json, csv) in cases {
            let batch = RecordBatch::try_from_iter([("x", column)]).unwrap();
            assert_eq!(to_json_rows(&batch)[0]["x"], json);
            assert_eq!(csv_rows(&batch), format!("{csv}\n"));
        }
    }

    #[test]
    fn maps_of_one_name_have_letters_of_their_own_which_nobody_is_shown() {
        let map = || {
            let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
            map.keys().append_value("n");
            map.values().append_value("1");
            map.append(true).unwrap();
            Arc::new(map.finish()) as ArrayRef
        };
        let letters = |letters: &str| Arc::new(StringArray::from(vec![letters])) as ArrayRef;
        let columns = [
            ("attributes", map()),
            ("a", map()),
            ("attributes", map()),
            ("attributes$types", letters("i")),
            ("a$types", letters("i")),
            ("attributes$types", letters("s")),
        ];
        let fields: Vec<_> = columns.iter().map(|(name, of)| Field::new(*name, of.data_type().clone(), true)).collect();
        let columns = columns.map(|(_, column)| column).to_vec();
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        let text = r#""{""n"":1}","{""n"":1}","{""n"":""1""}""#;
        assert_eq!(csv_header(&batch.schema()) + &csv_rows(&batch), format!("attributes,a,attributes\n{text}\n"));
        assert_eq!(shown(&batch).unwrap().num_columns(), 3);
    }

    #[test]
    fn doubles_are_short_for_people_and_exact_for_programs() {
        let doubles: [(f64, &str, &str); 4] = [
            (0.1 + 0.2, "0.3", "0.30000000000000004"),
            (4.2e-7, "4.200e-7", "0.00000042"),
            (3.0, "3", "3"),
            (0.0, "0", "0"),
        ];
        for (value, for_people, for_programs) in doubles {
            assert_eq!((short(value).as_str(), exact(value).as_str()), (for_people, for_programs));
        }
    }

    #[test]
    fn cells_are_quoted_and_formulas_disarmed() {
        let cases = [
            ("a", "a"),
            ("a,b", "\"a,b\""),
            ("say \"x\"", "\"say \"\"x\"\"\""),
            ("=1+1", "'=1+1"),
            ("-5", "-5"),
            ("-x", "'-x"),
            ("", "\"\""),
        ];
        for (text, cell) in cases {
            assert_eq!(csv_cell(text), cell);
        }
    }
}
