//! [`Postgres`]: what sessions of PostgreSQL clients have beside the tables: `pg_catalog`, its
//! functions, and a parser that knows the statements clients send to find their way.

use std::sync::Arc;

use datafusion::{
    arrow::datatypes::DataType,
    catalog::{CatalogProvider, MemoryCatalogProvider, MemorySchemaProvider, SchemaProvider},
    common::{DataFusionError, ScalarValue},
    execution::{context::SessionContext, session_state::SessionState},
    logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf},
    sql::sqlparser::ast::Statement,
};
use datafusion_postgres::datafusion_pg_catalog::{
    pg_catalog::{context::EmptyContextProvider, setup_pg_catalog},
    sql::PostgresCompatibilityParser,
};
use weir_schema::Table;

use super::engine::{CATALOGUE, session_over};
use crate::error::SqlError;

/// Made once: its tables and object ids stay the same for all sessions.
pub(super) struct Postgres {
    base: SessionState,
    pg_catalog: Arc<dyn SchemaProvider>,
    parser: PostgresCompatibilityParser,
}

impl Postgres {
    pub(super) fn new(base: SessionState) -> Result<Self, DataFusionError> {
        let catalogue = MemoryCatalogProvider::new();
        let names = MemorySchemaProvider::new();
        for table in Table::ALL {
            let columns = datafusion::datasource::empty::EmptyTable::new(table.schema());
            names.register_table(table.name().to_owned(), Arc::new(columns))?;
        }
        catalogue.register_schema("public", Arc::new(names))?;
        let session = session_over(base, catalogue);
        setup_pg_catalog(&session, CATALOGUE, EmptyContextProvider).map_err(|error| *error)?;
        session.register_udf(version());
        session.register_udf(to_regtype());
        let pg_catalog = session.catalog(CATALOGUE).and_then(|catalogue| catalogue.schema("pg_catalog"));
        let pg_catalog = pg_catalog.ok_or_else(|| DataFusionError::Internal("pg_catalog is not there".into()))?;
        Ok(Self { base: session.state(), pg_catalog, parser: PostgresCompatibilityParser::new() })
    }

    pub(super) fn parse(&self, text: &str) -> Result<Vec<Statement>, SqlError> {
        self.parser.parse(text).map_err(|error| SqlError::Syntax(error.to_string()))
    }

    /// A session with these tables.
    pub(super) fn session(&self, tables: Arc<dyn SchemaProvider>) -> SessionContext {
        let catalogue = MemoryCatalogProvider::new();
        // a fresh catalogue has no schema of these names yet
        let _ = catalogue.register_schema("public", tables);
        let _ = catalogue.register_schema("pg_catalog", self.pg_catalog.clone());
        session_over(self.base.clone(), catalogue)
    }
}

/// `version()` in the form that clients read a number from.
fn version() -> ScalarUDF {
    let text = format!("PostgreSQL 16.6 (weir {})", env!("CARGO_PKG_VERSION"));
    let answer = move |_: &[ColumnarValue]| Ok(ColumnarValue::Scalar(ScalarValue::Utf8(Some(text.clone()))));
    create_udf("version", vec![], DataType::Utf8, Volatility::Immutable, Arc::new(answer))
}

/// `to_regtype('hstore')`: drivers look for types of extensions, and there is none.
fn to_regtype() -> ScalarUDF {
    let none = |_: &[ColumnarValue]| Ok(ColumnarValue::Scalar(ScalarValue::Int32(None)));
    create_udf("to_regtype", vec![DataType::Utf8], DataType::Int32, Volatility::Immutable, Arc::new(none))
}
