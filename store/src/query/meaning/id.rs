//! Ids beside texts: `id(text)` makes an id of its hex digits, `hex(id)` is the way back.

use std::sync::{Arc, LazyLock};

use arrow::{
    array::{Array, AsArray, BinaryArray},
    compute::cast as cast_array,
    datatypes::DataType,
};
use datafusion::{
    common::{DFSchema, Result, ScalarValue, exec_datafusion_err, plan_datafusion_err, plan_err},
    logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, lit},
};

use super::{
    super::functions::hex_of,
    compared::{Kind, kind},
};

/// Functions of text, given an id, are given its hex digits.
pub(super) const TAKE_TEXT: [&str; 16] = [
    "lower",
    "upper",
    "substr",
    "left",
    "right",
    "starts_with",
    "ends_with",
    "contains",
    "strpos",
    "replace",
    "concat",
    "concat_ws",
    "split_part",
    "regexp_like",
    "regexp_match",
    "regexp_replace",
];

static ID: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| Arc::new(function()));

pub(super) fn function() -> ScalarUDF {
    ScalarUDF::new_from_impl(Id { signature: Signature::any(1, Volatility::Immutable) })
}

/// A text that is compared with an id, as an id.
pub(super) fn of_text(text: &Expr, compared_with: &Expr) -> Result<Expr> {
    let Expr::Literal(value, _) = text else { return Ok(ID.call(vec![text.clone()])) };
    let Some(digits) = value.try_as_str().flatten() else { return Ok(lit(ScalarValue::Binary(None))) };
    let bytes = bytes_of(digits).ok_or_else(|| {
        plan_datafusion_err!(
            "{compared_with} is compared with {digits:?}, which is not hex: an id is an even number of hex digits"
        )
    })?;
    Ok(lit(ScalarValue::Binary(Some(bytes))))
}

/// An id as text; anything else as it is.
pub(super) fn shown(expr: Expr, schema: &DFSchema) -> Expr {
    if kind(&expr, schema) == Some(Kind::Id) { hex_of(expr) } else { expr }
}

/// A cast of an id to text or back: the engine's own casts its bytes.
pub(super) fn cast(expr: &Expr, to: &DataType, schema: &DFSchema) -> Option<Expr> {
    match (kind(expr, schema)?, Kind::of(to)?) {
        (Kind::Id, Kind::Text) => Some(hex_of(expr.clone())),
        (Kind::Text, Kind::Id) => {
            let Expr::Literal(value, _) = expr else { return None };
            let digits = value.try_as_str().flatten()?;
            let looks_like_an_id = digits.starts_with("\\x") || matches!(digits.len(), 16 | 32);
            let bytes = bytes_of(digits).filter(|_| looks_like_an_id)?;
            Some(lit(ScalarValue::Binary(Some(bytes))))
        }
        _ => None,
    }
}

/// Digits as people and PostgreSQL's drivers (`\x0af7`) write them.
fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.strip_prefix("\\x").unwrap_or(digits);
    hex::decode(digits).ok().filter(|bytes| !bytes.is_empty())
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Id {
    signature: Signature,
}

impl ScalarUDFImpl for Id {
    fn name(&self) -> &'static str {
        "id"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments {
            [text] if text.is_string() || text.is_null() => Ok(DataType::Binary),
            _ => plan_err!("id(text) takes the hex digits of an id, not {arguments:?}"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [texts] = args.args.as_slice() else { return plan_err!("id takes one argument") };
        let texts = cast_array(&texts.to_array(args.number_rows)?, &DataType::Utf8)?;
        let ids = texts.as_string::<i32>().iter().map(|text| text.map(id_of).transpose());
        let ids: BinaryArray = ids.collect::<Result<Vec<_>>>()?.into_iter().collect();
        debug_assert_eq!(ids.len(), texts.len());
        Ok(ColumnarValue::Array(Arc::new(ids)))
    }
}

fn id_of(text: &str) -> Result<Vec<u8>> {
    bytes_of(text).ok_or_else(|| {
        exec_datafusion_err!(
            "{text:?} is compared with an id and is not hex: where not all texts are ids, compare with hex(id)"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_an_id_or_nothing() {
        let cases: [(&str, Option<&[u8]>); 6] = [
            ("0aFf", Some(&[10, 255])),
            ("\\x0a", Some(&[10])),
            ("", None),
            ("\\x", None),
            ("0af", None),
            ("xy", None),
        ];
        for (digits, id) in cases {
            assert_eq!(bytes_of(digits).as_deref(), id, "{digits}");
        }
    }
}
