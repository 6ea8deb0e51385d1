//! Weights of sampled spans. [`Weighed`] counts what spans stand for, and how many equal ones would know a mean as
//! well; [`Times`] are values with weights, for free where all are 1.
//!
//! What is scaled up by weights is right in the mean (D. Horvitz and D. Thompson, JASA 1952), but no surer for it: a test
//! that takes 3 spans of weight 100 for 300 finds what is not there. Tests count `(Σw)²/Σw²` instead, the size of
//! an evenly sampled stream with the same variance (L. Kish, "Survey Sampling", 1965): the spans themselves where
//! weights are equal, and fewer where errors were kept whole and the rest was thinned.

/// Requests that are missing, as a share of all, up to which those that are there show who was there beside whom.
pub(crate) const MISSING: f64 = 0.01;

/// Spans by weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weighed {
    sum: u64,
    squares: u64,
}

/// Milliseconds by weight.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Times {
    ms: Vec<f64>,
    /// Empty while all of them are 1.
    weights: Vec<u32>,
}

impl Weighed {
    pub(crate) fn add(&mut self, weight: u32) {
        let weight = u64::from(weight);
        self.sum = self.sum.saturating_add(weight);
        self.squares = self.squares.saturating_add(weight * weight);
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.sum = self.sum.saturating_add(other.sum);
        self.squares = self.squares.saturating_add(other.squares);
    }

    /// What they stand for.
    pub(crate) fn sum(self) -> u64 {
        self.sum
    }

    /// How many of equal weight would say as much.
    pub(crate) fn effective(self) -> u32 {
        effective(self.sum as f64, self.squares as f64).round() as u32
    }
}

impl Times {
    pub(crate) fn push(&mut self, ms: f64, weight: u32) {
        if weight != 1 || !self.weights.is_empty() {
            self.weights.resize(self.ms.len(), 1);
            self.weights.push(weight);
        }
        self.ms.push(ms);
    }

    pub(crate) fn extend(&mut self, other: Self) {
        if !self.weights.is_empty() || !other.weights.is_empty() {
            self.weights.resize(self.ms.len(), 1);
            let all = self.ms.len() + other.ms.len();
            self.weights.extend(other.weights);
            self.weights.resize(all, 1);
        }
        self.ms.extend(other.ms);
    }

    pub(crate) fn len(&self) -> usize {
        self.ms.len()
    }

    /// The values, where all weights are 1.
    pub(crate) fn alike(&self) -> Option<&[f64]> {
        self.weights.is_empty().then_some(&self.ms)
    }

    /// Values and weights in the order they came.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (f64, f64)> {
        let weight = |place: usize| self.weights.get(place).map_or(1.0, |weight| f64::from(*weight));
        self.ms.iter().enumerate().map(move |(place, ms)| (*ms, weight(place)))
    }

    /// How many of equal weight would say as much.
    pub(crate) fn effective(&self) -> u32 {
        let (sum, squares) = self.iter().fold((0.0, 0.0), |(sum, squares), (_, w)| (sum + w, squares + w * w));
        effective(sum, squares).round() as u32
    }

    pub(crate) fn mean(&self) -> Option<f64> {
        if let Some(ms) = self.alike() {
            return crate::moments::mean(ms);
        }
        let (sum, weights) = self.iter().fold((0.0, 0.0), |(sum, all), (ms, weight)| (sum + ms * weight, all + weight));
        Some(sum / weights)
    }
}

/// How many of equal weight would say as much as those of so much weight and so much of its squares; 0 of none.
pub(crate) fn effective(sum: f64, squares: f64) -> f64 {
    if squares > 0.0 { sum * sum / squares } else { 0.0 }
}

/// Values in order, and of how much weight they and those before them are.
#[derive(Clone, Debug)]
pub(crate) struct Ordered {
    values: Vec<(f64, f64)>,
    /// Of one value, on average.
    each: f64,
}

impl Ordered {
    /// `None` of nothing.
    pub(crate) fn of(values: impl IntoIterator<Item = (f64, f64)>) -> Option<Self> {
        let mut values: Vec<(f64, f64)> = values.into_iter().collect();
        values.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut until = 0.0;
        for (_, weight) in &mut values {
            until += *weight;
            *weight = until;
        }
        let each = until / values.len() as f64;
        (!values.is_empty()).then_some(Self { values, each })
    }

    /// The value at a share of the weight. With weights of 1 the one at that share of the last place, which is cut
    /// to a whole one when `up` is 0 and rounded when it is ½.
    pub(crate) fn at(&self, share: f64, up: f64) -> f64 {
        let last = self.values.len() - 1;
        let all = self.values[last].1;
        let below = share * (all - self.each) + up * self.each;
        let place = self.values.partition_point(|(_, until)| *until <= below);
        self.values[place.min(last)].0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_weights_are_worth_their_spans_and_unequal_ones_fewer() {
        let cases: [(&[u32], u64, u32); 5] = [
            (&[], 0, 0),
            (&[1, 1, 1], 3, 3),
            (&[100, 100, 100], 300, 3),
            (&[1, 1, 1, 1, 97], 101, 1),
            (&[1_000_000; 7], 7_000_000, 7),
        ];
        for (weights, sum, effective) in cases {
            let mut weighed = Weighed::default();
            weights.iter().for_each(|weight| weighed.add(*weight));
            assert_eq!((weighed.sum(), weighed.effective()), (sum, effective), "{weights:?}");
        }
    }

    #[test]
    fn times_are_the_same_in_parts_and_their_mean_is_by_weight() {
        let all = [(4.0, 1), (1.0, 1), (7.0, 5), (2.0, 1)];
        let of = |part: &[(f64, u32)]| {
            let mut times = Times::default();
            part.iter().for_each(|(ms, weight)| times.push(*ms, *weight));
            times
        };
        for cut in 0..=all.len() {
            let mut merged = of(&all[..cut]);
            merged.extend(of(&all[cut..]));
            assert_eq!(merged, of(&all), "cut at {cut}");
        }
        assert_eq!(of(&all).mean(), Some((4.0 + 1.0 + 35.0 + 2.0) / 8.0));
        assert_eq!(
            (of(&all[..2]).mean(), of(&all[..2]).alike(), of(&[]).mean()),
            (Some(2.5), Some(&[4.0, 1.0][..]), None)
        );
        assert_eq!(of(&all).len(), 4);
    }

    #[test]
    fn quantiles_by_weight_are_those_of_the_repeated_values() {
        let ones = |values: &[f64]| Ordered::of(values.iter().map(|value| (*value, 1.0))).unwrap();
        let values = [5.0, 1.0, 3.0, 2.0, 4.0, 6.0];
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
            let place = 5.0 * share;
            assert_eq!(ones(&values).at(share, 0.0), sorted[place as usize], "{share}");
            assert_eq!(ones(&values).at(share, 0.5), sorted[place.round() as usize], "{share}");
        }
        // of nine parts in ten fast the median is fast, however many slow ones were kept
        let thinned = Ordered::of([(10.0, 90.0), (500.0, 1.0), (501.0, 1.0), (502.0, 1.0), (503.0, 1.0)]).unwrap();
        assert_eq!((thinned.at(0.5, 0.5), thinned.at(0.75, 0.0)), (10.0, 10.0));
        assert!(Ordered::of([]).is_none());
    }
}
