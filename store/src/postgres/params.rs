//! Parameters of prepared statements: which type a client is told, and what it sent.

use datafusion::{arrow::datatypes::DataType, common::ScalarValue};
use datafusion_postgres::{
    arrow_pg::datatypes::into_pg_type,
    pgwire::{
        api::{Type, portal::Portal},
        error::PgWireResult,
    },
};

use super::handler::{ParameterType, Prepared, refused};

/// What a client is told: ids are hex text, an unknown type is text.
pub(super) fn wire_type(parameter: &ParameterType) -> Type {
    match parameter {
        None | Some(DataType::Binary | DataType::BinaryView) => Type::TEXT,
        Some(data_type) => into_pg_type(data_type).unwrap_or(Type::TEXT),
    }
}

/// What the client sent, in order.
pub(super) fn values(portal: &Portal<Prepared>, parameters: &[ParameterType]) -> PgWireResult<Vec<ScalarValue>> {
    parameters.iter().enumerate().map(|(place, parameter)| value(portal, place, parameter)).collect()
}

fn value(portal: &Portal<Prepared>, place: usize, parameter: &ParameterType) -> PgWireResult<ScalarValue> {
    // a client may name a type of its own when it prepares
    let named = portal.statement.parameter_types.get(place).cloned().flatten();
    let wire = named.filter(|t| *t != Type::UNKNOWN).unwrap_or_else(|| wire_type(parameter));
    let sent = match wire {
        Type::BOOL => ScalarValue::Boolean(portal.parameter(place, &wire)?),
        Type::INT2 => ScalarValue::Int16(portal.parameter(place, &wire)?),
        Type::INT4 => ScalarValue::Int32(portal.parameter(place, &wire)?),
        Type::INT8 => ScalarValue::Int64(portal.parameter(place, &wire)?),
        Type::FLOAT4 => ScalarValue::Float32(portal.parameter(place, &wire)?),
        Type::FLOAT8 => ScalarValue::Float64(portal.parameter(place, &wire)?),
        Type::BYTEA => ScalarValue::Binary(portal.parameter(place, &wire)?),
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN => {
            ScalarValue::Utf8(portal.parameter(place, &Type::TEXT)?)
        }
        other => {
            let why = format!("parameter ${} of type {other} is not taken: send it as text or a number", place + 1);
            return Err(refused("0A000", &why));
        }
    };
    fitted(sent, place, parameter)
}

/// The value in the type the statement needs.
fn fitted(sent: ScalarValue, place: usize, parameter: &ParameterType) -> PgWireResult<ScalarValue> {
    let bad = |what: String| refused("22P02", &format!("parameter ${}: {what}", place + 1));
    match (parameter, sent) {
        (Some(DataType::Binary), ScalarValue::Utf8(Some(text))) => {
            let id = hex::decode(&text).map_err(|_| bad(format!("{text:?} is not an id in hex")))?;
            Ok(ScalarValue::Binary(Some(id)))
        }
        (Some(needed), sent) => sent.cast_to(needed).map_err(|error| bad(error.strip_backtrace())),
        (None, sent) => Ok(sent),
    }
}
