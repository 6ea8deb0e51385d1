//! [`Column`]: the cells of a column as JSON and as text.

use arrow::{
    array::{Array, ArrayRef, AsArray, StringArray},
    datatypes::{
        DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
        UInt32Type, UInt64Type,
    },
    record_batch::RecordBatch,
    util::display::{ArrayFormatter, FormatOptions},
};
use serde_json::Value;
use weir_schema::attribute::map_to_json;

use super::hidden_types_of;

/// A column, and the letters that belong to it when it is a map.
pub(super) struct Column<'a> {
    pub(super) name: &'a str,
    values: &'a ArrayRef,
    letters: Option<&'a StringArray>,
}

impl<'a> Column<'a> {
    pub(super) fn of(batch: &'a RecordBatch, place: usize) -> Self {
        let schema = batch.schema_ref();
        let name = schema.field(place).name().as_str();
        Self { name, values: batch.column(place), letters: letters_of(batch, place, name) }
    }

    pub(super) fn json(&self, row: usize) -> Value {
        cell_json(self.values, self.letters, row)
    }

    /// `None` for null.
    pub(super) fn text(&self, row: usize, double: fn(f64) -> String) -> Option<String> {
        match self.values.data_type() {
            _ if self.values.is_null(row) => None,
            // JSON has no infinite numbers, and text keeps every digit of a decimal
            DataType::Float64 => Some(double(self.values.as_primitive::<Float64Type>().value(row))),
            DataType::Float32 => Some(self.values.as_primitive::<Float32Type>().value(row).to_string()),
            DataType::Decimal128(..) | DataType::Decimal256(..) => Some(cell_display(self.values, row)),
            _ => match self.json(row) {
                Value::Null => None,
                Value::String(text) => Some(text),
                other => Some(other.to_string()),
            },
        }
    }
}

/// `attributes` has its letters in a hidden column or in `attribute_types`; the second column of a name
/// has the second of those.
fn letters_of<'a>(batch: &'a RecordBatch, place: usize, name: &str) -> Option<&'a StringArray> {
    if !matches!(batch.column(place).data_type(), DataType::Map(..)) {
        return None;
    }
    let named = |name: &str| {
        let fields = batch.schema_ref().fields().iter().enumerate();
        fields.filter(|(_, field)| field.name() == name).map(|(place, _)| place).collect::<Vec<_>>()
    };
    let nth = named(name).iter().position(|at| *at == place)?;
    let beside = |letters: &str| named(letters).get(nth).copied();
    let under_its_name = || beside(&format!("{}attribute_types", name.strip_suffix("attributes")?));
    let letters = beside(&hidden_types_of(name)).or_else(under_its_name)?;
    batch.column(letters).as_string_opt::<i32>()
}

fn cell_json(column: &ArrayRef, letters: Option<&StringArray>, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    match column.data_type() {
        DataType::Null => Value::Null,
        DataType::Boolean => Value::Bool(column.as_boolean().value(row)),
        DataType::Int8 => column.as_primitive::<Int8Type>().value(row).into(),
        DataType::Int16 => column.as_primitive::<Int16Type>().value(row).into(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).into(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).into(),
        DataType::UInt8 => column.as_primitive::<UInt8Type>().value(row).into(),
        DataType::UInt16 => column.as_primitive::<UInt16Type>().value(row).into(),
        DataType::UInt32 => column.as_primitive::<UInt32Type>().value(row).into(),
        DataType::UInt64 => column.as_primitive::<UInt64Type>().value(row).into(),
        // with its own digits, not those of the double next to it
        DataType::Float32 => number(&column.as_primitive::<Float32Type>().value(row).to_string()),
        DataType::Float64 => column.as_primitive::<Float64Type>().value(row).into(),
        DataType::Decimal128(..) | DataType::Decimal256(..) => number(&cell_display(column, row)),
        DataType::Utf8 => column.as_string::<i32>().value(row).into(),
        DataType::LargeUtf8 => column.as_string::<i64>().value(row).into(),
        DataType::Utf8View => column.as_string_view().value(row).into(),
        DataType::Binary => hex::encode(column.as_binary::<i32>().value(row)).into(),
        DataType::BinaryView => hex::encode(column.as_binary_view().value(row)).into(),
        DataType::Map(..) => Value::Object(map_to_json(column.as_map(), letters, row)),
        DataType::List(_) => list_json(&column.as_list::<i32>().value(row)),
        DataType::Struct(_) => struct_json(column, row),
        _ => cell_display(column, row).into(),
    }
}

/// Digits as a number: whole where they fit into 64 bits, else the nearest double; null where JSON has none.
fn number(digits: &str) -> Value {
    match digits.parse::<i64>() {
        Ok(whole) => whole.into(),
        Err(_) => digits.parse::<f64>().map_or(Value::Null, Value::from),
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

fn cell_display(column: &ArrayRef, row: usize) -> String {
    let options = FormatOptions::default();
    ArrayFormatter::try_new(column.as_ref(), &options).map_or_else(|e| e.to_string(), |f| f.value(row).to_string())
}
