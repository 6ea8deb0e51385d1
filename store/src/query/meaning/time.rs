//! Times beside timestamps: `unix_nano(timestamp)` is a timestamp, a date or a text as nanoseconds since
//! 1970, the way back from `ts(nanoseconds)`. What it makes of a constant is a constant, so it prunes.

use std::sync::{Arc, LazyLock};

use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array},
    compute::{cast, kernels::cast_utils::string_to_timestamp_nanos},
    datatypes::{DataType, Int64Type, TimeUnit},
};
use datafusion::{
    common::{Result, exec_datafusion_err, plan_datafusion_err, plan_err},
    logical_expr::{
        Cast, ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
        expr::ScalarFunction, lit,
    },
};

static UNIX_NANO: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| Arc::new(function()));

pub(super) fn function() -> ScalarUDF {
    ScalarUDF::new_from_impl(UnixNano { signature: Signature::any(1, Volatility::Immutable) })
}

/// `n` of `ts(n)`.
pub(super) fn inside_ts(expr: &Expr) -> Option<&Expr> {
    match expr {
        Expr::ScalarFunction(ScalarFunction { func, args }) if func.name() == "ts" => {
            args.first().filter(|_| args.len() == 1)
        }
        Expr::Cast(Cast { expr, field })
            if matches!(field.data_type(), DataType::Timestamp(TimeUnit::Nanosecond, _)) =>
        {
            inside_ts(expr)
        }
        _ => None,
    }
}

/// Whether a bigint is a time by its name: what it is compared with must be one then.
pub(super) fn is_time(expr: &Expr) -> bool {
    matches!(expr, Expr::Column(column) if column.name.ends_with("_unix_nano"))
}

/// A timestamp, a date or a text as nanoseconds.
pub(super) fn nanos(of: &Expr, compared_with: &Expr) -> Result<Expr> {
    let Expr::Literal(value, _) = of else { return Ok(call(of)) };
    let Some(text) = value.try_as_str().flatten() else { return Ok(call(of)) };
    literal(of).ok_or_else(|| {
        plan_datafusion_err!(
            "{compared_with} is compared with {text:?}, which is not a time such as 2022-08-23T12:00:00Z or 2022-08-23"
        )
    })
}

fn call(of: &Expr) -> Expr {
    match inside_ts(of) {
        Some(nanos) => nanos.clone(),
        None => UNIX_NANO.call(vec![of.clone()]),
    }
}

/// A literal that is a time.
pub(super) fn literal(expr: &Expr) -> Option<Expr> {
    let Expr::Literal(value, _) = expr else { return None };
    nanos_of_text(value.try_as_str()??).map(lit)
}

/// RFC 3339, PostgreSQL's way with a blank, or a date alone; in UTC where no offset is said. What is
/// out of range is its end.
pub(crate) fn nanos_of_text(text: &str) -> Option<i64> {
    let saturated = |time: jiff::Timestamp| {
        let nanos = time.as_nanosecond();
        i64::try_from(nanos).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX })
    };
    let text = text.trim();
    string_to_timestamp_nanos(text).ok().or_else(|| text.parse().ok().map(saturated))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct UnixNano {
    signature: Signature,
}

impl ScalarUDFImpl for UnixNano {
    fn name(&self) -> &'static str {
        "unix_nano"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments {
            [DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 | DataType::Int64 | DataType::Null] => {
                Ok(DataType::Int64)
            }
            [text] if text.is_string() => Ok(DataType::Int64),
            _ => plan_err!("unix_nano(time) takes a timestamp, a date or a text, not {arguments:?}"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [times] = args.args.as_slice() else { return plan_err!("unix_nano takes one argument") };
        let nanos = nanos_of(&times.to_array(args.number_rows)?)?;
        Ok(ColumnarValue::Array(Arc::new(nanos)))
    }
}

fn nanos_of(times: &ArrayRef) -> Result<Int64Array> {
    let unit_ns: i64 = match times.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => 1_000_000_000,
        DataType::Timestamp(TimeUnit::Millisecond, _) | DataType::Date64 => 1_000_000,
        DataType::Timestamp(TimeUnit::Microsecond, _) => 1_000,
        DataType::Date32 => 86_400_000_000_000,
        text if text.is_string() => return nanos_of_texts(times),
        _ => 1,
    };
    // a day is counted in 32 bits
    let counts = match times.data_type() {
        DataType::Date32 => cast(&cast(times, &DataType::Int32)?, &DataType::Int64)?,
        _ => cast(times, &DataType::Int64)?,
    };
    Ok(counts.as_primitive::<Int64Type>().unary(|count| count.saturating_mul(unit_ns)))
}

fn nanos_of_texts(texts: &ArrayRef) -> Result<Int64Array> {
    let texts = cast(texts, &DataType::Utf8)?;
    let time = |text: &str| {
        nanos_of_text(text).ok_or_else(|| {
            exec_datafusion_err!("{text:?} is compared with a time and is none such as 2022-08-23T12:00:00Z")
        })
    };
    let nanos = texts.as_string::<i32>().iter().map(|text| text.map(time).transpose());
    nanos.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_write_times_in_many_ways() {
        let second = 1_795_651_200_000_000_000; // 2026-11-26, midnight
        let cases = [
            ("2026-11-26", Some(second)),
            (" 2026-11-26 00:00:00", Some(second)),
            ("2026-11-26T00:00:00Z", Some(second)),
            ("2026-11-26 01:00:00+01", Some(second)),
            ("2026-11-26 01:00:00.5+01:00", Some(second + 500_000_000)),
            ("2999-12-31T00:00:00Z", Some(i64::MAX)),
            ("noon", None),
            ("2026", None),
            ("", None),
        ];
        for (text, nanos) in cases {
            assert_eq!(nanos_of_text(text), nanos, "{text}");
        }
    }
}
