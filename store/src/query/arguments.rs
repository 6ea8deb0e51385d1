//! [`Arguments`]: how large the arguments of a call are, before it is made.

use arrow::{
    array::{Array, AsArray},
    compute::{cast, max},
    datatypes::{DataType, Int64Type},
};
use datafusion::{common::Result, logical_expr::ColumnarValue};

use super::pattern;

/// The arguments of a call over one batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Arguments {
    /// Rows that the call makes: one when all arguments are constants.
    pub(super) rows: usize,
    /// How many arguments there are.
    pub(super) count: usize,
    /// Bytes of all arguments in all rows.
    pub(super) bytes: usize,
    /// The first three.
    pub(super) of: [Argument; 3],
    /// The largest whole number among all.
    pub(super) number: usize,
    /// Groups that the second argument has at most, taken for a regular expression.
    pub(super) groups: usize,
    /// Its places, parts that are repeated counted as often.
    pub(super) places: usize,
}

/// One of the arguments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Argument {
    /// Its bytes in all rows.
    pub(super) bytes: usize,
    /// The most that a row of it has.
    pub(super) longest: usize,
}

impl Arguments {
    pub(super) fn of(arguments: &[ColumnarValue], rows: usize) -> Result<Self> {
        let constant = arguments.iter().all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
        let mut given = Self { rows: if constant { 1 } else { rows }, count: arguments.len(), ..Self::default() };
        for (place, argument) in arguments.iter().enumerate() {
            let array = argument.to_array(1)?;
            let times = if matches!(argument, ColumnarValue::Scalar(_)) { given.rows } else { 1 };
            let size = Argument { bytes: bytes(&array).saturating_mul(times), longest: longest(&array) };
            given.bytes = given.bytes.saturating_add(size.bytes);
            if let Some(slot) = given.of.get_mut(place) {
                *slot = size;
            }
            given.number = given.number.max(number(&array)?);
            if place == 1 {
                given.groups = groups(argument, size.longest);
                given.places = places(argument)?;
            }
        }
        Ok(given)
    }
}

/// Bytes of the values in all rows, with what says where each begins.
fn bytes(array: &dyn Array) -> usize {
    let rows = array.len();
    match array.data_type() {
        DataType::Utf8 => between(array.as_string::<i32>().value_offsets()) + 4 * rows,
        DataType::LargeUtf8 => between(array.as_string::<i64>().value_offsets()) + 8 * rows,
        DataType::Binary => between(array.as_binary::<i32>().value_offsets()) + 4 * rows,
        DataType::LargeBinary => between(array.as_binary::<i64>().value_offsets()) + 8 * rows,
        DataType::Utf8View => array.as_string_view().lengths().map(|length| length as usize + 16).sum(),
        DataType::BinaryView => array.as_binary_view().lengths().map(|length| length as usize + 16).sum(),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            within(list.values(), list.value_offsets()) + 4 * rows
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            within(list.values(), list.value_offsets()) + 8 * rows
        }
        DataType::Map(..) => {
            let map = array.as_map();
            within(map.entries(), map.value_offsets()) + 4 * rows
        }
        DataType::Struct(_) => array.as_struct().columns().iter().map(|column| bytes(column)).sum(),
        other => match other.primitive_width() {
            Some(width) => width * rows,
            None => array.get_array_memory_size(),
        },
    }
}

/// What rows with these offsets take of their items.
fn within<O: Copy + TryInto<usize>>(items: &dyn Array, offsets: &[O]) -> usize {
    let (first, length) = (offsets.first().map_or(0, place), between(offsets));
    bytes(&items.slice(first, length))
}

fn between<O: Copy + TryInto<usize>>(offsets: &[O]) -> usize {
    offsets.last().map_or(0, place) - offsets.first().map_or(0, place)
}

fn place<O: Copy + TryInto<usize>>(offset: &O) -> usize {
    // offsets are not negative
    (*offset).try_into().unwrap_or(0)
}

/// The most bytes that one row takes; of what is neither text nor list, what all take.
fn longest(array: &dyn Array) -> usize {
    let of_offsets = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0);
    match array.data_type() {
        DataType::Utf8 => of_offsets(&mut array.as_string::<i32>().value_offsets().windows(2).map(between)),
        DataType::LargeUtf8 => of_offsets(&mut array.as_string::<i64>().value_offsets().windows(2).map(between)),
        DataType::Utf8View => of_offsets(&mut array.as_string_view().lengths().map(|length| length as usize)),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            of_offsets(&mut list.value_offsets().windows(2).map(|row| within(list.values(), row)))
        }
        other => other.primitive_width().unwrap_or_else(|| bytes(array)),
    }
}

fn number(array: &dyn Array) -> Result<usize> {
    if !array.data_type().is_integer() {
        return Ok(0);
    }
    let numbers = cast(array, &DataType::Int64)?;
    let largest = max(numbers.as_primitive::<Int64Type>()).unwrap_or(0);
    Ok(usize::try_from(largest).unwrap_or(0))
}

fn groups(argument: &ColumnarValue, longest: usize) -> usize {
    match argument {
        ColumnarValue::Scalar(pattern) => {
            pattern.try_as_str().flatten().map_or(0, |pattern| pattern.matches('(').count())
        }
        ColumnarValue::Array(_) => longest / 2,
    }
}

fn places(argument: &ColumnarValue) -> Result<usize> {
    let patterns = argument.to_array(1)?;
    if !matches!(patterns.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) {
        return Ok(0);
    }
    let patterns = cast(&patterns, &DataType::Utf8)?;
    Ok(patterns.as_string::<i32>().iter().flatten().map(pattern::places).max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{ArrayRef, Int64Array, ListArray, StringArray, StringViewArray},
        datatypes::Int32Type,
    };
    use datafusion::common::ScalarValue;

    use super::*;

    fn column(array: impl Array + 'static) -> ColumnarValue {
        ColumnarValue::Array(Arc::new(array) as ArrayRef)
    }

    fn text(value: &str) -> ColumnarValue {
        ColumnarValue::Scalar(ScalarValue::from(value))
    }

    #[test]
    fn arguments_are_measured_over_all_rows() {
        let texts = StringArray::from(vec!["a", "bcd", ""]);
        let given = Arguments::of(&[column(texts.clone()), text("(x)(y)")], 3).unwrap();
        assert_eq!((given.rows, given.count, given.groups), (3, 2, 2));
        assert_eq!(given.of[0], Argument { bytes: 4 + 3 * 4, longest: 3 });
        assert_eq!(given.of[1].bytes, 3 * (6 + 4));
        let part = Arguments::of(&[column(texts.slice(1, 1))], 1).unwrap();
        assert_eq!(part.bytes, 3 + 4, "of a slice its own rows");
        let views =
            Arguments::of(&[column(StringViewArray::from(vec!["a", "bcd"])), column(Int64Array::from(vec![-1, 7]))], 2);
        let views = views.unwrap();
        assert_eq!((views.of[0].longest, views.number, views.of[1].bytes), (3, 7, 16));
        let constants = Arguments::of(&[text("ab"), ColumnarValue::Scalar(ScalarValue::from(9_i64))], 8_192).unwrap();
        assert_eq!((constants.rows, constants.number), (1, 9));
        let lists =
            ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), Some(2)]), Some(vec![Some(3)])]);
        assert_eq!(Arguments::of(&[column(lists.slice(1, 1))], 1).unwrap().bytes, 4 + 4);
    }
}
