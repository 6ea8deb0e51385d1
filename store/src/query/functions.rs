//! Functions people expect beside DataFusion's own: `attr`, `hex`, `time_bucket`, `ts`, `percentile`;
//! and the table that `docs/sql.md` is written from.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BinaryArray, Int64Array, MapArray, StringArray, StringViewArray, UInt32Array,
        new_null_array,
    },
    compute::take,
    datatypes::{DataType, Int64Type, TimeUnit},
};
use datafusion::{
    common::{Result, exec_datafusion_err, plan_err},
    functions_aggregate::approx_percentile_cont::approx_percentile_cont_udaf,
    logical_expr::{AggregateUDF, ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility},
};

/// A function as the documentation lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionDoc {
    /// The name in SQL.
    pub name: &'static str,
    /// How it is called and what it gives.
    pub signature: &'static str,
    /// What it does, in a sentence.
    pub doc: &'static str,
    /// A statement that runs.
    pub example: &'static str,
}

/// The functions that weir adds to those of DataFusion.
#[must_use]
pub fn functions() -> &'static [FunctionDoc] {
    &[
        FunctionDoc {
            name: "attr",
            signature: "attr(map, 'key') -> text",
            doc: "the value of an attribute as text, null when it is not there; `attributes['key']` is the same and \
                  knows the columns that hot attributes have of their own",
            example: "SELECT attr(resource_attributes, 'host.name') AS host, count(*) FROM spans GROUP BY host",
        },
        FunctionDoc {
            name: "hex",
            signature: "hex(id) -> text",
            doc: "an id in lower-case hex digits",
            example: "SELECT hex(trace_id), operation FROM spans LIMIT 10",
        },
        FunctionDoc {
            name: "time_bucket",
            signature: "time_bucket('1 minute', time) -> bigint",
            doc: "the start of the bucket that a time in nanoseconds falls into; milliseconds to days",
            example: "SELECT time_bucket('10 seconds', start_unix_nano) AS t, count(*) FROM spans GROUP BY t ORDER BY t",
        },
        FunctionDoc {
            name: "ts",
            signature: "ts(time) -> timestamp",
            doc: "a time in nanoseconds since 1970 as a timestamp in UTC",
            example: "SELECT ts(start_unix_nano), service FROM spans ORDER BY start_unix_nano DESC LIMIT 10",
        },
        FunctionDoc {
            name: "percentile",
            signature: "percentile(number, fraction) -> number",
            doc: "an approximate percentile of a group (a t-digest), the fraction between 0 and 1",
            example: "SELECT service, percentile(duration_ns, 0.99) / 1e6 AS duration_ms_p99 FROM spans GROUP BY service",
        },
    ]
}

/// Our scalar functions.
pub(super) fn scalars() -> Vec<ScalarUDF> {
    vec![
        ScalarUDF::new_from_impl(Attr { signature: Signature::any(2, Volatility::Immutable) }),
        ScalarUDF::new_from_impl(Hex { signature: Signature::any(1, Volatility::Immutable) }),
        ScalarUDF::new_from_impl(TimeBucket { signature: Signature::any(2, Volatility::Immutable) }),
        ScalarUDF::new_from_impl(Ts { signature: Signature::exact(vec![DataType::Int64], Volatility::Immutable) }),
    ]
}

/// `percentile(x, 0.99)`: the name people know for `approx_percentile_cont`.
pub(super) fn percentile() -> AggregateUDF {
    approx_percentile_cont_udaf().as_ref().clone().with_aliases(["percentile"])
}

/// `attr(map, 'key')`: the value as text, null when the key is not there.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Attr {
    signature: Signature,
}

impl ScalarUDFImpl for Attr {
    fn name(&self) -> &'static str {
        "attr"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments {
            [DataType::Map(entries, _), DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8] => {
                match entries.data_type() {
                    DataType::Struct(fields) if fields.len() == 2 => Ok(fields[1].data_type().clone()),
                    _ => plan_err!("attr needs a map"),
                }
            }
            _ => plan_err!("attr(map, 'key') takes an attribute map and a key, not {arguments:?}"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [map, key] = args.args.as_slice() else { return plan_err!("attr takes two arguments") };
        let ColumnarValue::Scalar(key) = key else { return plan_err!("the key of attr must be a literal") };
        let map = map.to_array(args.number_rows)?;
        let map = map.as_any().downcast_ref::<MapArray>().ok_or_else(|| exec_datafusion_err!("attr needs a map"))?;
        let Some(key) = key.try_as_str().flatten() else {
            return Ok(ColumnarValue::Array(new_null_array(map.value_type(), map.len())));
        };
        Ok(ColumnarValue::Array(lookup(map, key)?))
    }
}

/// The values of a key: their places are found in one pass over all keys, and nothing but the places
/// is copied where the values are views.
fn lookup(map: &MapArray, key: &str) -> Result<ArrayRef> {
    let places = match map.keys().data_type() {
        DataType::Utf8View => places(map, |keys: &StringViewArray| {
            let views = keys.views();
            let wanted = view_of(key);
            let same = move |at: usize| match wanted {
                Some(wanted) => views[at] == wanted,
                // a long key: a view begins with its length, so most are told apart without a look
                None => views[at] as u32 as usize == key.len() && keys.value(at) == key,
            };
            first_places(map, same)
        }),
        _ => places(map, |keys: &StringArray| first_places(map, |at| keys.value(at) == key)),
    };
    Ok(take(map.values(), &places?, None)?)
}

fn places<K: Array + 'static>(map: &MapArray, find: impl FnOnce(&K) -> UInt32Array) -> Result<UInt32Array> {
    map.keys().as_any().downcast_ref().map(find).ok_or_else(|| exec_datafusion_err!("the keys of attr must be text"))
}

/// Of each row the first entry that fits.
fn first_places(map: &MapArray, fits: impl Fn(usize) -> bool) -> UInt32Array {
    let offsets = map.value_offsets();
    let place = |row: usize| {
        let mut entries = offsets[row] as usize..offsets[row + 1] as usize;
        if map.is_null(row) { None } else { entries.find(|at| fits(*at)) }
    };
    (0..map.len()).map(|row| place(row).map(|at| at as u32)).collect()
}

/// A short text as the whole of its view: equal texts have equal views.
fn view_of(text: &str) -> Option<u128> {
    let one = StringViewArray::from(vec![text]);
    (text.len() <= 12).then(|| one.views()[0])
}

/// `hex(id)`: an id in lower-case hex.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Hex {
    signature: Signature,
}

impl ScalarUDFImpl for Hex {
    fn name(&self) -> &'static str {
        "hex"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments {
            [DataType::Binary] => Ok(DataType::Utf8),
            _ => plan_err!("hex(id) takes an id, not {arguments:?}"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [ids] = args.args.as_slice() else { return plan_err!("hex takes one argument") };
        let ids = ids.to_array(args.number_rows)?;
        let ids = ids.as_any().downcast_ref::<BinaryArray>().ok_or_else(|| exec_datafusion_err!("hex needs an id"))?;
        let text: StringArray = ids.iter().map(|id| id.map(hex::encode)).collect();
        Ok(ColumnarValue::Array(Arc::new(text)))
    }
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
            [DataType::Utf8 | DataType::Utf8View, DataType::Int64] => Ok(DataType::Int64),
            _ => plan_err!("time_bucket('1 minute', start_unix_nano) takes a width and a time, not {arguments:?}"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [width, times] = args.args.as_slice() else { return plan_err!("time_bucket takes two arguments") };
        let ColumnarValue::Scalar(width) = width else {
            return plan_err!("the width of time_bucket must be a literal");
        };
        let width = width.try_as_str().flatten().and_then(width_ns);
        let Some(width) = width else {
            return plan_err!("the width of time_bucket must be such as '10 seconds' or '1 minute'");
        };
        let times = times.to_array(args.number_rows)?;
        let times = times.as_primitive::<Int64Type>();
        let starts: Int64Array = times.unary(|time| time.div_euclid(width).saturating_mul(width));
        Ok(ColumnarValue::Array(Arc::new(starts)))
    }
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

fn width_ns(text: &str) -> Option<i64> {
    let mut parts = text.split_whitespace();
    let (count, unit) = (parts.next()?.parse::<i64>().ok()?, parts.next()?);
    let unit_ns = match unit.trim_end_matches('s') {
        "millisecond" => 1_000_000,
        "second" => 1_000_000_000,
        "minute" => 60_000_000_000,
        "hour" => 3_600_000_000_000,
        "day" => 86_400_000_000_000,
        _ => return None,
    };
    count.checked_mul(unit_ns).filter(|width| *width > 0 && parts.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_read_or_refused() {
        let cases = [
            ("1 minute", Some(60_000_000_000)),
            ("10 seconds", Some(10_000_000_000)),
            ("0 seconds", None),
            ("1 eon", None),
            ("1", None),
        ];
        for (text, width) in cases {
            assert_eq!(width_ns(text), width, "{text}");
        }
    }
}
