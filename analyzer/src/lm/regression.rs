//! [`fit`]: least squares of a few regressors that a few outliers do not sway.
//!
//! Iteratively reweighted by P. J. Huber's weights (Robust Statistics, 1981): residuals beyond three robust standard
//! deviations count in proportion to their inverse. Fewer would bend means: what holds a stream up is skewed. Coefficients are times and cannot be negative: who would be is
//! left out, and the rest fitted again.

/// Regressors at most.
pub(crate) const MOST: usize = 5;

/// Robust standard deviations beyond which a residual counts less.
const HUBER: f64 = 3.0;

const ROUNDS: usize = 8;

/// One observation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) regressors: [f64; MOST],
    pub(crate) value: f64,
    pub(crate) weight: f64,
}

/// What was fitted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Fit {
    pub(crate) coefficients: [f64; MOST],
    pub(crate) errors: [f64; MOST],
    /// Share of the variance explained, outliers weighed as in the fit.
    pub(crate) r2: f64,
    /// Median of |residual| over value.
    pub(crate) residual: f64,
    pub(crate) samples: usize,
}

impl Fit {
    /// How many standard errors a coefficient is above zero.
    pub(crate) fn significance(&self, of: usize) -> f64 {
        self.coefficients[of] / self.errors[of].max(1e-300)
    }
}

/// Fits the first `count` regressors; `None` when there are too few rows or they say too little.
pub(crate) fn fit(rows: &[Row], count: usize) -> Option<Fit> {
    let mut used: Vec<usize> = (0..count).collect();
    loop {
        let fitted = fit_used(rows, &used)?;
        let negative = used.iter().copied().filter(|of| fitted.coefficients[*of] < 0.0);
        let worst = negative.min_by(|a, b| fitted.significance(*a).total_cmp(&fitted.significance(*b)));
        match worst {
            Some(worst) if used.len() > 1 => used.retain(|of| *of != worst),
            Some(_) => return None,
            None => return Some(fitted),
        }
    }
}

fn fit_used(rows: &[Row], used: &[usize]) -> Option<Fit> {
    if rows.len() < 4 * used.len() + 4 {
        return None;
    }
    let mut weights: Vec<f64> = rows.iter().map(|row| row.weight).collect();
    let (mut solution, mut inverse) = solve(rows, &weights, used)?;
    let mut residuals: Vec<f64> = Vec::new();
    let mut scale = 0.0;
    for _ in 0..ROUNDS {
        residuals = rows.iter().map(|row| (row.value - of(&solution, row, used)) * row.weight.sqrt()).collect();
        scale = spread(&residuals).max(1e-12);
        for ((weight, row), residual) in weights.iter_mut().zip(rows).zip(&residuals) {
            *weight = row.weight * (HUBER * scale / residual.abs().max(1e-300)).min(1.0);
        }
        (solution, inverse) = solve(rows, &weights, used)?;
    }
    let mut fitted = Fit { samples: rows.len(), ..Fit::default() };
    for (place, of) in used.iter().enumerate() {
        fitted.coefficients[*of] = solution[place];
        fitted.errors[*of] = scale * inverse[place][place].max(0.0).sqrt();
    }
    fitted.r2 = explained(rows, &weights, &solution, used);
    // of a value of 0 no error is a share
    let weighs = rows.iter().zip(residuals).filter(|(row, _)| row.value > 0.0 && row.weight > 0.0);
    let mut shares: Vec<f64> = weighs.map(|(row, r)| (r / row.weight.sqrt() / row.value).abs()).collect();
    shares.sort_by(f64::total_cmp);
    fitted.residual = *shares.get(shares.len() / 2)?;
    Some(fitted)
}

fn of(solution: &[f64; MOST], row: &Row, used: &[usize]) -> f64 {
    used.iter().zip(solution).map(|(of, coefficient)| row.regressors[*of] * coefficient).sum()
}

/// The standard deviation, from the median of magnitudes.
fn spread(residuals: &[f64]) -> f64 {
    let mut magnitudes: Vec<f64> = residuals.iter().map(|r| r.abs()).collect();
    let middle = magnitudes.len() / 2;
    let (_, median, _) = magnitudes.select_nth_unstable_by(middle, f64::total_cmp);
    *median / 0.6745
}

fn explained(rows: &[Row], weights: &[f64], solution: &[f64; MOST], used: &[usize]) -> f64 {
    let all: f64 = weights.iter().sum();
    let mean = rows.iter().zip(weights).map(|(row, w)| row.value * w).sum::<f64>() / all;
    let (mut left, mut total) = (0.0, 0.0);
    for (row, weight) in rows.iter().zip(weights) {
        left += weight * (row.value - of(solution, row, used)).powi(2);
        total += weight * (row.value - mean).powi(2);
    }
    1.0 - left / total.max(1e-300)
}

/// Normal equations by Gauss and Jordan: the solution and the inverse.
fn solve(rows: &[Row], weights: &[f64], used: &[usize]) -> Option<([f64; MOST], [[f64; MOST]; MOST])> {
    let n = used.len();
    let (mut matrix, mut right) = ([[0.0; MOST]; MOST], [0.0; MOST]);
    for (row, weight) in rows.iter().zip(weights) {
        for (i, a) in used.iter().enumerate() {
            right[i] += weight * row.regressors[*a] * row.value;
            for (j, b) in used.iter().enumerate() {
                matrix[i][j] += weight * row.regressors[*a] * row.regressors[*b];
            }
        }
    }
    // columns of one size, so that a small pivot is a dependence and not a unit
    let size: Vec<f64> = (0..n).map(|i| matrix[i][i].sqrt()).collect();
    if size.iter().any(|size| *size <= 0.0 || !size.is_finite()) {
        return None;
    }
    let mut inverse = [[0.0; MOST]; MOST];
    for i in 0..n {
        inverse[i][i] = 1.0;
        (0..n).for_each(|j| matrix[i][j] /= size[i] * size[j]);
    }
    for column in 0..n {
        let pivot = (column..n).max_by(|a, b| matrix[*a][column].abs().total_cmp(&matrix[*b][column].abs()))?;
        if matrix[pivot][column].abs() < 1e-9 {
            return None;
        }
        matrix.swap(column, pivot);
        inverse.swap(column, pivot);
        let by = matrix[column][column];
        for j in 0..n {
            matrix[column][j] /= by;
            inverse[column][j] /= by;
        }
        for i in (0..n).filter(|i| *i != column) {
            let by = matrix[i][column];
            for j in 0..n {
                matrix[i][j] -= by * matrix[column][j];
                inverse[i][j] -= by * inverse[column][j];
            }
        }
    }
    let mut solution = [0.0; MOST];
    for i in 0..n {
        (0..n).for_each(|j| inverse[i][j] /= size[i] * size[j]);
        solution[i] = (0..n).map(|j| inverse[i][j] * right[j]).sum();
    }
    Some((solution, inverse))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(outliers: usize) -> Vec<Row> {
        let row = |i: usize| {
            let (x, y) = ((i % 17) as f64, (i % 5) as f64);
            let noise = ((i * 7_919) % 101) as f64 / 101.0 - 0.5;
            let wild = if i < outliers { 500.0 } else { 0.0 };
            Row { regressors: [1.0, x, y, 0.0, 0.0], value: 10.0 + 2.0 * x + noise + wild, weight: 1.0 }
        };
        (0..200).map(row).collect()
    }

    #[test]
    fn a_line_is_found_and_outliers_do_not_sway_it() {
        for outliers in [0, 10, 20] {
            let fit = fit(&rows(outliers), 2).unwrap();
            assert!((fit.coefficients[0] - 10.0).abs() < 0.4, "{outliers}: {fit:?}");
            assert!((fit.coefficients[1] - 2.0).abs() < 0.04, "{outliers}: {fit:?}");
            assert!(fit.significance(1) > 20.0 && fit.residual < 0.05);
        }
        assert!(fit(&rows(0), 2).unwrap().r2 > 0.99);
    }

    #[test]
    fn what_has_no_part_is_nothing_and_too_little_is_not_fitted() {
        let fitted = fit(&rows(0), 3).unwrap();
        assert!(fitted.significance(2) < 3.0, "{fitted:?}");
        assert_eq!(fit(&rows(0)[..6], 2), None);
        let same: Vec<Row> = rows(0).into_iter().map(|r| Row { regressors: [1.0, 1.0, 0.0, 0.0, 0.0], ..r }).collect();
        assert_eq!(fit(&same, 2), None, "two regressors that are one");
    }

    #[test]
    fn a_time_of_nothing_is_no_error_without_bound() {
        let some_none: Vec<Row> = rows(0)
            .into_iter()
            .enumerate()
            .map(|(i, r)| Row { value: if i % 3 == 0 { 0.0 } else { r.value }, ..r })
            .collect();
        assert!(fit(&some_none, 2).unwrap().residual.is_finite());
        let nothing: Vec<Row> = rows(0).into_iter().map(|r| Row { value: 0.0, ..r }).collect();
        assert!(fit(&nothing, 2).is_none_or(|fit| fit.residual.is_finite()));
    }

    #[test]
    fn times_are_not_negative() {
        let falling: Vec<Row> = rows(0).into_iter().map(|r| Row { value: 50.0 - r.value, ..r }).collect();
        assert!(fit(&falling, 2).unwrap().coefficients.iter().all(|c| *c >= 0.0));
    }
}
