//! [`Groups`]: a checked sum for each of many groups at once.

use std::{fmt::Debug, marker::PhantomData, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, BooleanArray, PrimitiveArray},
    compute::{and, is_not_null, not, nullif, prep_null_mask_filter},
};
use datafusion::{
    common::Result,
    logical_expr::{EmitTo, GroupsAccumulator},
};

use super::{Whole, fit, numbers};

/// A sum a group.
#[derive(Debug)]
pub(super) struct Groups<T: Whole> {
    sums: Vec<i128>,
    /// Groups with a value: the others are null.
    seen: Vec<bool>,
    of: PhantomData<T>,
}

impl<T: Whole> Default for Groups<T> {
    fn default() -> Self {
        Self { sums: Vec::new(), seen: Vec::new(), of: PhantomData }
    }
}

impl<T: Whole> Groups<T> {
    fn add(&mut self, group: usize, value: T::Native) {
        self.sums[group] += value.into();
        self.seen[group] = true;
    }
}

/// The rows that have a value and that the filter wants; `None` when all do.
fn counted(values: &dyn Array, filter: Option<&BooleanArray>) -> Result<Option<BooleanArray>> {
    let wanted =
        filter.map(|filter| if filter.null_count() == 0 { filter.clone() } else { prep_null_mask_filter(filter) });
    Ok(match (wanted, values.null_count()) {
        (None, 0) => None,
        (None, _) => Some(is_not_null(values)?),
        (Some(wanted), 0) => Some(wanted),
        (Some(wanted), _) => Some(and(&wanted, &is_not_null(values)?)?),
    })
}

impl<T: Whole> GroupsAccumulator for Groups<T> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        let values = numbers::<T>(values)?;
        self.sums.resize(total_num_groups, 0);
        self.seen.resize(total_num_groups, false);
        let rows = group_indices.iter().zip(values.values());
        match counted(values, opt_filter)? {
            None => rows.for_each(|(group, value)| self.add(*group, *value)),
            Some(counted) => {
                let counted = rows.zip(counted.values()).filter(|(_, counted)| *counted);
                counted.for_each(|((group, value), _)| self.add(*group, *value));
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let (sums, seen) = (emit_to.take_needed(&mut self.sums), emit_to.take_needed(&mut self.seen));
        let sum = |(sum, seen): (i128, bool)| seen.then(|| fit::<T>(sum)).transpose();
        let sums = sums.into_iter().zip(seen).map(sum).collect::<Result<PrimitiveArray<T>>>()?;
        Ok(Arc::new(sums))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(emit_to)?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.update_batch(states, group_indices, None, total_num_groups)
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let values = numbers::<T>(values)?;
        Ok(vec![match counted(values, opt_filter)? {
            None => Arc::new(values.clone()) as ArrayRef,
            Some(counted) => nullif(values, &not(&counted)?)?,
        }])
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<i128>() + self.seen.capacity()
    }
}

#[cfg(test)]
mod tests {
    use arrow::{array::Int64Array, datatypes::Int64Type};

    use super::*;

    fn array(values: &[Option<i64>]) -> ArrayRef {
        Arc::new(Int64Array::from(values.to_vec()))
    }

    #[test]
    fn groups_add_up_apart_and_leave_out_what_is_filtered() {
        let mut groups = Groups::<Int64Type>::default();
        let values = [array(&[Some(1), Some(2), None, Some(i64::MAX)])];
        let wanted = BooleanArray::from(vec![Some(true), Some(true), Some(true), None]);
        groups.update_batch(&values, &[0, 0, 1, 2], Some(&wanted), 3).unwrap();
        let state = groups.state(EmitTo::All).unwrap();
        assert_eq!(state[0].as_ref(), array(&[Some(3), None, None]).as_ref());
        let as_state = groups.convert_to_state(&values, Some(&wanted)).unwrap();
        assert_eq!(as_state[0].as_ref(), array(&[Some(1), Some(2), None, None]).as_ref());
        groups.merge_batch(&values, &[0, 1, 1, 0], 2).unwrap();
        let wrapped = groups.evaluate(EmitTo::All);
        assert!(wrapped.unwrap_err().to_string().contains("does not fit"));
    }
}
