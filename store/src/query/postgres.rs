//! [`Postgres`]: what sessions of PostgreSQL clients have beside the tables: `pg_catalog` and
//! `information_schema`, their functions, and a parser that knows the statements clients send to find their way.

use std::sync::Arc;

use datafusion::{
    arrow::datatypes::DataType,
    catalog::{CatalogProvider, MemoryCatalogProvider, MemorySchemaProvider, SchemaProvider},
    common::{DataFusionError, ScalarValue, exec_err},
    execution::{
        context::SessionContext,
        session_state::{SessionState, SessionStateBuilder},
    },
    logical_expr::{ColumnarValue, ScalarUDF, Signature, SimpleScalarUDF, TypeSignature, Volatility, create_udf},
    sql::sqlparser::ast::Statement,
};
use datafusion_postgres::datafusion_pg_catalog::pg_catalog::{context::EmptyContextProvider, setup_pg_catalog};
use weir_schema::Table;

use super::{
    catalogue::Catalogue,
    dialect::Dialect,
    engine::{CATALOGUE, session_over},
    information_schema::information_schema,
    psql,
};
use crate::{
    error::SqlError,
    postgres::{schema_as_sent, setting},
};

/// Made once: its tables and object ids stay the same for all sessions.
pub(super) struct Postgres {
    base: SessionState,
    catalogue: Arc<MemoryCatalogProvider>,
    pg_catalog: Arc<dyn SchemaProvider>,
    information_schema: Arc<dyn SchemaProvider>,
    dialect: Dialect,
}

impl Postgres {
    pub(super) fn new(base: SessionState) -> Result<Self, DataFusionError> {
        let catalogue = Arc::new(MemoryCatalogProvider::new());
        let names = MemorySchemaProvider::new();
        for table in Table::ALL {
            let columns = datafusion::datasource::empty::EmptyTable::new(Arc::new(schema_as_sent(&table.schema())));
            names.register_table(table.name().to_owned(), Arc::new(columns))?;
        }
        catalogue.register_schema("public", Arc::new(names))?;
        let session = session_over(base, catalogue.clone());
        setup_pg_catalog(&session, CATALOGUE, EmptyContextProvider).map_err(|error| *error)?;
        session.register_udf(version());
        session.register_udf(to_regtype());
        session.register_udf(current_setting());
        for name in ["obj_description", "col_description", "shobj_description"] {
            session.register_udf(no_description(name));
        }
        psql::register(&session);
        let pg_catalog = session.catalog(CATALOGUE).and_then(|catalogue| catalogue.schema("pg_catalog"));
        let all = pg_catalog.ok_or_else(|| DataFusionError::Internal("pg_catalog is not there".into()))?;
        let pg_catalog = Arc::new(Catalogue { all });
        let information_schema = information_schema(session.state().catalog_list().clone())?;
        // this one is found by its name, as any other schema
        let config = session.copied_config().with_information_schema(false);
        let base = SessionStateBuilder::new_from_existing(session.state()).with_config(config).build();
        Ok(Self { base, catalogue, pg_catalog, information_schema, dialect: Dialect::new() })
    }

    pub(super) fn parse(&self, text: &str) -> Result<Vec<Statement>, SqlError> {
        self.dialect.parse(text).map_err(|error| SqlError::Syntax(error.to_string()))
    }

    /// A session with these tables.
    pub(super) fn session(&self, tables: Arc<dyn SchemaProvider>) -> SessionContext {
        let catalogue = MemoryCatalogProvider::new();
        // a fresh catalogue has no schema of these names yet
        let _ = catalogue.register_schema("public", tables);
        let _ = catalogue.register_schema("pg_catalog", self.pg_catalog.clone());
        let _ = catalogue.register_schema("information_schema", self.information_schema.clone());
        session_over(self.base.clone(), Arc::new(catalogue))
    }
}

impl Drop for Postgres {
    /// The schema knows the catalogue that it is in: neither would ever be freed.
    fn drop(&mut self) {
        // there is no other way to fail than that it is gone
        let _ = self.catalogue.deregister_schema("pg_catalog", true);
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

/// `current_setting('server_version_num')`, by which dashboards tell what they may ask. With a second argument
/// that is true, one that is not known is null.
fn current_setting() -> ScalarUDF {
    let answer = |arguments: &[ColumnarValue]| {
        let [ColumnarValue::Scalar(name), rest @ ..] = arguments else {
            return exec_err!("current_setting takes the name of a setting");
        };
        let name = name.try_as_str().flatten().unwrap_or_default().to_lowercase();
        let may_miss = matches!(rest, [ColumnarValue::Scalar(ScalarValue::Boolean(Some(true)))]);
        let value = match name.as_str() {
            // what the client said of itself is its connection's
            "application_name" => Some(""),
            name => setting(name),
        };
        match value {
            None if !may_miss => exec_err!("unrecognized configuration parameter \"{name}\""),
            value => Ok(ColumnarValue::Scalar(ScalarValue::Utf8(value.map(str::to_owned)))),
        }
    };
    let one = TypeSignature::Exact(vec![DataType::Utf8]);
    let two = TypeSignature::Exact(vec![DataType::Utf8, DataType::Boolean]);
    let signature = Signature::one_of(vec![one, two], Volatility::Stable);
    SimpleScalarUDF::new_with_signature("current_setting", signature, DataType::Utf8, Arc::new(answer)).into()
}

/// A comment on an object: there is none.
fn no_description(name: &str) -> ScalarUDF {
    let none = |_: &[ColumnarValue]| Ok(ColumnarValue::Scalar(ScalarValue::Utf8(None)));
    let signature = Signature::one_of(vec![TypeSignature::Any(1), TypeSignature::Any(2)], Volatility::Immutable);
    SimpleScalarUDF::new_with_signature(name, signature, DataType::Utf8, Arc::new(none)).into()
}
