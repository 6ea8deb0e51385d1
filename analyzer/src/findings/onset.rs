//! When a value went from one level to another: the change point of cumulative sums (E. Page, Biometrika 41, 1954).
//!
//! Each request counts +1 above the middle between what was usual and what is now, and −1 below. The sum falls until the
//! change and rises after it, so it is lowest where the change was.

use weir_schema::UnixNanos;

/// When values began to be above `middle`, not before `earliest`. Values are by time of arrival.
pub(super) fn began(values: &[(UnixNanos, f64)], middle: f64, earliest: UnixNanos) -> UnixNanos {
    let mut sorted: Vec<(UnixNanos, bool)> = values.iter().map(|(at, value)| (*at, *value > middle)).collect();
    sorted.sort_unstable();
    let (mut sum, mut lowest, mut began) = (0_i64, 0, earliest);
    for (place, (_, above)) in sorted.iter().enumerate() {
        sum += if *above { 1 } else { -1 };
        if sum <= lowest {
            lowest = sum;
            began = sorted.get(place + 1).map_or(began, |(next, _)| *next);
        }
    }
    began.max(earliest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_change_is_found_in_noise() {
        let noisy = |at: i64| (at, if (at >= 600) != (at % 7 == 0) { 9.0 } else { 1.0 });
        let values: Vec<(i64, f64)> = (0..1_000).map(noisy).collect();
        assert!((began(&values, 5.0, 0) - 600).abs() <= 3);
        assert_eq!(began(&values[701..], 5.0, 650), 650, "all of it is after the change");
        assert_eq!(began(&[], 5.0, 7), 7);
    }
}
