//! Statements about the session itself. How long a statement may take can be changed, and the time zone is
//! UTC; all else that clients send by habit is taken without effect, and what they ask is answered as a
//! PostgreSQL of defaults would.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::sql::sqlparser::ast::{ContextModifier, Expr, ObjectName, Reset, Set, Statement, Value};
use datafusion_postgres::pgwire::{
    api::{
        ClientInfo, Type,
        results::{DataRowEncoder, FieldFormat, FieldInfo, QueryResponse, Response, Tag},
    },
    error::PgWireResult,
    messages::response::TransactionStatus,
};
use futures::stream;

use super::{
    handler::refused,
    settings::{is_utc, milliseconds, setting, written},
};

/// How long a statement may take, in the words of the session.
const TIMEOUT: &str = "statement_timeout";

/// The same until the transaction ends.
const LOCAL_TIMEOUT: &str = "statement_timeout of the transaction";

/// Answers a statement about the session; `None` when it is a query.
pub(super) fn answer<C: ClientInfo>(
    client: &mut C,
    statement: &Statement,
    most_ms: u64,
) -> PgWireResult<Option<Response>> {
    let done = |tag: &str| Ok(Some(Response::Execution(Tag::new(tag))));
    if let Statement::Commit { .. } | Statement::Rollback { .. } = statement {
        client.metadata_mut().remove(LOCAL_TIMEOUT);
    }
    match statement {
        Statement::Set(set) => {
            change(client, set)?;
            done("SET")
        }
        Statement::Reset(what) => {
            if matches!(&what.reset, Reset::ALL)
                || matches!(&what.reset, Reset::ConfigurationParameter(name) if called(name) == TIMEOUT)
            {
                forget_timeout(client);
            }
            done("RESET")
        }
        Statement::Discard { .. } => {
            forget_timeout(client);
            done("DISCARD ALL")
        }
        Statement::Deallocate { .. } => done("DEALLOCATE"),
        Statement::Savepoint { .. } => done("SAVEPOINT"),
        Statement::ReleaseSavepoint { .. } => done("RELEASE"),
        Statement::StartTransaction { .. } => Ok(Some(Response::TransactionStart(Tag::new("BEGIN")))),
        Statement::Commit { .. } => Ok(Some(Response::TransactionEnd(Tag::new("COMMIT")))),
        Statement::Rollback { .. } => Ok(Some(Response::TransactionEnd(Tag::new("ROLLBACK")))),
        Statement::ShowVariable { variable } => {
            let words: Vec<_> = variable.iter().map(|word| word.value.to_lowercase()).collect();
            show(client, &words.join("_"), most_ms).map(Some)
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

/// How long a statement of this session may take, in milliseconds; no longer than any may.
pub(super) fn timeout_ms<C: ClientInfo>(client: &C, most_ms: u64) -> u64 {
    let set = [LOCAL_TIMEOUT, TIMEOUT].into_iter().find_map(|name| client.metadata().get(name));
    // what a client says when it connects is not looked at before
    let set = set.and_then(|text| milliseconds(text)).filter(|time_ms| *time_ms > 0);
    set.unwrap_or(most_ms).min(most_ms)
}

fn forget_timeout<C: ClientInfo>(client: &mut C) {
    client.metadata_mut().remove(TIMEOUT);
    client.metadata_mut().remove(LOCAL_TIMEOUT);
}

fn called(name: &ObjectName) -> String {
    name.to_string().to_lowercase()
}

fn change<C: ClientInfo>(client: &mut C, set: &Set) -> PgWireResult<()> {
    match set {
        Set::SetTimeZone { value, .. } => in_utc(&word(value)),
        Set::SingleAssignment { scope, variable, values, .. } => match (called(variable).as_str(), values.as_slice()) {
            ("timezone", [value]) => in_utc(&word(value)),
            (TIMEOUT, [value]) => set_timeout(client, *scope == Some(ContextModifier::Local), &word(value)),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// A value as it is meant: without its quotes.
fn word(value: &Expr) -> String {
    match value {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) | Value::DoubleQuotedString(text) => text.clone(),
            other => other.to_string(),
        },
        Expr::Identifier(name) => name.value.clone(),
        other => other.to_string(),
    }
}

fn in_utc(zone: &str) -> PgWireResult<()> {
    match is_utc(zone) {
        true => Ok(()),
        false => {
            let why =
                format!("times are in UTC here, not in {zone:?}: ts(start_unix_nano) AT TIME ZONE '…' shows another");
            Err(refused("22023", &why))
        }
    }
}

fn set_timeout<C: ClientInfo>(client: &mut C, in_transaction: bool, time: &str) -> PgWireResult<()> {
    if time.eq_ignore_ascii_case("default") {
        forget_timeout(client);
        return Ok(());
    }
    if milliseconds(time).is_none() {
        return Err(refused(
            "22023",
            &format!("{TIMEOUT} is a time such as 500, '500ms', '5s' or '1min', not {time:?}"),
        ));
    }
    let name = match in_transaction {
        // as in PostgreSQL it says nothing outside of one
        true if client.transaction_status() == TransactionStatus::Idle => return Ok(()),
        true => LOCAL_TIMEOUT,
        false => TIMEOUT,
    };
    client.metadata_mut().insert(name.to_owned(), time.to_owned());
    Ok(())
}

fn show<C: ClientInfo>(client: &C, name: &str, most_ms: u64) -> PgWireResult<Response> {
    let timeout = (name == TIMEOUT).then(|| written(timeout_ms(client, most_ms)));
    let value = timeout.as_deref().or_else(|| setting(name));
    let value = value.or_else(|| client.metadata().get(name).map(String::as_str)).unwrap_or_default();
    let fields = Arc::new(vec![FieldInfo::new(name.to_owned(), None, None, Type::TEXT, FieldFormat::Text)]);
    let mut encoder = DataRowEncoder::new(fields.clone());
    encoder.encode_field(&Some(value))?;
    let row = encoder.take_row();
    Ok(Response::Query(QueryResponse::new(fields, stream::once(std::future::ready(Ok(row))))))
}
