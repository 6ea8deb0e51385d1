//! [`Usual`] and [`UsualShare`]: what a value or a share usually is, and how far from it is too far.
//!
//! A median `m` of `n` requests is `(m − h)/s` deviations from the usual `h`, with
//! `s² = b² + (1.4826·1.2533·w)²(1/n + 1/n_h) + (0.05² + 0.25/n_h)h²`: b between windows, w within them, n_h requests
//! of history; the last says that 5 % is nothing, and that few requests tell a median badly. It is the deviation of
//! `causes/latency.rs`, so both judge alike. Medians and median distances, because one bad window must not
//! become what is usual (F. Hampel, JASA 69, 1974).
//!
//! A share of `p = (x_h + ½)/(n_h + 1)` has `x` of `n` now with variance `n·p(1 − p)(1 + n/n_h) + ¼ + (n·b)²`.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::history::Learnt;
use crate::{
    robust::{deviation, median, variance_of_medians},
    weights::{Ordered, Times, Weighed},
};

/// Windows of history: the last five minutes at 10 s.
const HISTORY: usize = 30;

/// A share of the usual value that is nothing.
const LEAST_SHARE: f64 = 0.05;

/// A value in one window. A checkpoint holds many: without the names of the fields it is a third as long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "(f64, f64, u32)", into = "(f64, f64, u32)")]
pub(crate) struct Sample {
    pub(crate) median: f64,
    /// Half the inter-quartile range.
    pub(crate) spread: f64,
    /// Of equal weight: as many as say as much.
    pub(crate) requests: u32,
}

/// How many of how many, in one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "(u32, u32)", into = "(u32, u32)")]
pub(crate) struct Share {
    pub(crate) hits: u32,
    pub(crate) of: u32,
}

/// The last thirty of something.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Ring<T> {
    values: VecDeque<T>,
}

/// What a value usually is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Usual {
    pub(crate) median: f64,
    between: f64,
    within: f64,
    requests: f64,
    pub(crate) windows: usize,
    /// What all but a tenth of the windows were below: single windows were more.
    pub(crate) most: f64,
}

/// What a share usually is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct UsualShare {
    pub(crate) ratio: f64,
    between: f64,
    of: f64,
    pub(crate) windows: usize,
}

impl Sample {
    /// `None` of nothing.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let last = values.len().checked_sub(1)?;
        let [low, middle, high] = [0.25, 0.5, 0.75].map(|share| (last as f64 * share).round() as usize);
        // three places are asked for: the rest need not be in order
        let mut values = values.to_vec();
        let (below, median, above) = values.select_nth_unstable_by(middle, f64::total_cmp);
        let nth = |part: &mut [f64], place: usize| *part.select_nth_unstable_by(place, f64::total_cmp).1;
        let median = *median;
        let low = if low < middle { nth(below, low) } else { median };
        let high = if high > middle { nth(above, high - middle - 1) } else { median };
        let requests = u32::try_from(last + 1).unwrap_or(u32::MAX);
        Some(Self { median, spread: (high - low) / 2.0, requests })
    }

    /// The same of values with weights.
    pub(crate) fn weighed(times: &Times) -> Option<Self> {
        if let Some(values) = times.alike() {
            return Self::of(values);
        }
        let ordered = Ordered::of(times.iter())?;
        let at = |share| ordered.at(share, 0.5);
        Some(Self { median: at(0.5), spread: (at(0.75) - at(0.25)) / 2.0, requests: times.effective() })
    }
}

impl From<(f64, f64, u32)> for Sample {
    fn from((median, spread, requests): (f64, f64, u32)) -> Self {
        Self { median, spread, requests }
    }
}

impl From<Sample> for (f64, f64, u32) {
    fn from(Sample { median, spread, requests }: Sample) -> Self {
        (median, spread, requests)
    }
}

impl From<(u32, u32)> for Share {
    fn from((hits, of): (u32, u32)) -> Self {
        Self { hits, of }
    }
}

impl From<Share> for (u32, u32) {
    fn from(Share { hits, of }: Share) -> Self {
        (hits, of)
    }
}

impl Share {
    /// So much weight of so much: as many hits of as many as say as much.
    pub(crate) fn weighed(hits: u64, of: Weighed) -> Self {
        let ratio = hits as f64 / of.sum().max(1) as f64;
        let of = of.effective();
        Self { hits: (ratio * f64::from(of)).round() as u32, of }
    }

    pub(crate) fn ratio(self) -> f64 {
        f64::from(self.hits) / f64::from(self.of.max(1))
    }
}

impl<T> Default for Ring<T> {
    fn default() -> Self {
        Self { values: VecDeque::new() }
    }
}

impl<T> Ring<T> {
    pub(crate) fn push(&mut self, value: T) {
        self.values.push_back(value);
        if self.values.len() > HISTORY {
            self.values.pop_front();
        }
    }
}

impl Learnt for Ring<Sample> {
    fn learnt_from(&self) -> u64 {
        self.values.iter().map(|sample| u64::from(sample.requests)).sum()
    }
}

impl Learnt for Ring<Share> {
    fn learnt_from(&self) -> u64 {
        self.values.iter().map(|share| u64::from(share.of)).sum()
    }
}

impl Ring<Share> {
    /// Of how many, in all windows.
    pub(crate) fn total(&self) -> f64 {
        self.values.iter().map(|share| f64::from(share.of)).sum()
    }
}

impl Usual {
    pub(crate) fn of(ring: &Ring<Sample>) -> Option<Self> {
        Self::among(ring.values.iter())
    }

    /// Without the newest third: of what may have changed a while before it is felt.
    pub(crate) fn of_older(ring: &Ring<Sample>) -> Option<Self> {
        Self::among(ring.values.iter().take(ring.values.len() - ring.values.len() / 3))
    }

    /// As one sample of all its requests.
    pub(super) fn sample(&self) -> Sample {
        Sample { median: self.median, spread: self.within, requests: self.requests as u32 }
    }

    pub(super) fn among<'a>(samples: impl Iterator<Item = &'a Sample> + Clone) -> Option<Self> {
        let mut medians: Vec<f64> = samples.clone().map(|sample| sample.median).collect();
        medians.sort_by(f64::total_cmp);
        Some(Self {
            median: median(medians.clone())?,
            between: deviation(&medians),
            within: median(samples.clone().map(|sample| sample.spread).collect())?,
            requests: samples.map(|sample| f64::from(sample.requests)).sum(),
            windows: medians.len(),
            most: *medians.get((medians.len() * 9 / 10).min(medians.len().checked_sub(1)?))?,
        })
    }

    /// Variance between windows beyond what that within them makes of it, and half of that again, which is as far as thirty
    /// windows tell it; the spread of samples is their error here.
    pub(super) fn beyond_within(&self) -> f64 {
        (self.between.powi(2) - 1.5 * self.within.powi(2)).max(0.0)
    }

    /// One standard deviation of a window's median from the usual one; `least` is nothing, however steady history was.
    pub(crate) fn deviation(&self, requests: u32, least: f64) -> f64 {
        let (n, before) = (f64::from(requests.max(1)), self.requests.max(1.0));
        let within = variance_of_medians(self.within, n, before);
        let unknown = (LEAST_SHARE.powi(2) + 0.25 / before) * self.median.powi(2);
        (self.between.powi(2) + within + unknown + least.powi(2)).sqrt()
    }
}

impl UsualShare {
    pub(crate) fn of(ring: &Ring<Share>) -> Option<Self> {
        let (hits, of) = ring
            .values
            .iter()
            .fold((0.0, 0.0), |(hits, of), share| (hits + f64::from(share.hits), of + f64::from(share.of)));
        let ratios: Vec<f64> = ring.values.iter().map(|share| share.ratio()).collect();
        let (ratio, windows) = ((hits + 0.5) / (of + 1.0), ratios.len());
        (windows > 0).then(|| Self { ratio, between: deviation(&ratios), of, windows })
    }

    /// Of what was not seen in so many, over so many windows.
    pub(crate) fn never(of: f64, windows: usize) -> Self {
        Self { ratio: 0.5 / (of + 1.0), between: 0.0, of, windows }
    }

    /// The share of those that are not.
    pub(crate) fn other(self) -> Self {
        Self { ratio: 1.0 - self.ratio, ..self }
    }

    /// Standard deviations of a window's share above the usual one.
    pub(crate) fn deviations(&self, now: Share) -> f64 {
        let n = f64::from(now.of);
        let chance = n * self.ratio * (1.0 - self.ratio) * (1.0 + n / self.of.max(1.0));
        let variance = chance + 0.25 + (n * self.between).powi(2);
        (f64::from(now.hits) - n * self.ratio) / variance.sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_window_does_not_become_usual() {
        let mut ring = Ring::default();
        for place in 0..20 {
            let median = if place == 10 { 500.0 } else { 10.0 + f64::from(place % 3) };
            ring.push(Sample { median, spread: 2.0, requests: 100 });
        }
        let usual = Usual::of(&ring).unwrap();
        assert!((10.0..=12.0).contains(&usual.median) && usual.deviation(100, 0.0) < 2.0, "{usual:?}");
        assert!(usual.deviation(4, 0.0) > usual.deviation(400, 0.0), "few requests tell less");
        assert_eq!((usual.most, usual.windows), (12.0, 20));
    }

    #[test]
    fn weights_scale_what_is_counted_and_not_how_sure_it_is() {
        let of = |weights: &[u32]| {
            let mut weighed = Weighed::default();
            weights.iter().for_each(|weight| weighed.add(*weight));
            weighed
        };
        let share = |hits, weights: &[u32]| Share::weighed(hits, of(weights));
        assert_eq!(share(100, &[100; 20]), Share { hits: 1, of: 20 }, "one of twenty, sampled 1 in 100");
        assert_eq!(share(3, &[1; 20]), Share { hits: 3, of: 20 });
        // ten failures that were all kept, beside ninety successes of which each stands for a hundred
        let kept: Vec<u32> = [vec![1; 10], vec![100; 90]].concat();
        assert_eq!(share(10, &kept), Share { hits: 0, of: 90 });
        let mut slow_kept = Times::default();
        for (ms, weight) in [(10.0, 50), (11.0, 50), (12.0, 50), (900.0, 1), (950.0, 1)] {
            slow_kept.push(ms, weight);
        }
        let sample = Sample::weighed(&slow_kept).unwrap();
        assert_eq!((sample.median, sample.requests), (11.0, 3));
    }

    #[test]
    fn a_share_of_few_says_little() {
        let mut ring = Ring::default();
        (0..30).for_each(|_| ring.push(Share { hits: 1, of: 100 }));
        let usual = UsualShare::of(&ring).unwrap();
        let z = |hits, of| usual.deviations(Share { hits, of });
        assert!(z(1, 10) < 2.0 && z(10, 100) > 6.0 && z(0, 100) < 0.0);
        assert!(UsualShare::never(3_000.0, 30).deviations(Share { hits: 20, of: 100 }) > 20.0);
        assert!(UsualShare::of(&Ring::default()).is_none());
    }
}
