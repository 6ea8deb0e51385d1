//! Functions of time: `time_bucket` and `ts`. Both take the nanoseconds that tables hold; a bucket can be of a
//! timestamp too.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, Int64Array},
    compute::cast,
    datatypes::{DataType, Int64Type, TimeUnit},
};
use datafusion::{
    common::{Result, ScalarValue, plan_err},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility},
};

const DAY_NS: i64 = 86_400_000_000_000;

const WEEK_NS: i64 = 7 * DAY_NS;

/// The first Monday after the epoch, which was a Thursday.
const FIRST_MONDAY_NS: i64 = 4 * DAY_NS;

/// The functions.
pub(super) fn scalars() -> [ScalarUDF; 2] {
    [
        ScalarUDF::new_from_impl(TimeBucket { signature: Signature::any(2, Volatility::Immutable) }),
        ScalarUDF::new_from_impl(Ts { signature: Signature::exact(vec![DataType::Int64], Volatility::Immutable) }),
    ]
}

/// `time_bucket('1 minute', start_unix_nano)`: the start of the bucket a time falls into.
#[derive(Debug, PartialEq, Eq, Hash)]
struct TimeBucket {
    signature: Signature,
}

impl ScalarUDFImpl for TimeBucket {
    fn name(&self) -> &'static str {
        "time_bucket"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments {
            [DataType::Utf8 | DataType::Utf8View | DataType::Interval(_), time] => match time {
                DataType::Int64 | DataType::Null => Ok(DataType::Int64),
                DataType::Timestamp(_, zone) => Ok(DataType::Timestamp(TimeUnit::Nanosecond, zone.clone())),
                DataType::Date32 => Ok(DataType::Timestamp(TimeUnit::Nanosecond, None)),
                _ => plan_err!("time_bucket takes a time in nanoseconds or a timestamp, not {time}"),
            },
            _ => plan_err!("time_bucket('1 minute', start_unix_nano) takes a width and a time, not {arguments:?}"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [width, times] = args.args.as_slice() else { return plan_err!("time_bucket takes two arguments") };
        let ColumnarValue::Scalar(width) = width else {
            return plan_err!("the width of time_bucket must be a literal");
        };
        let Some(width) = width_of(width) else {
            return plan_err!(
                "the width of time_bucket is {width}, which is not a number and a unit: '10 seconds', '5m', '1 week'"
            );
        };
        let starts = starts(&times.to_array(args.number_rows)?, width, args.return_type())?;
        Ok(ColumnarValue::Array(starts))
    }
}

/// The starts of buckets, in the type that is asked for.
fn starts(times: &ArrayRef, width: i64, as_type: &DataType) -> Result<ArrayRef> {
    let nanos = cast(&cast(times, as_type)?, &DataType::Int64)?;
    let origin = if width % WEEK_NS == 0 { FIRST_MONDAY_NS } else { 0 };
    let start = |time: i64| {
        let before = time.saturating_sub(origin).rem_euclid(width);
        time.saturating_sub(before)
    };
    let starts: Int64Array = nanos.as_primitive::<Int64Type>().unary(start);
    Ok(cast(&(Arc::new(starts) as ArrayRef), as_type)?)
}

/// A text or an interval of days and less, in nanoseconds.
fn width_of(width: &ScalarValue) -> Option<i64> {
    let nanos = match width {
        ScalarValue::IntervalMonthDayNano(Some(interval)) if interval.months == 0 => {
            DAY_NS.checked_mul(i64::from(interval.days))?.checked_add(interval.nanoseconds)?
        }
        ScalarValue::IntervalDayTime(Some(interval)) => {
            DAY_NS.checked_mul(i64::from(interval.days))?.checked_add(i64::from(interval.milliseconds) * 1_000_000)?
        }
        text => width_ns(text.try_as_str()??)?,
    };
    (nanos > 0).then_some(nanos)
}

fn width_ns(text: &str) -> Option<i64> {
    let text = text.trim();
    let (count, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let unit_ns = match unit.trim().to_ascii_lowercase().as_str() {
        "ms" | "msec" | "millisecond" | "milliseconds" => 1_000_000,
        "s" | "sec" | "secs" | "second" | "seconds" => 1_000_000_000,
        "m" | "min" | "mins" | "minute" | "minutes" => 60_000_000_000,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3_600_000_000_000,
        "d" | "day" | "days" => DAY_NS,
        "w" | "week" | "weeks" => WEEK_NS,
        _ => return None,
    };
    count.parse::<i64>().ok()?.checked_mul(unit_ns)
}

/// `ts(start_unix_nano)`: a time people read and functions of timestamps take.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Ts {
    signature: Signature,
}

impl ScalarUDFImpl for Ts {
    fn name(&self) -> &'static str {
        "ts"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Timestamp(TimeUnit::Nanosecond, None))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [times] = args.args.as_slice() else { return plan_err!("ts takes one argument") };
        times.cast_to(args.return_type(), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_read_or_refused() {
        let minute = Some(60_000_000_000);
        let cases = [
            ("1 minute", minute),
            ("1 min", minute),
            ("1m", minute),
            (" 60 s ", minute),
            ("10 seconds", Some(10_000_000_000)),
            ("500ms", Some(500_000_000)),
            ("2 Hours", Some(7_200_000_000_000)),
            ("1 week", Some(WEEK_NS)),
            ("0 seconds", None),
            ("-1 minute", None),
            ("1 eon", None),
            ("1", None),
            ("m", None),
            ("99999999999999 weeks", None),
        ];
        for (text, width) in cases {
            assert_eq!(width_of(&ScalarValue::from(text)), width, "{text}");
        }
        let interval = ScalarValue::new_interval_mdn(0, 1, 1);
        assert_eq!(width_of(&interval), Some(DAY_NS + 1));
        assert_eq!(width_of(&ScalarValue::new_interval_mdn(1, 0, 0)), None, "months differ");
    }

    #[test]
    fn buckets_begin_at_their_width_and_weeks_on_monday() {
        let at = |nanos: i64, width: i64| {
            let times = Arc::new(Int64Array::from(vec![nanos])) as ArrayRef;
            starts(&times, width, &DataType::Int64).unwrap().as_primitive::<Int64Type>().value(0)
        };
        assert_eq!(at(61, 60), 60);
        assert_eq!(at(-1, 60), -60);
        // 2026-11-26 is a Thursday, its week began on the 23rd
        assert_eq!(at(1_795_651_200_000_000_000, WEEK_NS), 1_795_392_000_000_000_000);
    }
}
