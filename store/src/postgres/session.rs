//! Statements about the session itself. Nothing of it can be changed, so what clients send by habit
//! is taken without effect, and what they ask is answered as a PostgreSQL of defaults would.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::sql::sqlparser::ast::Statement;
use datafusion_postgres::pgwire::{
    api::{
        ClientInfo, Type,
        results::{DataRowEncoder, FieldFormat, FieldInfo, QueryResponse, Response, Tag},
    },
    error::PgWireResult,
};
use futures::stream;

use super::settings::setting;

/// Answers a statement about the session; `None` when it is a query.
pub(super) fn answer<C: ClientInfo>(client: &C, statement: &Statement) -> PgWireResult<Option<Response>> {
    let done = |tag: &str| Ok(Some(Response::Execution(Tag::new(tag))));
    match statement {
        Statement::Set(_) => done("SET"),
        Statement::Reset(_) => done("RESET"),
        Statement::Discard { .. } => done("DISCARD ALL"),
        Statement::Deallocate { .. } => done("DEALLOCATE"),
        Statement::Close { .. } => done("CLOSE CURSOR"),
        Statement::Savepoint { .. } => done("SAVEPOINT"),
        Statement::ReleaseSavepoint { .. } => done("RELEASE"),
        Statement::StartTransaction { .. } => Ok(Some(Response::TransactionStart(Tag::new("BEGIN")))),
        Statement::Commit { .. } => Ok(Some(Response::TransactionEnd(Tag::new("COMMIT")))),
        Statement::Rollback { .. } => Ok(Some(Response::TransactionEnd(Tag::new("ROLLBACK")))),
        Statement::ShowVariable { variable } => {
            let words: Vec<_> = variable.iter().map(|word| word.value.to_lowercase()).collect();
            show(client, &words.join("_")).map(Some)
        }
        _ => Ok(None),
    }
}

/// The columns that [`answer`] gives; `None` when the statement is a query.
pub(super) fn schema(statement: &Statement) -> Option<SchemaRef> {
    match statement {
        Statement::Set(_)
        | Statement::Reset(_)
        | Statement::Discard { .. }
        | Statement::Deallocate { .. }
        | Statement::Close { .. }
        | Statement::Savepoint { .. }
        | Statement::ReleaseSavepoint { .. }
        | Statement::StartTransaction { .. }
        | Statement::Commit { .. }
        | Statement::Rollback { .. } => Some(Arc::new(Schema::empty())),
        Statement::ShowVariable { variable } => {
            let name = variable.iter().map(|word| word.value.to_lowercase()).collect::<Vec<_>>().join("_");
            Some(Arc::new(Schema::new(vec![Field::new(name, DataType::Utf8, true)])))
        }
        _ => None,
    }
}

fn show<C: ClientInfo>(client: &C, name: &str) -> PgWireResult<Response> {
    let value = setting(name).or_else(|| client.metadata().get(name).map(String::as_str)).unwrap_or_default();
    let fields = Arc::new(vec![FieldInfo::new(name.to_owned(), None, None, Type::TEXT, FieldFormat::Text)]);
    let mut encoder = DataRowEncoder::new(fields.clone());
    encoder.encode_field(&Some(value))?;
    let row = encoder.take_row();
    Ok(Response::Query(QueryResponse::new(fields, stream::once(std::future::ready(Ok(row))))))
}
