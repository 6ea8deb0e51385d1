//! The rows that the codec made, cell by cell.

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    datatypes::{DataType, Float64Type, Int32Type, Int64Type},
};
use serde_json::{Value as Json, json};

use super::{Row, expected::bits};

pub(in crate::otlp) fn found(rows: &RecordBatch) -> Vec<Row> {
    (0..rows.num_rows())
        .map(|row| {
            let cells = rows
                .schema()
                .fields()
                .iter()
                .zip(rows.columns())
                .map(|(field, column)| (field.name().clone(), cell(column, row)))
                .collect::<Vec<_>>();
            cells.into_iter().filter(|(_, cell)| !cell.is_null()).collect()
        })
        .collect()
}

fn cell(column: &ArrayRef, row: usize) -> Json {
    if column.is_null(row) {
        return Json::Null;
    }
    match column.data_type() {
        DataType::Binary => json!(hex::encode(column.as_binary::<i32>().value(row))),
        DataType::Utf8 => json!(column.as_string::<i32>().value(row)),
        DataType::Int64 => json!(column.as_primitive::<Int64Type>().value(row)),
        DataType::Int32 => json!(column.as_primitive::<Int32Type>().value(row)),
        DataType::Float64 => bits(column.as_primitive::<Float64Type>().value(row)),
        DataType::Boolean => json!(column.as_boolean().value(row)),
        DataType::Map(..) => {
            let entries = column.as_map().value(row);
            let pair = |entry| [cell(entries.column(0), entry), cell(entries.column(1), entry)];
            json!((0..entries.len()).map(pair).collect::<Vec<_>>())
        }
        DataType::List(_) => {
            let items = column.as_list::<i32>().value(row);
            json!((0..items.len()).map(|item| cell(&items, item)).collect::<Vec<_>>())
        }
        DataType::Struct(fields) => {
            let columns = column.as_struct();
            let cells =
                fields.iter().zip(columns.columns()).map(|(field, column)| (field.name().clone(), cell(column, row)));
            json!(cells.filter(|(_, cell)| !cell.is_null()).collect::<Row>())
        }
        other => panic!("no column is {other}"),
    }
}
