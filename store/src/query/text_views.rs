//! Text as views: the planner sees `Utf8View` where a table has `Utf8`, because a view points into a
//! decoded dictionary page where a string would be copied out of it, row by row. An answer leaves in
//! the plain types of the schema.

use std::sync::Arc;

use arrow::{
    array::ArrayRef,
    compute::cast,
    datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef},
    error::ArrowError,
    record_batch::{RecordBatch, RecordBatchOptions},
};

/// The schema that the planner sees: text and attribute maps as views. Lists (events, links) stay as
/// they are: nobody filters by them.
pub(super) fn viewed(schema: &Schema) -> SchemaRef {
    with_types(schema, viewed_type)
}

/// The schema that a reader of an answer sees.
pub(super) fn plain(schema: &Schema) -> SchemaRef {
    with_types(schema, plain_type)
}

/// The rows in the types of `schema`; columns that have them already are not touched.
pub(super) fn retyped(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let retype = |(column, field): (&ArrayRef, &FieldRef)| cast(column, field.data_type());
    let columns = rows.columns().iter().zip(schema.fields()).map(retype).collect::<Result<_, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
}

fn with_types(schema: &Schema, of: fn(&DataType) -> DataType) -> SchemaRef {
    let fields: Fields = schema.fields().iter().map(|field| retyped_field(field, of)).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

fn retyped_field(field: &FieldRef, of: fn(&DataType) -> DataType) -> FieldRef {
    Arc::new(Field::clone(field).with_data_type(of(field.data_type())))
}

fn viewed_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8 => DataType::Utf8View,
        DataType::Map(entries, sorted) => DataType::Map(of_entries(entries, viewed_type), *sorted),
        other => other.clone(),
    }
}

/// The type in which a value of this type leaves.
pub(super) fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Map(entries, sorted) => DataType::Map(of_entries(entries, plain_type), *sorted),
        DataType::List(item) => DataType::List(retyped_field(item, plain_type)),
        DataType::Struct(_) => of_struct(data_type, plain_type),
        other => other.clone(),
    }
}

fn of_entries(entries: &FieldRef, of: fn(&DataType) -> DataType) -> FieldRef {
    let inner = of_struct(entries.data_type(), of);
    Arc::new(Field::clone(entries).with_data_type(inner))
}

fn of_struct(data_type: &DataType, of: fn(&DataType) -> DataType) -> DataType {
    match data_type {
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|field| retyped_field(field, of)).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use weir_schema::Table;

    use super::*;
    use crate::store::tests::spans;

    #[test]
    fn every_table_leaves_as_it_is_defined() {
        for table in Table::ALL {
            assert_eq!(plain(&viewed(&table.schema())), table.schema(), "{}", table.name());
        }
        assert_eq!(viewed(&Table::Spans.schema()).field_with_name("service").unwrap().data_type(), &DataType::Utf8View);
    }

    #[test]
    fn rows_keep_their_values_both_ways() {
        let rows = spans(&[(1, 2, 3), (4, 5, 6)]);
        let views = retyped(&rows, &viewed(&rows.schema())).unwrap();
        assert_eq!(views["service"].data_type(), &DataType::Utf8View);
        assert_eq!(retyped(&views, &plain(&views.schema())).unwrap(), rows);
    }
}
