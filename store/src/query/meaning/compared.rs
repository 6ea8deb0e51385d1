//! [`of_one_kind`]: two sides that are compared, brought to one type.
//!
//! | one side | the other | compared as |
//! |---|---|---|
//! | id | text | ids: the text is hex |
//! | `ts(n)` | timestamp, date, text that is a time | nanoseconds: `n` alone |
//! | bigint | timestamp, date, literal that is a time | nanoseconds |
//! | number | text that is no literal | numbers; a text that is none is null |

use arrow::datatypes::DataType;
use datafusion::{
    common::{DFSchema, Result},
    logical_expr::{Cast, Expr, ExprSchemable, TryCast},
};

use super::{id, time};

/// What a value is to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Id,
    Text,
    /// A bigint, which may be a time.
    Long,
    Number,
    /// A timestamp or a date.
    Moment,
}

/// An expression, and its kind where it has one.
pub(super) struct Kinded {
    pub(super) expr: Expr,
    kind: Option<Kind>,
    /// The column of numbers that this shows as text.
    number: Option<Expr>,
}

impl Kinded {
    pub(super) fn of(expr: Expr, schema: &DFSchema) -> Self {
        let number = match &expr {
            Expr::Cast(Cast { expr: inner, .. }) if matches!(inner.as_ref(), Expr::Column(_)) => {
                let kind = kind(inner, schema);
                matches!(kind, Some(Kind::Long | Kind::Number)).then(|| Expr::clone(inner))
            }
            _ => None,
        };
        Self { kind: kind(&expr, schema), expr, number }
    }

    /// A text as the number in it.
    fn as_number(&self) -> Expr {
        let tried = || Expr::TryCast(TryCast::new(self.expr.clone().into(), DataType::Float64));
        self.number.clone().unwrap_or_else(tried)
    }
}

pub(super) fn kind(expr: &Expr, schema: &DFSchema) -> Option<Kind> {
    Kind::of(&expr.get_type(schema).ok()?)
}

impl Kind {
    pub(super) fn of(data_type: &DataType) -> Option<Self> {
        match data_type {
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                Some(Self::Id)
            }
            DataType::Int64 => Some(Self::Long),
            DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => Some(Self::Moment),
            text if text.is_string() => Some(Self::Text),
            number if number.is_numeric() => Some(Self::Number),
            _ => None,
        }
    }
}

/// Both sides of a comparison, as they can be compared.
pub(super) fn of_one_kind(left: Kinded, right: Kinded) -> Result<(Expr, Expr)> {
    if let Some(pair) = fitted(&left, &right)? {
        return Ok(pair);
    }
    match fitted(&right, &left)? {
        Some((right, left)) => Ok((left, right)),
        None => Ok((left.expr, right.expr)),
    }
}

/// One side and all that it is compared with. Where one of them asks for another form of it than the
/// rest, all stay as they are.
pub(super) fn all_of_one_kind(of: Expr, with: Vec<Expr>, schema: &DFSchema) -> Result<(Expr, Vec<Expr>)> {
    let pair = |one: &Expr| of_one_kind(Kinded::of(of.clone(), schema), Kinded::of(one.clone(), schema));
    let (forms, fitting): (Vec<Expr>, Vec<Expr>) =
        with.iter().map(pair).collect::<Result<Vec<_>>>()?.into_iter().unzip();
    Ok(match forms.first() {
        Some(form) if forms.iter().all(|other| other == form) => (form.clone(), fitting),
        _ => (of, with),
    })
}

/// `of` and what it is compared `with`, where this pair has to change, seen from `of`.
fn fitted(of: &Kinded, with: &Kinded) -> Result<Option<(Expr, Expr)>> {
    let (Some(kind), Some(other)) = (of.kind, with.kind) else { return Ok(None) };
    let (of, text, with) = (&of.expr, with, &with.expr);
    let literal = matches!(with, Expr::Literal(..));
    Ok(match (kind, other) {
        (Kind::Id, Kind::Text) => Some((of.clone(), id::of_text(with, of)?)),
        (Kind::Moment, Kind::Moment | Kind::Text) => match time::inside_ts(of) {
            Some(nanos) => Some((nanos.clone(), time::nanos(with, of)?)),
            None => None,
        },
        (Kind::Long, Kind::Moment) => Some((of.clone(), time::nanos(with, of)?)),
        (Kind::Long, Kind::Text) if time::is_time(of) => Some((of.clone(), time::nanos(with, of)?)),
        (Kind::Long, Kind::Text) if literal => time::literal(with).map(|nanos| (of.clone(), nanos)),
        (Kind::Long | Kind::Number, Kind::Text) if !literal => Some((of.clone(), text.as_number())),
        _ => None,
    })
}
