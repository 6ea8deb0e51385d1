//! Values as clients of PostgreSQL send them, as text or in the binary form of their type. Drivers name
//! the type: a time of Python comes as `timestamptz`, a list as `text[]`.

use datafusion::{arrow::datatypes::DataType, common::ScalarValue};
use datafusion_postgres::pgwire::api::Type;

use crate::query::nanos_of_text;

/// Digits that a decimal has at most.
pub(super) const MAX_DIGITS: u8 = 38;

const DAY_NS: i64 = 86_400_000_000_000;

/// PostgreSQL counts from the year 2000.
const DAYS_TO_2000: i32 = 10_957;

const MICROS_TO_2000: i64 = DAYS_TO_2000 as i64 * 86_400_000_000;

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    Binary,
}

/// Arrays, and the type of their elements.
static ARRAYS: [(Type, Type); 12] = [
    (Type::TEXT_ARRAY, Type::TEXT),
    (Type::VARCHAR_ARRAY, Type::TEXT),
    (Type::BPCHAR_ARRAY, Type::TEXT),
    (Type::BOOL_ARRAY, Type::BOOL),
    (Type::INT2_ARRAY, Type::INT2),
    (Type::INT4_ARRAY, Type::INT4),
    (Type::INT8_ARRAY, Type::INT8),
    (Type::FLOAT4_ARRAY, Type::FLOAT4),
    (Type::FLOAT8_ARRAY, Type::FLOAT8),
    (Type::TIMESTAMP_ARRAY, Type::TIMESTAMP),
    (Type::TIMESTAMPTZ_ARRAY, Type::TIMESTAMPTZ),
    (Type::DATE_ARRAY, Type::DATE),
];

/// Whether values of a type can be read.
pub(super) fn is_read(wire: &Type) -> bool {
    element_of(wire).is_some() || type_of(wire).is_some()
}

/// A value; null when nothing was sent. The error says what is wrong with it.
pub(super) fn read(wire: &Type, bytes: Option<&[u8]>, form: Form) -> Result<ScalarValue, String> {
    if let Some(element) = element_of(wire) {
        let data_type = type_of(element).ok_or("an array of an unknown type")?;
        let Some(bytes) = bytes else { return Ok(ScalarValue::new_null_list(data_type, true, 1)) };
        let elements = match form {
            Form::Text => elements_of_text(element, utf8(bytes)?)?,
            Form::Binary => elements_of_bytes(element, bytes)?,
        };
        return Ok(ScalarValue::List(ScalarValue::new_list_nullable(&elements, &data_type)));
    }
    match (bytes, form) {
        (None, _) => {
            let data_type = type_of(wire).ok_or("a type that is not known")?;
            ScalarValue::try_from(&data_type).map_err(|error| error.strip_backtrace())
        }
        (Some(bytes), Form::Text) => of_text(wire, utf8(bytes)?),
        (Some(bytes), Form::Binary) => of_bytes(wire, bytes),
    }
}

fn element_of(wire: &Type) -> Option<&'static Type> {
    ARRAYS.iter().find(|(array, _)| array == wire).map(|(_, element)| element)
}

fn type_of(wire: &Type) -> Option<DataType> {
    use datafusion::arrow::datatypes::TimeUnit::Nanosecond;
    Some(match *wire {
        Type::BOOL => DataType::Boolean,
        Type::INT2 => DataType::Int16,
        Type::INT4 => DataType::Int32,
        Type::INT8 => DataType::Int64,
        Type::FLOAT4 => DataType::Float32,
        Type::FLOAT8 => DataType::Float64,
        Type::NUMERIC => DataType::Decimal128(MAX_DIGITS, 0),
        Type::TIMESTAMP => DataType::Timestamp(Nanosecond, None),
        Type::TIMESTAMPTZ => DataType::Timestamp(Nanosecond, Some("+00:00".into())),
        Type::DATE => DataType::Date32,
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN => DataType::Utf8,
        _ => return None,
    })
}

fn utf8(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

fn of_text(wire: &Type, text: &str) -> Result<ScalarValue, String> {
    let time = || nanos_of_text(text).ok_or_else(|| format!("{text:?} is not a time"));
    match *wire {
        Type::TIMESTAMP | Type::TIMESTAMPTZ => Ok(timestamp(wire, time()?)),
        Type::DATE => Ok(ScalarValue::Date32(i32::try_from(time()?.div_euclid(DAY_NS)).ok())),
        Type::NUMERIC => decimal(text),
        _ => {
            let data_type = type_of(wire).ok_or("a type that is not known")?;
            ScalarValue::from(text).cast_to(&data_type).map_err(|_| format!("{text:?} is not of type {wire}"))
        }
    }
}

fn of_bytes(wire: &Type, bytes: &[u8]) -> Result<ScalarValue, String> {
    Ok(match *wire {
        Type::BOOL => ScalarValue::Boolean(Some(whole::<1>(bytes)? != [0])),
        Type::INT2 => ScalarValue::Int16(Some(i16::from_be_bytes(whole(bytes)?))),
        Type::INT4 => ScalarValue::Int32(Some(i32::from_be_bytes(whole(bytes)?))),
        Type::INT8 => ScalarValue::Int64(Some(i64::from_be_bytes(whole(bytes)?))),
        Type::FLOAT4 => ScalarValue::Float32(Some(f32::from_be_bytes(whole(bytes)?))),
        Type::FLOAT8 => ScalarValue::Float64(Some(f64::from_be_bytes(whole(bytes)?))),
        Type::TIMESTAMP | Type::TIMESTAMPTZ => {
            // infinity is the largest number, and stays it
            let micros = i64::from_be_bytes(whole(bytes)?).saturating_add(MICROS_TO_2000);
            timestamp(wire, micros.saturating_mul(1_000))
        }
        Type::DATE => ScalarValue::Date32(Some(i32::from_be_bytes(whole(bytes)?).saturating_add(DAYS_TO_2000))),
        Type::NUMERIC => decimal(&digits(bytes)?)?,
        _ => return of_text(wire, utf8(bytes)?),
    })
}

fn timestamp(wire: &Type, nanos: i64) -> ScalarValue {
    ScalarValue::TimestampNanosecond(Some(nanos), (*wire == Type::TIMESTAMPTZ).then(|| "+00:00".into()))
}

fn whole<const N: usize>(bytes: &[u8]) -> Result<[u8; N], String> {
    bytes.try_into().map_err(|_| format!("{} bytes were sent, not {N}", bytes.len()))
}

/// Digits with a fraction; a double where they are too many, or are none.
fn decimal(text: &str) -> Result<ScalarValue, String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let scale = i8::try_from(fraction.len()).ok().filter(|scale| u8::try_from(*scale).is_ok_and(|it| it <= MAX_DIGITS));
    let digits = format!("{whole}{fraction}").parse::<i128>().ok();
    let digits = digits.filter(|digits| digits.unsigned_abs() < 10_u128.pow(MAX_DIGITS.into()));
    match (digits, scale) {
        (Some(digits), Some(scale)) => Ok(ScalarValue::Decimal128(Some(digits), MAX_DIGITS, scale)),
        _ => text.parse().map(|it| ScalarValue::Float64(Some(it))).map_err(|_| format!("{text:?} is not a number")),
    }
}

/// A numeric as text: a head of four 16-bit numbers, then digits to the base 10,000.
fn digits(bytes: &[u8]) -> Result<String, String> {
    let words: Vec<u16> = bytes.chunks_exact(2).map(|word| u16::from_be_bytes([word[0], word[1]])).collect();
    let [_, weight, sign, scale, rest @ ..] = words.as_slice() else { return Err("a numeric is cut short".to_owned()) };
    match sign {
        0xC000 => return Ok("NaN".to_owned()),
        0xD000 => return Ok("inf".to_owned()),
        0xF000 => return Ok("-inf".to_owned()),
        _ => {}
    }
    let (weight, scale) = (i32::from(*weight as i16), usize::from(*scale));
    let at = |place: i32| {
        let index = usize::try_from(weight - place).ok();
        index.and_then(|index| rest.get(index)).map_or_else(|| "0000".to_owned(), |digit| format!("{digit:04}"))
    };
    let whole: String = (0..=weight.max(0)).rev().map(at).collect();
    let groups = i32::try_from(scale.div_ceil(4)).unwrap_or(0);
    let fraction: String = (1..=groups).map(|place| at(-place)).collect();
    let fraction = fraction.get(..scale).unwrap_or_default();
    let sign = if *sign == 0x4000 { "-" } else { "" };
    Ok(if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") })
}

/// A head (dimensions, nulls, type; length and first index of the only dimension), then each element
/// after its length.
fn elements_of_bytes(element: &Type, bytes: &[u8]) -> Result<Vec<ScalarValue>, String> {
    let (dimensions, rest) = word(bytes)?;
    if dimensions == 0 {
        return Ok(Vec::new());
    }
    if dimensions != 1 {
        return Err("an array of arrays is not taken".to_owned());
    }
    let (_nulls, rest) = word(rest)?;
    let (_type, rest) = word(rest)?;
    let (count, rest) = word(rest)?;
    let (_first, mut rest) = word(rest)?;
    let mut elements = Vec::new();
    for _ in 0..count {
        let (length, after) = word(rest)?;
        // less than none is null
        let length = usize::try_from(length).ok();
        let (value, after) = after.split_at_checked(length.unwrap_or(0)).ok_or("an array is cut short")?;
        elements.push(read(element, length.map(|_| value), Form::Binary)?);
        rest = after;
    }
    Ok(elements)
}

fn word(bytes: &[u8]) -> Result<(i32, &[u8]), String> {
    let (word, rest) = bytes.split_first_chunk::<4>().ok_or("an array is cut short")?;
    Ok((i32::from_be_bytes(*word), rest))
}

/// `{a,"b, c",NULL}`.
fn elements_of_text(element: &Type, text: &str) -> Result<Vec<ScalarValue>, String> {
    let inside = text.trim().strip_prefix('{').and_then(|text| text.strip_suffix('}'));
    let inside = inside.ok_or_else(|| format!("{text:?} is not an array such as {{a,b}}"))?;
    let (mut elements, mut chars) = (Vec::new(), inside.chars().peekable());
    while chars.peek().is_some() {
        let (mut value, mut quoted, mut open) = (String::new(), false, false);
        while let Some(next) = chars.next() {
            match next {
                '"' => (quoted, open) = (true, !open),
                '\\' => value.extend(chars.next()),
                ',' if !open => break,
                '{' | '}' if !open => return Err("an array of arrays is not taken".to_owned()),
                other => value.push(other),
            }
        }
        let null = !quoted && value.eq_ignore_ascii_case("null");
        elements.push(read(element, (!null).then_some(value.as_bytes()), Form::Text)?);
    }
    Ok(elements)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-26, midnight.
    const DAY: i64 = 1_795_651_200;

    #[test]
    fn values_are_read_from_text_and_from_bytes() {
        let micros = (DAY * 1_000_000 - MICROS_TO_2000).to_be_bytes();
        let days = ((DAY / 86_400) as i32 - DAYS_TO_2000).to_be_bytes();
        // 12345.67 and -0.005: groups of four digits
        let numeric = [0, 3, 0, 1, 0, 0, 0, 2, 0, 1, 9, 41, 26, 44];
        let small = [0, 1, 255, 255, 64, 0, 0, 3, 0, 50];
        let at = |zone: Option<&str>| ScalarValue::TimestampNanosecond(Some(DAY * 1_000_000_000), zone.map(Into::into));
        let decimal = |digits, scale| ScalarValue::Decimal128(Some(digits), MAX_DIGITS, scale);
        let cases: [(Type, Form, &[u8], ScalarValue); 12] = [
            (Type::TIMESTAMP, Form::Binary, &micros, at(None)),
            (Type::TIMESTAMPTZ, Form::Text, b"2026-11-26 01:00:00+01", at(Some("+00:00"))),
            (Type::DATE, Form::Binary, &days, ScalarValue::Date32(Some((DAY / 86_400) as i32))),
            (Type::DATE, Form::Text, b"2026-11-26", ScalarValue::Date32(Some((DAY / 86_400) as i32))),
            (Type::NUMERIC, Form::Binary, &numeric, decimal(1_234_567, 2)),
            (Type::NUMERIC, Form::Binary, &small, decimal(-5, 3)),
            (Type::NUMERIC, Form::Text, b"-0.50", decimal(-50, 2)),
            (Type::NUMERIC, Form::Text, b"1E+2", ScalarValue::Float64(Some(100.0))),
            (Type::INT4, Form::Text, b"-7", ScalarValue::Int32(Some(-7))),
            (Type::INT8, Form::Binary, &[255; 8], ScalarValue::Int64(Some(-1))),
            (Type::BOOL, Form::Text, b"t", ScalarValue::Boolean(Some(true))),
            (Type::TEXT, Form::Binary, b"cart", ScalarValue::from("cart")),
        ];
        for (wire, form, bytes, value) in cases {
            assert_eq!(read(&wire, Some(bytes), form), Ok(value), "{wire} {form:?} {bytes:?}");
        }
        for (wire, form, bytes) in [
            (Type::TIMESTAMP, Form::Binary, &[1, 2][..]),
            (Type::TIMESTAMPTZ, Form::Text, b"noon"),
            (Type::NUMERIC, Form::Text, b"many"),
            (Type::INT4_ARRAY, Form::Text, b"{{1},{2}}"),
            (Type::TEXT_ARRAY, Form::Binary, &[0, 0, 0, 1]),
        ] {
            assert!(read(&wire, Some(bytes), form).is_err(), "{wire} {form:?} {bytes:?}");
        }
    }

    #[test]
    fn arrays_keep_their_elements_and_nulls() {
        let texts = |values: &[Option<&str>]| {
            let values: Vec<_> = values.iter().map(|it| ScalarValue::Utf8(it.map(str::to_owned))).collect();
            ScalarValue::List(ScalarValue::new_list_nullable(&values, &DataType::Utf8))
        };
        let in_bytes =
            [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 25, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 97, 255, 255, 255, 255];
        let cases: [(&[u8], Form, ScalarValue); 4] = [
            (br#"{a,"b, \"c\"",NULL,"null"}"#, Form::Text, texts(&[Some("a"), Some("b, \"c\""), None, Some("null")])),
            (b"{}", Form::Text, texts(&[])),
            (&in_bytes, Form::Binary, texts(&[Some("a"), None])),
            (&[0; 12], Form::Binary, texts(&[])),
        ];
        for (bytes, form, list) in cases {
            assert_eq!(read(&Type::TEXT_ARRAY, Some(bytes), form), Ok(list), "{bytes:?}");
        }
    }
}
