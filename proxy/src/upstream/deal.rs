//! [`Deal`]: turns dealt by weight: of as many turns as the weights sum up to, each place gets exactly
//! its own, spread evenly over them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Places with weights.
#[derive(Debug, Default)]
pub(crate) struct Deal {
    /// For each place the sum of the weights up to and with it.
    up_to: Vec<u64>,
    /// How far the next turn is from the last one: a step without a common divisor with the sum visits
    /// every number once before it comes back, and one near the golden section leaves no gaps.
    step: u64,
    dealt: AtomicU64,
}

impl Deal {
    /// One place for each weight; a place of weight 0 gets nothing.
    pub(crate) fn new(weights: impl IntoIterator<Item = u32>) -> Self {
        let sums = weights.into_iter().scan(0, |sum, weight| {
            *sum += u64::from(weight);
            Some(*sum)
        });
        let up_to: Vec<u64> = sums.collect();
        let step = step(up_to.last().copied().unwrap_or(0));
        Self { up_to, step, dealt: AtomicU64::new(0) }
    }

    /// Whose turn it is; `None` when every weight is 0.
    pub(crate) fn next(&self) -> Option<usize> {
        let sum = self.sum()?;
        let turn = self.dealt.fetch_add(1, Relaxed) % sum;
        Some(self.place((u128::from(turn) * u128::from(self.step) % u128::from(sum)) as u64))
    }

    /// A place drawn at random, as likely as its weight says.
    pub(crate) fn draw(&self) -> Option<usize> {
        Some(self.place(rand::random_range(0..self.sum()?)))
    }

    fn sum(&self) -> Option<u64> {
        self.up_to.last().copied().filter(|sum| *sum > 0)
    }

    fn place(&self, number: u64) -> usize {
        self.up_to.partition_point(|up_to| *up_to <= number)
    }
}

fn step(sum: u64) -> u64 {
    let golden = (sum as f64 * 0.618_033_988_75) as u64;
    let coprime = |step: u64| {
        let (mut a, mut b) = (step, sum);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a == 1
    };
    (golden.max(1)..).find(|step| coprime(*step)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gets_its_share_exactly_and_evenly() {
        for weights in [vec![90, 10], vec![1, 1], vec![1, 2, 7], vec![0, 5], vec![999, 1], vec![33, 33, 34]] {
            let sum: u32 = weights.iter().sum();
            let deal = Deal::new(weights.iter().copied());
            let mut counts = vec![0; weights.len()];
            for turn in 1..=3 * sum {
                counts[deal.next().unwrap()] += 1;
                for (place, weight) in weights.iter().enumerate() {
                    let due = f64::from(turn) * f64::from(*weight) / f64::from(sum);
                    let got = f64::from(counts[place]);
                    assert!((got - due).abs() < 4.0, "{weights:?}: after {turn} turns {place} has {got}, not {due}");
                }
            }
            assert_eq!(counts, weights.iter().map(|weight| 3 * weight).collect::<Vec<_>>());
        }
        assert_eq!((Deal::new([0, 0]).next(), Deal::new([]).next()), (None, None));
    }
}
