//! `sum` of whole numbers that says so when it does not fit, where the engine's own begins again at the
//! other end: a sum of start times is past a bigint after five rows. It is kept in 128 bits, so only the
//! result has to fit. Sums of other types are the engine's.

mod groups;

use std::{fmt::Debug, marker::PhantomData, mem::size_of_val, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray},
    datatypes::{DataType, FieldRef, Int64Type, UInt64Type},
};
use datafusion::{
    common::{Result, ScalarValue, exec_datafusion_err, exec_err},
    functions_aggregate::sum::sum_udaf,
    logical_expr::{
        Accumulator, AggregateUDF, AggregateUDFImpl, GroupsAccumulator, ReversedUDAF, SetMonotonicity, Signature,
        function::{AccumulatorArgs, StateFieldsArgs},
        utils::AggregateOrderSensitivity,
    },
};

use groups::Groups;

/// The function.
pub(super) fn sum() -> AggregateUDF {
    AggregateUDF::new_from_impl(CheckedSum { inner: sum_udaf() })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct CheckedSum {
    inner: Arc<AggregateUDF>,
}

/// A type of whole numbers that 128 bits add up.
trait Whole: ArrowPrimitiveType<Native: Into<i128> + TryFrom<i128> + Send> + Debug + Send + Sync {}

impl Whole for Int64Type {}
impl Whole for UInt64Type {}

impl AggregateUDFImpl for CheckedSum {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arguments)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        match args.return_field.data_type() {
            DataType::Int64 => whole::<Int64Type>(args),
            DataType::UInt64 => whole::<UInt64Type>(args),
            _ => self.inner.accumulator(args),
        }
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        match args.return_field.data_type() {
            DataType::Int64 if !args.is_distinct => whole::<Int64Type>(args),
            DataType::UInt64 if !args.is_distinct => whole::<UInt64Type>(args),
            _ => self.inner.create_sliding_accumulator(args),
        }
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        match args.return_field.data_type() {
            DataType::Int64 => Ok(Box::new(Groups::<Int64Type>::default())),
            DataType::UInt64 => Ok(Box::new(Groups::<UInt64Type>::default())),
            _ => self.inner.create_groups_accumulator(args),
        }
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner.inner().set_monotonicity(data_type)
    }
}

fn whole<T: Whole>(args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
    Ok(match args.is_distinct {
        true => Box::new(Distinct::<T> { inner: sum_udaf().accumulator(args)?, of: PhantomData }),
        false => Box::new(Total::<T>::default()),
    })
}

fn fit<T: Whole>(sum: i128) -> Result<T::Native> {
    T::Native::try_from(sum).map_err(|_| {
        exec_datafusion_err!(
            "sum: {sum} does not fit into a bigint: sum doubles, sum(x::double precision), or a smaller unit"
        )
    })
}

fn numbers<T: Whole>(values: &[ArrayRef]) -> Result<&PrimitiveArray<T>> {
    match values {
        [values] => values.as_primitive_opt().ok_or_else(|| exec_datafusion_err!("sum: not numbers")),
        _ => exec_err!("sum takes one argument"),
    }
}

/// One sum. Rows may leave it again, as those of a moving window do.
#[derive(Debug)]
struct Total<T: Whole> {
    sum: i128,
    count: u64,
    of: PhantomData<T>,
}

impl<T: Whole> Default for Total<T> {
    fn default() -> Self {
        Self { sum: 0, count: 0, of: PhantomData }
    }
}

fn added_up<T: Whole>(values: &PrimitiveArray<T>) -> (i128, u64) {
    let sum: i128 = match values.null_count() {
        0 => values.values().iter().map(|value| (*value).into()).sum(),
        _ => values.iter().flatten().map(Into::into).sum(),
    };
    (sum, (values.len() - values.null_count()) as u64)
}

impl<T: Whole> Accumulator for Total<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let (sum, count) = added_up::<T>(numbers(values)?);
        self.sum += sum;
        self.count += count;
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let (sum, count) = added_up::<T>(numbers(values)?);
        self.sum -= sum;
        self.count = self.count.saturating_sub(count);
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let sum = if self.count == 0 { None } else { Some(fit::<T>(self.sum)?) };
        ScalarValue::new_primitive::<T>(sum, &T::DATA_TYPE)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

/// The engine's own set of distinct values, which is its state, added up here.
#[derive(Debug)]
struct Distinct<T: Whole> {
    inner: Box<dyn Accumulator>,
    of: PhantomData<T>,
}

impl<T: Whole> Accumulator for Distinct<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.update_batch(values)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let state = self.inner.state()?;
        let [ScalarValue::List(values)] = state.as_slice() else {
            return exec_err!("sum: distinct values are no list");
        };
        let mut total = Total::<T>::default();
        total.update_batch(&[values.values().clone()])?;
        total.evaluate()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.inner.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.inner.merge_batch(states)
    }

    fn size(&self) -> usize {
        self.inner.size()
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;

    use super::*;

    fn array(values: &[Option<i64>]) -> ArrayRef {
        Arc::new(Int64Array::from(values.to_vec()))
    }

    #[test]
    fn a_sum_fits_or_is_an_error() {
        let cases: [(&[Option<i64>], Option<ScalarValue>); 5] = [
            (&[Some(1), None, Some(2)], Some(ScalarValue::Int64(Some(3)))),
            (&[None], Some(ScalarValue::Int64(None))),
            (&[], Some(ScalarValue::Int64(None))),
            (&[Some(i64::MAX), Some(1)], None),
            (&[Some(i64::MAX), Some(1), Some(-2)], Some(ScalarValue::Int64(Some(i64::MAX - 1)))),
        ];
        for (values, sum) in cases {
            let mut total = Total::<Int64Type>::default();
            total.update_batch(&[array(values)]).unwrap();
            assert_eq!(total.evaluate().ok(), sum, "{values:?}");
        }
    }
}
