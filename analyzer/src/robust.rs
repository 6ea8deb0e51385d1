//! Middles and spreads that one bad value does not move: medians, and the median distance from them.

/// Makes the median distance from the median a standard deviation, for normal values.
const DEVIATION: f64 = 1.4826;

/// Error of a median over that of a mean: √(π/2).
const OF_MEDIAN: f64 = 1.2533;

/// Values that tell how much values differ.
const MIN_VALUES: usize = 3;

/// The middle value, of an even number the mean of both.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    Some(if values.len() % 2 == 1 { upper } else { f64::midpoint(values[values.len() / 2 - 1], upper) })
}

/// The middle value, of an even number the upper.
pub(crate) fn middle(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    let middle = values.len() / 2;
    (!values.is_empty()).then(|| *values.select_nth_unstable_by(middle, f64::total_cmp).1)
}

/// Standard deviation by the median distance from `middle`; `None` of no values.
pub(crate) fn deviation_from(middle: f64, values: &[f64]) -> Option<f64> {
    Some(DEVIATION * median(values.iter().map(|value| (value - middle).abs()).collect())?)
}

/// Standard deviation; 0 with fewer than three values.
pub(crate) fn deviation(values: &[f64]) -> f64 {
    let middle = median(values.to_vec()).filter(|_| values.len() >= MIN_VALUES);
    middle.and_then(|middle| deviation_from(middle, values)).unwrap_or(0.0)
}

/// Variance of the difference between two medians, of `n` and `before` values that lie `spread` (median distance) around theirs.
pub(crate) fn variance_of_medians(spread: f64, n: f64, before: f64) -> f64 {
    (DEVIATION * OF_MEDIAN * spread).powi(2) * (1.0 / n + 1.0 / before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_value_moves_nothing() {
        let (clean, bad) = ([9.0, 10.0, 10.0, 11.0, 12.0], [9.0, 10.0, 10.0, 11.0, 5_000.0]);
        assert_eq!((median(clean.to_vec()), median(bad.to_vec())), (Some(10.0), Some(10.0)));
        assert_eq!((deviation(&clean), deviation(&bad)), (DEVIATION, DEVIATION));
        assert_eq!((median(vec![1.0, 2.0]), median(Vec::new())), (Some(1.5), None));
        assert_eq!((deviation(&[1.0, 9.0]), deviation_from(1.0, &[])), (0.0, None));
    }

    #[test]
    fn more_values_tell_a_median_better() {
        let of_ten = variance_of_medians(2.0, 10.0, 10.0);
        assert!((of_ten - (1.4826_f64 * 1.2533 * 2.0).powi(2) * 0.2).abs() < 1e-9);
        assert!(variance_of_medians(2.0, 40.0, 40.0) < of_ten);
    }
}
