//! [`Errors`]: many errors as the few numbers that are printed.

/// Errors, in any order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Errors {
    values: Vec<f64>,
}

impl Errors {
    pub(crate) fn add(&mut self, error: f64) {
        self.values.push(error);
    }

    pub(crate) fn count(&self) -> usize {
        self.values.len()
    }

    /// The error that a share of all is at most; not a number when there is none.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let place = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
        sorted.get(place).copied().unwrap_or(f64::NAN)
    }

    /// The share of all that is at most so much.
    pub(crate) fn share_up_to(&self, most: f64) -> f64 {
        self.values.iter().filter(|value| **value <= most).count() as f64 / self.values.len().max(1) as f64
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Median, 90th percentile and the worst, in percent.
    pub(crate) fn percents(&self) -> String {
        let [most, worst] = [0.9, 1.0].map(|share| 100.0 * self.quantile(share));
        format!("{:.2}, {most:.2}, {worst:.2}", 100.0 * self.median())
    }
}
