//! Parameters of prepared statements: which type a client is told, and what it sent.

use datafusion::{arrow::datatypes::DataType, common::ScalarValue};
use datafusion_postgres::{
    arrow_pg::datatypes::into_pg_type,
    pgwire::{
        api::{Type, portal::Portal},
        error::{PgWireError, PgWireResult},
    },
};

use super::{
    handler::{ParameterType, Prepared, refused},
    sent::{self, Form, MAX_DIGITS},
};
use crate::query::nanos_of_text;

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
    let form = if portal.parameter_format.is_binary(place) { Form::Binary } else { Form::Text };
    let bytes = portal.parameters.get(place).ok_or(PgWireError::ParameterIndexOutOfBound(place))?;
    let sent = match (&wire, form) {
        (&Type::BYTEA, _) => ScalarValue::Binary(portal.parameter(place, &wire)?),
        // a time may stand where a bigint is told
        (&Type::INT8, Form::Text) if *parameter == Some(DataType::Int64) => {
            sent::read(&Type::TEXT, bytes.as_deref(), form).map_err(|e| bad(place, &e))?
        }
        _ if sent::is_read(&wire) => sent::read(&wire, bytes.as_deref(), form).map_err(|e| bad(place, &e))?,
        _ => {
            let why = format!("parameter ${} of type {wire} is not taken: send it as text or a number", place + 1);
            return Err(refused("0A000", &why));
        }
    };
    fitted(sent, place, parameter)
}

/// The value in the type that the statement needs. What the statement makes sense of by itself, as it
/// does with a literal of that type, stays: times, numbers beside texts, fractions, arrays.
fn fitted(sent: ScalarValue, place: usize, parameter: &ParameterType) -> PgWireResult<ScalarValue> {
    use ScalarValue::{Date32, Decimal128, List, TimestampNanosecond, Utf8};
    let Some(needed) = parameter else { return Ok(sent) };
    match (needed, sent) {
        (_, sent @ (List(_) | Date32(_) | TimestampNanosecond(..))) => Ok(sent),
        (DataType::Binary, Utf8(Some(text))) => {
            let digits = text.strip_prefix("\\x").unwrap_or(&text);
            let id = hex::decode(digits).map_err(|_| bad(place, &format!("{text:?} is not an id in hex")))?;
            Ok(ScalarValue::Binary(Some(id)))
        }
        (DataType::Int64, Utf8(Some(text))) => {
            let number = text.trim().parse().ok().or_else(|| nanos_of_text(&text));
            let number = number.ok_or_else(|| bad(place, &format!("{text:?} is neither a whole number nor a time")))?;
            Ok(ScalarValue::Int64(Some(number)))
        }
        (whole, Decimal128(Some(digits), _, scale)) if whole.is_integer() => Ok(match whole_of(digits, scale) {
            Some(number) => ScalarValue::Int64(Some(number)),
            None => Decimal128(Some(digits), MAX_DIGITS, scale),
        }),
        (text, sent) if text.is_string() && sent.data_type().is_numeric() => Ok(sent),
        (needed, sent) => sent.cast_to(needed).map_err(|error| bad(place, &error.strip_backtrace())),
    }
}

/// A decimal without a fraction.
fn whole_of(digits: i128, scale: i8) -> Option<i64> {
    let unit = 10_i128.checked_pow(u32::try_from(scale).ok()?)?;
    i64::try_from(digits / unit).ok().filter(|_| digits % unit == 0)
}

fn bad(place: usize, what: &str) -> PgWireError {
    refused("22P02", &format!("parameter ${}: {what}", place + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fit_what_the_statement_needs_or_stay_what_they_mean() {
        let text = |text: &str| ScalarValue::from(text);
        let long = |number| Some(ScalarValue::Int64(Some(number)));
        let decimal = |digits, scale| ScalarValue::Decimal128(Some(digits), MAX_DIGITS, scale);
        let day = ScalarValue::Date32(Some(20_783));
        let cases: [(DataType, ScalarValue, Option<ScalarValue>); 11] = [
            (DataType::Int64, text("7"), long(7)),
            (DataType::Int64, text("1970-01-01T00:00:01Z"), long(1_000_000_000)),
            (DataType::Int64, text("1970-01-01 00:00:01+00"), long(1_000_000_000)),
            (DataType::Int64, text("noon"), None),
            (DataType::Int64, decimal(700, 2), long(7)),
            (DataType::Int64, decimal(750, 2), Some(decimal(750, 2))),
            (DataType::Int64, day.clone(), Some(day.clone())),
            (DataType::Float64, decimal(750, 2), Some(ScalarValue::Float64(Some(7.5)))),
            (DataType::Utf8View, ScalarValue::Int32(Some(7)), Some(ScalarValue::Int32(Some(7)))),
            (DataType::Binary, text("\\x0aff"), Some(ScalarValue::Binary(Some(vec![10, 255])))),
            (DataType::Binary, text("cart"), None),
        ];
        for (needed, sent, expect) in cases {
            let case = format!("{sent:?} as {needed}");
            assert_eq!(fitted(sent, 0, &Some(needed)).ok(), expect, "{case}");
        }
    }
}
