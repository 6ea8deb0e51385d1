//! Columns that PostgreSQL has no type for, as text: ids in hex, maps, structs and lists of them as
//! JSON. Unsigned counts become bigint, which every client can add up.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, StringArray},
    compute::cast,
    datatypes::{DataType, Field, Schema, SchemaRef},
    record_batch::RecordBatch,
};
use serde_json::Value;

use crate::{SqlError, render};

/// How a column crosses.
enum Crossing {
    AsItIs,
    Text,
    Long,
}

fn crossing(data_type: &DataType) -> Crossing {
    match data_type {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            Crossing::Text
        }
        DataType::Map(..) | DataType::Struct(_) => Crossing::Text,
        DataType::List(item) | DataType::LargeList(item) if item.data_type().is_nested() => Crossing::Text,
        DataType::UInt64 => Crossing::Long,
        _ => Crossing::AsItIs,
    }
}

/// The columns as the client sees them.
pub(crate) fn schema(schema: &SchemaRef) -> Schema {
    let field = |field: &Arc<Field>| match crossing(field.data_type()) {
        Crossing::AsItIs => field.as_ref().clone(),
        Crossing::Text => Field::new(field.name(), DataType::Utf8, true),
        Crossing::Long => Field::new(field.name(), DataType::Int64, true),
    };
    let shown = schema.fields().iter().filter(|field| render::is_shown(field.name()));
    Schema::new(shown.map(field).collect::<Vec<_>>())
}

/// The rows as the client sees them.
pub(super) fn rows(batch: &RecordBatch) -> Result<RecordBatch, SqlError> {
    let failed = |error: arrow::error::ArrowError| SqlError::Execution(error.to_string());
    let column = |place: usize| -> Result<ArrayRef, SqlError> {
        let column = batch.column(place);
        match crossing(column.data_type()) {
            Crossing::AsItIs => Ok(column.clone()),
            Crossing::Long => cast(column, &DataType::Int64).map_err(failed),
            Crossing::Text => Ok(Arc::new(texts(batch, place))),
        }
    };
    let shown = render::shown_places(batch.schema_ref());
    let columns = shown.into_iter().map(column).collect::<Result<Vec<_>, _>>()?;
    let schema = Arc::new(schema(&batch.schema()));
    let options = arrow::record_batch::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema, columns, &options).map_err(failed)
}

fn texts(batch: &RecordBatch, place: usize) -> StringArray {
    let text = |value: Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    };
    render::column_to_json(batch, place).into_iter().map(text).collect()
}
