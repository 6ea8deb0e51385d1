//! `information_schema` as clients of PostgreSQL look for it: the engine's, but columns have the types that
//! they are sent as, by PostgreSQL's names. A dashboard picks its time and number columns by these.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Int64Array, StringArray},
    datatypes::{Field, Schema},
    record_batch::RecordBatch,
};
use datafusion::{
    catalog::{
        CatalogProviderList, MemTable, MemorySchemaProvider, SchemaProvider,
        information_schema::InformationSchemaProvider,
    },
    common::DataFusionError,
};
use datafusion_postgres::{arrow_pg::datatypes::into_pg_type, pgwire::api::Type};
use futures::FutureExt;
use weir_schema::Table;

use super::engine::CATALOGUE;
use crate::postgres::schema_as_sent;

/// The tables of the schema over these catalogues. How the engine is set up is nobody's to see.
pub(super) fn information_schema(
    catalogues: Arc<dyn CatalogProviderList>,
) -> Result<Arc<dyn SchemaProvider>, DataFusionError> {
    let engines = InformationSchemaProvider::new(catalogues);
    let schema = MemorySchemaProvider::new();
    for name in engines.table_names().into_iter().filter(|name| name != "df_settings" && name != "columns") {
        // it has all of its tables at hand
        if let Some(table) = engines.table(&name).now_or_never().transpose()?.flatten() {
            schema.register_table(name, table)?;
        }
    }
    let columns = columns()?;
    let columns = MemTable::try_new(columns.schema(), vec![vec![columns]])?;
    schema.register_table("columns".to_owned(), Arc::new(columns))?;
    Ok(Arc::new(schema))
}

/// A column of a table.
struct Row {
    table: Table,
    place: i64,
    field: Arc<Field>,
    sent_as: Type,
}

fn rows() -> Result<Vec<Row>, DataFusionError> {
    let mut rows = Vec::new();
    for table in Table::ALL {
        for (place, field) in (1..).zip(schema_as_sent(&table.schema()).fields()) {
            let sent_as =
                into_pg_type(field.data_type()).map_err(|error| DataFusionError::External(Box::new(error)))?;
            rows.push(Row { table, place, field: field.clone(), sent_as });
        }
    }
    Ok(rows)
}

/// `information_schema.columns` with the columns that the standard names.
fn columns() -> Result<RecordBatch, DataFusionError> {
    let rows = rows()?;
    let texts = |text: fn(&Row) -> Option<&str>| Arc::new(rows.iter().map(text).collect::<StringArray>()) as ArrayRef;
    let numbers =
        |number: fn(&Row) -> Option<i64>| Arc::new(rows.iter().map(number).collect::<Int64Array>()) as ArrayRef;
    let columns = [
        ("table_catalog", texts(|_| Some(CATALOGUE))),
        ("table_schema", texts(|_| Some("public"))),
        ("table_name", texts(|row| Some(row.table.name()))),
        ("column_name", texts(|row| Some(row.field.name()))),
        ("ordinal_position", numbers(|row| Some(row.place))),
        ("column_default", texts(|_| None)),
        ("is_nullable", texts(|row| Some(if row.field.is_nullable() { "YES" } else { "NO" }))),
        ("data_type", texts(|row| Some(sql_name(&row.sent_as)))),
        ("character_maximum_length", numbers(|_| None)),
        ("character_octet_length", numbers(|_| None)),
        ("numeric_precision", numbers(|row| bits(&row.sent_as))),
        ("numeric_precision_radix", numbers(|row| bits(&row.sent_as).map(|_| 2))),
        ("numeric_scale", numbers(|row| bits(&row.sent_as).map(|_| 0))),
        ("datetime_precision", numbers(|_| None)),
        ("interval_type", texts(|_| None)),
        ("udt_catalog", texts(|_| Some(CATALOGUE))),
        ("udt_schema", texts(|_| Some("pg_catalog"))),
        ("udt_name", texts(|row| Some(row.sent_as.name()))),
        ("is_identity", texts(|_| Some("NO"))),
        ("is_generated", texts(|_| Some("NEVER"))),
        ("is_updatable", texts(|_| Some("NO"))),
    ];
    let fields = columns.iter().map(|(name, values)| Field::new(*name, values.data_type().clone(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    Ok(RecordBatch::try_new(schema, columns.into_iter().map(|(_, values)| values).collect())?)
}

/// The name that the standard has for a type; PostgreSQL's own where it has none.
fn sql_name(sent_as: &Type) -> &str {
    match *sent_as {
        Type::BOOL => "boolean",
        Type::INT2 => "smallint",
        Type::INT4 => "integer",
        Type::INT8 => "bigint",
        Type::FLOAT4 => "real",
        Type::FLOAT8 => "double precision",
        Type::TIMESTAMP => "timestamp without time zone",
        Type::TIMESTAMPTZ => "timestamp with time zone",
        _ if sent_as.name().starts_with('_') => "ARRAY",
        _ => sent_as.name(),
    }
}

/// Bits of a whole number.
fn bits(sent_as: &Type) -> Option<i64> {
    match *sent_as {
        Type::INT2 => Some(16),
        Type::INT4 => Some(32),
        Type::INT8 => Some(64),
        _ => None,
    }
}
