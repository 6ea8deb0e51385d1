//! Functions people expect beside DataFusion's own: `attr`, `hex`, `id`, `time_bucket`, `ts`, `unix_nano`,
//! `percentile`; and the table that `docs/sql.md` is written from. Those of time are in
//! [`super::time_functions`], the ways back (`id`, `unix_nano`) in [`super::meaning`].

use std::sync::{Arc, LazyLock};

use arrow::{
    array::{Array, ArrayRef, AsArray, MapArray, StringArray, StringViewArray, UInt32Array, new_null_array},
    compute::{cast, take},
    datatypes::DataType,
};
use datafusion::{
    common::{Result, exec_datafusion_err, plan_err},
    functions_aggregate::approx_percentile_cont::approx_percentile_cont_udaf,
    logical_expr::{
        AggregateUDF, ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    },
};

use super::{meaning, time_functions};

static ATTR: LazyLock<Arc<ScalarUDF>> =
    LazyLock::new(|| Arc::new(ScalarUDF::new_from_impl(Attr { signature: Signature::any(2, Volatility::Immutable) })));

static HEX: LazyLock<Arc<ScalarUDF>> =
    LazyLock::new(|| Arc::new(ScalarUDF::new_from_impl(Hex { signature: Signature::any(1, Volatility::Immutable) })));

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
            doc: "the value of an attribute as text, null when it is not there; `attributes['key']` and \
                  `attributes ->> 'key'` are the same. The key may be a parameter or a column. Attributes of spans that have a column of \
                  their own are found there; a map that was selected under another name has left them behind. Beside a number it is compared as a number \
                  (`attributes['shop.items'] > 100`): as a double, and a text that is no number is null. In sums write \
                  `TRY_CAST(attributes['shop.items'] AS DOUBLE)`",
            example: "SELECT attr(resource_attributes, 'host.name') AS host, count(*) FROM spans GROUP BY host",
        },
        FunctionDoc {
            name: "hex",
            signature: "hex(id) -> text",
            doc: "an id in lower-case hex digits",
            example: "SELECT hex(trace_id), operation FROM spans LIMIT 10",
        },
        FunctionDoc {
            name: "id",
            signature: "id(text) -> id",
            doc: "the id that these hex digits are, the way back from `hex`. A text beside an id is taken so without it; \
                  one that is not hex is an error: where texts may be anything, compare them with `hex(id)`",
            example: "SELECT count(*) FROM spans WHERE trace_id = id('4bf92f3577b34da6a3ce929d0e0e4736')",
        },
        FunctionDoc {
            name: "time_bucket",
            signature: "time_bucket('1 minute', time) -> time",
            doc: "the start of the bucket that a time falls into, in the form of the time: nanoseconds since 1970 or a \
                  timestamp. The width is a number and a unit (`ms`, `s`, `m` or `min`, `h`, `d`, `w`, or their whole \
                  names: `'10 seconds'`, `'5m'`, `'1 week'`) or an `INTERVAL`; weeks begin on Monday",
            example: "SELECT time_bucket('10 seconds', start_unix_nano) AS t, count(*) FROM spans GROUP BY t ORDER BY t",
        },
        FunctionDoc {
            name: "ts",
            signature: "ts(time) -> timestamp",
            doc: "a time in nanoseconds since 1970 as a timestamp in UTC. A comparison of it with a timestamp or a text \
                  opens no more files than one of the nanoseconds",
            example: "SELECT ts(start_unix_nano), service FROM spans ORDER BY start_unix_nano DESC LIMIT 10",
        },
        FunctionDoc {
            name: "unix_nano",
            signature: "unix_nano(timestamp) -> bigint",
            doc: "a timestamp, a date or a text that is one as nanoseconds since 1970, the way back from `ts`. A bigint \
                  beside a timestamp is compared so without it",
            example: "SELECT count(*), unix_nano(now()) AS asked_unix_nano FROM spans",
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
    let of_values = [&ATTR, &HEX].map(|function| function.as_ref().clone());
    of_values.into_iter().chain(time_functions::scalars()).chain(meaning::functions()).collect()
}

/// `attr(map, key)`.
pub(super) fn attr_of(map: Expr, key: Expr) -> Expr {
    ATTR.call(vec![map, key])
}

/// `hex(id)`.
pub(super) fn hex_of(id: Expr) -> Expr {
    HEX.call(vec![id])
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
        let map = map.to_array(args.number_rows)?;
        let map = map.as_any().downcast_ref::<MapArray>().ok_or_else(|| exec_datafusion_err!("attr needs a map"))?;
        let key = match key {
            ColumnarValue::Scalar(key) => key,
            ColumnarValue::Array(keys) => return Ok(ColumnarValue::Array(lookup_each(map, keys)?)),
        };
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

/// The values of a key of each row's own.
fn lookup_each(map: &MapArray, keys: &ArrayRef) -> Result<ArrayRef> {
    let (keys, have) = (cast(keys, &DataType::Utf8)?, cast(map.keys(), &DataType::Utf8)?);
    let (keys, have) = (keys.as_string::<i32>(), have.as_string::<i32>());
    let offsets = map.value_offsets();
    let place = |row: usize| {
        if map.is_null(row) || keys.is_null(row) {
            return None;
        }
        (offsets[row] as usize..offsets[row + 1] as usize).find(|at| have.value(*at) == keys.value(row))
    };
    let places: UInt32Array = (0..map.len()).map(|row| place(row).map(|at| at as u32)).collect();
    Ok(take(map.values(), &places, None)?)
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
            [DataType::Binary | DataType::BinaryView | DataType::LargeBinary | DataType::Null] => Ok(DataType::Utf8),
            _ => plan_err!("hex(id) takes an id, not {arguments:?}"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [ids] = args.args.as_slice() else { return plan_err!("hex takes one argument") };
        let ids = cast(&ids.to_array(args.number_rows)?, &DataType::Binary)?;
        let text: StringArray = ids.as_binary::<i32>().iter().map(|id| id.map(hex::encode)).collect();
        Ok(ColumnarValue::Array(Arc::new(text)))
    }
}
