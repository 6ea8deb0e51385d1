//! [`Moments`]: mean and squared coefficient of variation of many values, with the error of both; O(1) a value, mergeable.
//!
//! With central moments m, v, μ₃, μ₄ of n independent values the mean is known to `√(v/n)` and `c² = v/m²` to
//! `√((μ₄ − v²)/m⁴ + 4v³/m⁶ − 4vμ₃/m⁵)/√n` (delta method; A. W. van der Vaart, "Asymptotic Statistics", 1998, chapter 3).
//! For exponential values that is 2/√n. Sums of powers lose digits when values are large beside their
//! scatter: 16 digits leave 4 for a scatter of a thousandth, and nothing here asks for more.

use serde::{Deserialize, Serialize};

/// Count and sums of the first four powers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(into = "[f64; 5]", from = "[f64; 5]")]
pub(crate) struct Moments {
    count: f64,
    sums: [f64; 4],
}

impl From<Moments> for [f64; 5] {
    fn from(Moments { count, sums: [first, second, third, fourth] }: Moments) -> Self {
        [count, first, second, third, fourth]
    }
}

impl From<[f64; 5]> for Moments {
    fn from([count, first, second, third, fourth]: [f64; 5]) -> Self {
        Self { count, sums: [first, second, third, fourth] }
    }
}

impl Moments {
    pub(crate) fn add(&mut self, value: f64) {
        self.count += 1.0;
        let mut power = 1.0;
        for sum in &mut self.sums {
            power *= value;
            *sum += power;
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sums.iter_mut().zip(other.sums).for_each(|(sum, more)| *sum += more);
    }

    pub(crate) fn count(&self) -> f64 {
        self.count
    }

    pub(crate) fn mean(&self) -> Option<f64> {
        (self.count > 0.0).then(|| self.sums[0] / self.count)
    }

    /// `None` with fewer than two values or without a mean above zero.
    pub(crate) fn scv(&self) -> Option<f64> {
        let mean = self.mean().filter(|mean| self.count > 1.0 && *mean > 0.0)?;
        Some(self.variance(mean) * self.count / (self.count - 1.0) / (mean * mean))
    }

    /// Standard error of the squared coefficient of variation.
    pub(crate) fn scv_error(&self) -> Option<f64> {
        let mean = self.mean().filter(|mean| self.count > 1.0 && *mean > 0.0)?;
        let [_, second, third, fourth] = self.sums.map(|sum| sum / self.count);
        let v = self.variance(mean);
        let mu3 = third - 3.0 * mean * second + 2.0 * mean.powi(3);
        let mu4 = fourth - 4.0 * mean * third + 6.0 * mean * mean * second - 3.0 * mean.powi(4);
        let variance = (mu4 - v * v) / mean.powi(4) + 4.0 * v.powi(3) / mean.powi(6) - 4.0 * v * mu3 / mean.powi(5);
        Some((variance.max(0.0) / self.count).sqrt())
    }

    fn variance(&self, mean: f64) -> f64 {
        (self.sums[1] / self.count - mean * mean).max(0.0)
    }
}

impl FromIterator<f64> for Moments {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        let mut moments = Self::default();
        values.into_iter().for_each(|value| moments.add(value));
        moments
    }
}

/// Mean and squared coefficient of variation; `None` with fewer than two values.
pub(crate) fn moments(values: &[f64]) -> Option<(f64, f64)> {
    let mean = mean(values).filter(|mean| values.len() > 1 && *mean > 0.0)?;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64;
    Some((mean, variance / (mean * mean)))
}

pub(crate) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::queueing::simulation::Law;

    #[test]
    fn what_values_give() {
        let moments: Moments = [1.0, 2.0, 3.0, 4.0].into_iter().collect();
        assert_eq!((moments.count(), moments.mean()), (4.0, Some(2.5)));
        assert!((moments.scv().unwrap() - 5.0 / 3.0 / 6.25).abs() < 1e-12);
        assert_eq!(Moments::default().mean(), None);
        assert_eq!([0.0, 0.0].into_iter().collect::<Moments>().scv(), None);
        let mut merged: Moments = [1.0, 2.0].into_iter().collect();
        merged.merge(&[3.0, 4.0].into_iter().collect());
        assert_eq!(merged, moments);
    }

    #[test]
    fn the_error_of_the_variation_covers_it() {
        let mut random = StdRng::seed_from_u64(5);
        for law in [Law::Exponential, Law::Erlang(4), Law::Hyperexponential(4.0)] {
            let mut covered = 0;
            for _ in 0..200 {
                let moments: Moments = (0..2_000).map(|_| law.sample(&mut random)).collect();
                let off = (moments.scv().unwrap() - law.scv()).abs();
                covered += usize::from(off < 1.96 * moments.scv_error().unwrap());
            }
            println!("seed 5 {law:?}: {covered} of 200 within");
            assert!((170..=200).contains(&covered), "{law:?}: {covered}");
        }
    }
}
