//! [`Needs`]: what a row must have for a statement's filters, as far as files can be asked before
//! they are read: a range of the table's time, and values that a bloom filter may exclude.
//!
//! A filter that is not understood here asks for nothing; whatever is pruned, the filter itself is
//! evaluated on the rows that remain.

use datafusion::{
    common::{Column, ScalarValue},
    logical_expr::{Between, BinaryExpr, Expr, Operator, expr::InList},
};
use parquet::{bloom_filter::Sbbf, file::statistics::Statistics};
use weir_schema::Table;

use super::{
    footers::Footer,
    probe::{Probe, ProbeGroup, TRACE_ID},
};

/// What the filters of a scan ask of a row.
#[derive(Debug, PartialEq)]
pub(super) struct Needs {
    time_column: &'static str,
    /// Smallest and largest time.
    time: (i64, i64),
    values: Vec<Need>,
}

/// A leaf column must have one of these values, as Parquet stores them.
#[derive(Clone, Debug, PartialEq)]
struct Need {
    leaf: String,
    any_of: Vec<Vec<u8>>,
}

impl Needs {
    /// What these filters, all of which must hold, ask for.
    pub(super) fn of(table: Table, filters: &[Expr]) -> Self {
        let mut needs = Self { time_column: table.time_column(), time: (i64::MIN, i64::MAX), values: Vec::new() };
        filters.iter().for_each(|filter| needs.add(filter));
        needs
    }

    fn add(&mut self, filter: &Expr) {
        match filter {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
                self.add(left);
                self.add(right);
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (self.is_time(left), self.is_time(right)) {
                (true, false) => self.bound(*op, right),
                (false, true) => op.swap().into_iter().for_each(|op| self.bound(op, left)),
                _ => self.values.extend(values(filter)),
            },
            Expr::Between(Between { expr, negated: false, low, high }) if self.is_time(expr) => {
                self.bound(Operator::GtEq, low);
                self.bound(Operator::LtEq, high);
            }
            _ => self.values.extend(values(filter)),
        }
    }

    fn is_time(&self, expr: &Expr) -> bool {
        matches!(expr, Expr::Column(column) if column.name == self.time_column)
    }

    fn bound(&mut self, op: Operator, literal: &Expr) {
        let Expr::Literal(ScalarValue::Int64(Some(time)), _) = literal else { return };
        let (low, high) = &mut self.time;
        match op {
            Operator::Gt => *low = time.saturating_add(1).max(*low),
            Operator::GtEq => *low = *time.max(low),
            Operator::Lt => *high = time.saturating_sub(1).min(*high),
            Operator::LtEq => *high = *time.min(high),
            Operator::Eq => (*low, *high) = (*time.max(low), *time.min(high)),
            _ => {}
        }
    }

    /// Whether a footer has to be asked.
    pub(super) fn ask_footers(&self) -> bool {
        !self.values.is_empty() || self.time != (i64::MIN, i64::MAX)
    }

    /// Whether rows in this range of time can be wanted.
    pub(super) fn want_time(&self, range: Option<(i64, i64)>) -> bool {
        range.is_none_or(|(least, most)| most >= self.time.0 && least <= self.time.1)
    }

    /// Whether a trace is asked for.
    pub(super) fn ask_for_trace(&self) -> bool {
        self.of_trace().next().is_some()
    }

    fn of_trace(&self) -> impl Iterator<Item = &Need> {
        self.values.iter().filter(|need| need.leaf == TRACE_ID)
    }

    /// Whether a file can have a row of the trace that is asked for.
    pub(super) fn may_be_in(&self, probe: &Probe) -> bool {
        probe.row_groups.iter().any(|ProbeGroup { time_range, traces }| {
            let may_have = |need: &Need| traces.as_ref().is_none_or(|traces| need.may_be_in(traces));
            self.want_time(*time_range) && self.of_trace().all(may_have)
        })
    }

    /// The column of time.
    pub(super) fn time_column(&self) -> &'static str {
        self.time_column
    }

    /// The row groups that can have a row that is wanted.
    pub(super) fn row_groups(&self, footer: &Footer) -> Vec<bool> {
        let time = footer.leaf(self.time_column);
        let asked = self.values.iter().filter_map(|need| Some((footer.leaf(&need.leaf)?, need))).collect::<Vec<_>>();
        let wanted = |group: usize| {
            let range = time.and_then(|leaf| time_range(footer, group, leaf));
            let may_have =
                |(leaf, need): &(usize, &Need)| footer.filter(group, *leaf).is_none_or(|filter| need.may_be_in(filter));
            self.want_time(range) && asked.iter().all(may_have)
        };
        (0..footer.row_groups()).map(wanted).collect()
    }
}

impl Need {
    fn may_be_in(&self, filter: &Sbbf) -> bool {
        self.any_of.iter().any(|value| filter.check(value.as_slice()))
    }
}

/// Smallest and largest time of a row group.
pub(super) fn time_range(footer: &Footer, group: usize, leaf: usize) -> Option<(i64, i64)> {
    match footer.metadata.row_group(group).column(leaf).statistics()? {
        Statistics::Int64(times) => times.min_opt().copied().zip(times.max_opt().copied()),
        _ => None,
    }
}

/// What `column = value` and its like ask for.
fn values(filter: &Expr) -> Vec<Need> {
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => {
            needs(left, std::slice::from_ref(right.as_ref()))
                .or_else(|| needs(right, std::slice::from_ref(left.as_ref())))
                .unwrap_or_default()
        }
        Expr::InList(InList { expr, list, negated: false }) => needs(expr, list).unwrap_or_default(),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => either(values(left), values(right)),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => [values(left), values(right)].concat(),
        _ => Vec::new(),
    }
}

/// What holds whichever side does: only what both ask of the same column.
fn either(left: Vec<Need>, right: Vec<Need>) -> Vec<Need> {
    let both = |need: Need| {
        let other = right.iter().find(|other| other.leaf == need.leaf)?;
        Some(Need { any_of: [need.any_of, other.any_of.clone()].concat(), ..need })
    };
    left.into_iter().filter_map(both).collect()
}

/// A column, or an attribute out of a map, that equals one of these literals.
fn needs(of: &Expr, literals: &[Expr]) -> Option<Vec<Need>> {
    let any_of = literals.iter().map(bytes).collect::<Option<Vec<_>>>()?;
    match of {
        Expr::Column(column) => Some(vec![Need { leaf: column.name.clone(), any_of }]),
        Expr::Cast(cast) if cast.field.data_type().is_string() => match cast.expr.as_ref() {
            // a number in text is stored as a number
            Expr::Column(_) => None,
            inner => needs(inner, literals),
        },
        Expr::ScalarFunction(call) if call.name() == "attr" => {
            let [Expr::Column(Column { name, .. }), key] = call.args.as_slice() else { return None };
            let leaf = |part: &str| format!("{name}.key_value.{part}");
            Some(vec![Need { leaf: leaf("value"), any_of }, Need { leaf: leaf("key"), any_of: vec![bytes(key)?] }])
        }
        _ => None,
    }
}

/// A literal as Parquet stores it. The planner has made its type that of the column.
fn bytes(literal: &Expr) -> Option<Vec<u8>> {
    let Expr::Literal(value, _) = literal else { return None };
    match value {
        ScalarValue::Binary(bytes) | ScalarValue::LargeBinary(bytes) | ScalarValue::BinaryView(bytes) => bytes.clone(),
        ScalarValue::Int64(number) => number.map(|number| number.to_le_bytes().to_vec()),
        ScalarValue::Int32(number) => number.map(|number| number.to_le_bytes().to_vec()),
        _ => value.try_as_str().flatten().map(|text| text.as_bytes().to_vec()),
    }
}
