//! [`Ranked`]: whether times know how many were there, asked of ranks, so that heavy tails do not decide: their place (H. B. Mann and
//! D. R. Whitney, 1947) and their scatter (A. R. Ansari and R. A. Bradley, 1960).
//!
//! Times closer than a clock can tell share their ranks: of a station whose every service takes the same, the order is that of
//! the clock's errors, and those do know who waited (a start is the later of two readings, an arrival is one).

/// Visits that need to have met a queue, and not to have.
pub(super) const MIN_GROUP: usize = 15;

/// Times within this share of their mean are alike.
const ALIKE: f64 = 0.02;

/// Standard deviations by which two groups differ.
#[derive(Clone, Copy, Debug)]
pub(super) struct Differ {
    pub(super) place: f64,
    pub(super) scatter: f64,
}

impl Differ {
    pub(super) fn worst(self) -> f64 {
        self.place.abs().max(self.scatter.abs())
    }
}

/// Times by their ranks: sorted once, however often groups of them are compared.
pub(super) struct Ranked {
    ranks: Vec<f64>,
}

impl Ranked {
    pub(super) fn of(times: &[f64]) -> Self {
        Self { ranks: ranks(times) }
    }

    /// Those who met `threshold` or more there beside the others; `None` when either group is too small.
    pub(super) fn compare(&self, met: &[u32], threshold: u32) -> Option<Differ> {
        let busy = met.iter().filter(|others| **others >= threshold).count();
        let idle = self.ranks.len() - busy;
        if busy < MIN_GROUP || idle < MIN_GROUP {
            return None;
        }
        let (ranks, n) = (&self.ranks, self.ranks.len() as f64);
        let middle = (n + 1.0) / 2.0;
        let of_busy = || ranks.iter().zip(met).filter(|(_, others)| **others >= threshold).map(|(rank, _)| *rank);
        let distance = |rank: f64| (rank - middle).abs();
        Some(Differ {
            place: deviation(of_busy(), ranks.iter().copied(), n),
            scatter: deviation(of_busy().map(distance), ranks.iter().copied().map(distance), n),
        })
    }
}

/// Standard deviations of the sum of some scores from what as many drawn from all without replacement give.
fn deviation(some: impl Iterator<Item = f64>, all: impl Iterator<Item = f64> + Clone, n: f64) -> f64 {
    let mean = all.clone().sum::<f64>() / n;
    let variance = all.map(|score| (score - mean).powi(2)).sum::<f64>() / n;
    let (count, sum) = some.fold((0.0, 0.0), |(count, sum), score| (count + 1.0, sum + score));
    let spread = (count * (n - count) / (n - 1.0) * variance).sqrt();
    if spread > 0.0 { (sum - count * mean) / spread } else { 0.0 }
}

/// From 1, those alike sharing the middle of theirs.
fn ranks(times: &[f64]) -> Vec<f64> {
    let step = (ALIKE * times.iter().sum::<f64>() / times.len() as f64).max(1.0);
    // one number each, to sort by: no time is more than fifty steps times their count
    let coarse = |(place, time): (usize, &f64)| ((time / step).round() as i64) << u32::BITS | place as i64;
    let mut order: Vec<i64> = times.iter().enumerate().map(coarse).collect();
    order.sort_unstable();
    let mut ranks = vec![0.0; times.len()];
    let mut next = 1.0;
    for alike in order.chunk_by(|a, b| a >> u32::BITS == b >> u32::BITS) {
        let count = alike.len() as f64;
        alike.iter().for_each(|one| ranks[(one & i64::from(u32::MAX)) as usize] = next + (count - 1.0) / 2.0);
        next += count;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alike_times_share_their_rank() {
        assert_eq!(ranks(&[500.0, 100.0, 501.0, 900.0]), [2.5, 1.0, 2.5, 4.0]);
    }

    fn compare(times: &[f64], met: &[u32], threshold: u32) -> Option<Differ> {
        Ranked::of(times).compare(met, threshold)
    }

    #[test]
    fn what_knows_nothing_does_not_differ_and_what_does_differs() {
        let times: Vec<f64> = (0..400).map(|i| f64::from(i * 7_919 % 400) * 100.0).collect();
        let met: Vec<u32> = (0..400).map(|i| i % 2).collect();
        assert!(compare(&times, &met, 1).unwrap().worst() < 3.0);
        let slower: Vec<f64> = times.iter().zip(&met).map(|(time, met)| time + 20_000.0 * f64::from(*met)).collect();
        assert!(compare(&slower, &met, 1).unwrap().place > 6.0);
        assert!(compare(&vec![1_000.0; 400], &met, 1).unwrap().worst() < 1e-9, "all the same");
        assert!(compare(&times, &vec![0; 400], 1).is_none());
    }
}
