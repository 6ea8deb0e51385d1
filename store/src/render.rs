//! Rows for people and programs: JSON objects, CSV, aligned text, Parquet. Ids become lower-case
//! hex, attribute maps objects of typed values.

use arrow::{
    array::{Array, ArrayRef, AsArray, StringArray},
    datatypes::{DataType, Float64Type, Int32Type, Int64Type, SchemaRef},
    record_batch::RecordBatch,
    util::display::{ArrayFormatter, FormatOptions},
};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};
use serde_json::{Map, Value};
use weir_schema::{Table, attribute::map_to_json, columns};

use crate::error::StoreError;

/// Each row as a JSON object.
#[must_use]
pub fn to_json_rows(batch: &RecordBatch) -> Vec<Value> {
    let schema = batch.schema();
    let row = |row: usize| {
        let cell = |(place, field): (usize, &std::sync::Arc<arrow::datatypes::Field>)| {
            let types = types_of(batch, field.name());
            (field.name().clone(), cell_json(batch.column(place), types, row))
        };
        Value::Object(schema.fields().iter().enumerate().map(cell).collect::<Map<_, _>>())
    };
    (0..batch.num_rows()).map(row).collect()
}

/// One column as JSON values.
pub(crate) fn column_to_json(batch: &RecordBatch, place: usize) -> Vec<Value> {
    let types = types_of(batch, batch.schema_ref().field(place).name());
    (0..batch.num_rows()).map(|row| cell_json(batch.column(place), types, row)).collect()
}

/// Each span as a JSON object whose `attributes` are whole: those that have a column of their own
/// are there too, under their OpenTelemetry name.
#[must_use]
pub fn spans_to_json(batch: &RecordBatch) -> Vec<Value> {
    let columns = columns::columns(Table::Spans);
    let hot: Vec<(&str, &str)> = columns.iter().filter_map(|c| Some((c.attribute?, c.name))).collect();
    let mut spans = to_json_rows(batch);
    for span in &mut spans {
        for &(attribute, column) in &hot {
            let value = span.get(column).cloned().unwrap_or_default();
            let attributes = span.get_mut("attributes").and_then(Value::as_object_mut);
            if let (false, Some(attributes)) = (value.is_null(), attributes) {
                attributes.entry(attribute).or_insert(value);
            }
        }
    }
    spans
}

/// The rows as a table with a header.
#[must_use]
pub fn table(batches: &[RecordBatch]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    let Some(first) = batches.first() else { return String::new() };
    table.set_header(first.schema().fields().iter().map(|field| field.name().clone()));
    for batch in batches {
        for row in 0..batch.num_rows() {
            table.add_row((0..batch.num_columns()).map(|column| cell_text(batch, column, row, short)));
        }
    }
    table.to_string()
}

/// The header line of a CSV.
#[must_use]
pub fn csv_header(schema: &SchemaRef) -> String {
    let names: Vec<String> = schema.fields().iter().map(|field| csv_cell(field.name())).collect();
    names.join(",") + "\n"
}

/// The rows of a CSV.
#[must_use]
pub fn csv_rows(batch: &RecordBatch) -> String {
    let mut text = String::new();
    for row in 0..batch.num_rows() {
        for column in 0..batch.num_columns() {
            if column > 0 {
                text.push(',');
            }
            text.push_str(&csv_cell(&cell_text(batch, column, row, exact)));
        }
        text.push('\n');
    }
    text
}

/// A Parquet file in memory.
///
/// # Errors
/// Columns that Parquet cannot hold.
pub fn parquet_writer(schema: &SchemaRef) -> Result<ArrowWriter<Vec<u8>>, StoreError> {
    let level = ZstdLevel::try_new(3).unwrap_or_default();
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
    Ok(ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties))?)
}

/// The letters that belong to an attribute map: `attributes` has `attribute_types` beside it.
fn types_of<'a>(batch: &'a RecordBatch, name: &str) -> Option<&'a StringArray> {
    let stem = name.strip_suffix("attributes")?;
    batch.column_by_name(&format!("{stem}attribute_types"))?.as_string_opt::<i32>()
}

fn cell_json(column: &ArrayRef, types: Option<&StringArray>, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    match column.data_type() {
        DataType::Null => Value::Null,
        DataType::Boolean => Value::Bool(column.as_boolean().value(row)),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).into(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).into(),
        DataType::UInt64 => column.as_primitive::<arrow::datatypes::UInt64Type>().value(row).into(),
        DataType::UInt32 => column.as_primitive::<arrow::datatypes::UInt32Type>().value(row).into(),
        DataType::Float64 => column.as_primitive::<Float64Type>().value(row).into(),
        DataType::Utf8 => column.as_string::<i32>().value(row).into(),
        DataType::LargeUtf8 => column.as_string::<i64>().value(row).into(),
        DataType::Utf8View => column.as_string_view().value(row).into(),
        DataType::Binary => hex::encode(column.as_binary::<i32>().value(row)).into(),
        DataType::BinaryView => hex::encode(column.as_binary_view().value(row)).into(),
        DataType::Map(..) => Value::Object(map_to_json(column.as_map(), types, row)),
        DataType::List(_) => list_json(&column.as_list::<i32>().value(row)),
        DataType::Struct(_) => struct_json(column, row),
        _ => cell_display(column, row).into(),
    }
}

fn list_json(items: &ArrayRef) -> Value {
    Value::Array((0..items.len()).map(|item| cell_json(items, None, item)).collect())
}

fn struct_json(column: &ArrayRef, row: usize) -> Value {
    let value = column.as_struct();
    let types = value.column_by_name("attribute_types").and_then(|types| types.as_string_opt::<i32>());
    let fields = value.fields().iter().zip(value.columns());
    let fields = fields.filter(|(field, _)| field.name() != "attribute_types");
    Value::Object(fields.map(|(field, column)| (field.name().clone(), cell_json(column, types, row))).collect())
}

fn cell_text(batch: &RecordBatch, column: usize, row: usize, double: fn(f64) -> String) -> String {
    let array = batch.column(column);
    match cell_json(array, types_of(batch, batch.schema_ref().field(column).name()), row) {
        Value::Null => String::new(),
        Value::String(text) => text,
        Value::Number(number) if array.data_type() == &DataType::Float64 => double(number.as_f64().unwrap_or(f64::NAN)),
        other => other.to_string(),
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

fn cell_display(column: &ArrayRef, row: usize) -> String {
    let options = FormatOptions::default();
    ArrayFormatter::try_new(column.as_ref(), &options).map_or_else(|e| e.to_string(), |f| f.value(row).to_string())
}

/// Quoted where needed; a text that a spreadsheet would run as a formula gets a quote in front.
fn csv_cell(text: &str) -> String {
    let formula = text.starts_with(['=', '@', '\t']) || (text.starts_with(['+', '-']) && text.parse::<f64>().is_err());
    let text = if formula { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int32Array, MapBuilder, StringBuilder};

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
        ];
        for (text, cell) in cases {
            assert_eq!(csv_cell(text), cell);
        }
    }
}
