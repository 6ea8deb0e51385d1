//! [`Sketch`]: durations in logarithmic buckets, each within 1 % of its values; mergeable.
//!
//! After C. Masson, J. E. Rim, H. K. Lee: "DDSketch: a fast and fully-mergeable quantile sketch
//! with relative-error guarantees", VLDB 2019. Bucket i holds values in (γ^(i−1), γ^i] with
//! γ = (1+α)/(1−α), α = 0.01.
//!
//! Up to 32 used buckets stand in order, 16 bytes each: most operations of a minute have no more. Further
//! ones of a busy key are counted in place, 8 bytes for each bucket between the first and the last, about
//! 3 KB for durations between 1 and 1,000 ms; 16 KB at most.

/// ln γ for α = 0.01: a value x is in bucket ⌈ln x / ln γ⌉.
pub const LN_GAMMA: f64 = 0.020_000_666_706_669_435;

/// (1+α)/(1−α).
const GAMMA: f64 = 1.01 / 0.99;

/// Used buckets beyond which they are counted in place.
const MAX_SPARSE: usize = 32;

/// Buckets that are counted in place at most: values e²⁰ times as long as others, 5·10⁸.
const MAX_DENSE: usize = 1_024;

/// A sketch of non-negative numbers.
#[derive(Clone, Debug, Default)]
pub struct Sketch {
    /// By bucket. Counts are negative only in the remainder of a subtraction, and 0 where that left nothing.
    counts: Counts,
    zeros: i64,
    count: i64,
}

/// The counts of buckets.
#[derive(Clone, Debug)]
enum Counts {
    /// Used ones, in order.
    Sparse(Vec<(i16, i64)>),
    /// All from this one on.
    Dense(i16, Vec<i64>),
}

impl Default for Counts {
    fn default() -> Self {
        Self::Sparse(Vec::new())
    }
}

impl Counts {
    /// The count of a bucket, which is there from now on.
    fn of(&mut self, bucket: i16) -> &mut i64 {
        if !self.has_room(bucket) {
            self.make_room(bucket);
        }
        match self {
            Self::Sparse(used) => match used.binary_search_by_key(&bucket, |(bucket, _)| *bucket) {
                Ok(place) => &mut used[place].1,
                Err(place) => {
                    used.insert(place, (bucket, 0));
                    &mut used[place].1
                }
            },
            Self::Dense(first, counts) => &mut counts[(i32::from(bucket) - i32::from(*first)) as usize],
        }
    }

    fn has_room(&self, bucket: i16) -> bool {
        match self {
            Self::Sparse(used) => used.len() < MAX_SPARSE,
            Self::Dense(first, counts) => {
                let place = i32::from(bucket) - i32::from(*first);
                place >= 0 && (place as usize) < counts.len()
            }
        }
    }

    /// Counts all between the first and the last in place, if they are not too far apart.
    fn make_room(&mut self, bucket: i16) {
        let used: Vec<(i16, i64)> = self.iter().collect();
        let (low, high) = used.iter().fold((bucket, bucket), |(low, high), (b, _)| (low.min(*b), high.max(*b)));
        let range = (i32::from(high) - i32::from(low)) as usize + 1;
        if range > MAX_DENSE {
            *self = Self::Sparse(used);
            return;
        }
        // a little more on either side, so that it seldom has to move
        let first = low.saturating_sub(range as i16 / 8);
        let mut counts = vec![0; range + range / 4 + 1];
        used.iter().for_each(|(b, count)| counts[(i32::from(*b) - i32::from(first)) as usize] = *count);
        *self = Self::Dense(first, counts);
    }

    /// The bucket of the value that so many are below.
    fn at(&self, rank: i64) -> Option<i16> {
        let mut below = 0;
        let mut is_there = |count: &i64| {
            below += count;
            rank < below
        };
        match self {
            Self::Sparse(used) => used.iter().find(|(_, count)| is_there(count)).map(|(bucket, _)| *bucket),
            Self::Dense(first, counts) => {
                counts.iter().position(is_there).map(|place| (i32::from(*first) + place as i32) as i16)
            }
        }
    }

    /// Buckets that hold something, in order.
    fn iter(&self) -> impl Iterator<Item = (i16, i64)> {
        let (used, first, counts): (&[(i16, i64)], _, &[i64]) = match self {
            Self::Sparse(used) => (used, 0, &[]),
            Self::Dense(first, counts) => (&[], *first, counts),
        };
        let dense =
            counts.iter().enumerate().map(move |(place, count)| ((i32::from(first) + place as i32) as i16, *count));
        used.iter().copied().chain(dense).filter(|(_, count)| *count != 0)
    }
}

/// The bucket of a value; `None` for what counts as zero. Of a value that goes to several sketches it is found once.
pub(crate) fn bucket_of(value: f64) -> Option<i16> {
    (value > 1e-9).then(|| {
        let exact = value.ln() / LN_GAMMA;
        // rounded up by hand: without SSE 4.1 `ceil` is a call
        let whole = exact as i32;
        let up = i32::from(exact > f64::from(whole));
        whole.saturating_add(up).clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16
    })
}

impl PartialEq for Sketch {
    fn eq(&self, other: &Self) -> bool {
        (self.zeros, self.count) == (other.zeros, other.count) && self.buckets().eq(other.buckets())
    }
}

impl Sketch {
    /// Counts a value; a negative one or NaN counts as zero.
    pub fn add(&mut self, value: f64) {
        self.add_many(value, 1);
    }

    /// Counts a value so many times.
    pub fn add_many(&mut self, value: f64, times: i64) {
        self.add_bucket(bucket_of(value), times);
    }

    /// Counts a value by its bucket.
    pub(crate) fn add_bucket(&mut self, bucket: Option<i16>, times: i64) {
        self.count += times;
        match bucket {
            Some(bucket) => *self.counts.of(bucket) += times,
            None => self.zeros += times,
        }
    }

    /// Takes in another sketch.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.zeros += other.zeros;
        for (bucket, count) in other.buckets() {
            *self.counts.of(bucket) += count;
        }
    }

    /// Takes another sketch out again. What it holds more often than this one stays owed: merging
    /// such a remainder with the other gives this one back.
    pub(crate) fn subtract(&mut self, other: &Self) {
        self.count -= other.count;
        self.zeros -= other.zeros;
        for (bucket, count) in other.buckets() {
            *self.counts.of(bucket) -= count;
        }
    }

    /// Forgets what is owed.
    pub(crate) fn forgive(&mut self) {
        self.zeros = self.zeros.max(0);
        self.counts = Counts::Sparse(self.counts.iter().filter(|(_, count)| *count > 0).collect());
        self.count = self.zeros + self.counts.iter().map(|(_, count)| count).sum::<i64>();
    }

    /// Whether something is owed.
    pub(crate) fn owes(&self) -> bool {
        self.zeros < 0 || self.counts.iter().any(|(_, count)| count < 0)
    }

    /// Buckets that hold something, in order.
    fn buckets(&self) -> impl Iterator<Item = (i16, i64)> {
        self.counts.iter()
    }

    /// How many values it holds.
    #[must_use]
    pub fn count(&self) -> u64 {
        u64::try_from(self.count).unwrap_or(0)
    }

    /// The q-quantile, within 1 %; `None` when empty.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        if self.count <= 0 {
            return None;
        }
        let rank = (q.clamp(0.0, 1.0) * (self.count - 1) as f64).floor() as i64;
        if rank < self.zeros {
            return Some(0.0);
        }
        let upper = (f64::from(self.counts.at(rank - self.zeros)?) * LN_GAMMA).exp();
        Some(upper * 2.0 / (1.0 + GAMMA))
    }

    /// As bytes: zeros, then (bucket, count) pairs, little-endian.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.zeros.max(0).to_le_bytes().to_vec();
        for (bucket, count) in self.buckets().filter(|(_, count)| *count > 0) {
            bytes.extend_from_slice(&bucket.to_le_bytes());
            bytes.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
        }
        bytes
    }

    /// Reads [`Sketch::to_bytes`]; `None` when the bytes are not a sketch.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let zeros = i64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
        let mut sketch = Self { zeros, count: zeros, ..Self::default() };
        for pair in bytes[8..].chunks(6) {
            let bucket = i16::from_le_bytes(pair.get(..2)?.try_into().ok()?);
            let count = i64::from(u32::from_le_bytes(pair.get(2..)?.try_into().ok()?));
            *sketch.counts.of(bucket) += count;
            sketch.count += count;
        }
        Some(sketch)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn quantiles_are_within_one_percent(mut values in prop::collection::vec(1e-3f64..1e9, 1..300), q in 0.0f64..=1.0) {
            let mut sketch = Sketch::default();
            values.iter().for_each(|v| sketch.add(*v));
            values.sort_by(f64::total_cmp);
            let exact = values[(q * (values.len() - 1) as f64).floor() as usize];
            let found = sketch.quantile(q).unwrap();
            prop_assert!((found / exact - 1.0).abs() < 0.0101, "{found} for {exact}");
            prop_assert_eq!(Sketch::from_bytes(&sketch.to_bytes()), Some(sketch));
        }
    }

    #[test]
    fn many_buckets_near_and_far_count_as_few_do() {
        let mut values: Vec<f64> = (0..500).map(|n| 1.02_f64.powi(n % 97)).collect();
        // then far below, far above, and beyond what is counted in place
        values.extend([1e-3, 1e4, 1e-8, 1e200, f64::INFINITY]);
        let mut sketch = Sketch::default();
        for (n, value) in values.iter().enumerate() {
            sketch.add(*value);
            let mut exact = values[..=n].to_vec();
            exact.sort_by(f64::total_cmp);
            let middle = exact[n / 2];
            assert!((sketch.quantile(0.5).unwrap() / middle - 1.0).abs() < 0.0101, "{n}");
        }
        assert_eq!(sketch.buckets().map(|(_, count)| count).sum::<i64>(), values.len() as i64);
        let bytes = sketch.to_bytes();
        assert_eq!(Sketch::from_bytes(&bytes).unwrap(), sketch);
        let mut backwards = Sketch::default();
        values.iter().rev().for_each(|value| backwards.add(*value));
        assert_eq!(backwards, sketch, "whatever the order");
    }

    #[test]
    fn merging_is_adding() {
        let (mut a, mut b, mut both) = (Sketch::default(), Sketch::default(), Sketch::default());
        for value in 0..100 {
            let half = if value % 2 == 0 { &mut a } else { &mut b };
            half.add(f64::from(value));
            both.add(f64::from(value));
        }
        a.merge(&b);
        assert_eq!(a, both);
        a.subtract(&b);
        assert!(!a.owes());
        a.subtract(&both);
        assert!(a.owes(), "b was never in a");
        a.merge(&b);
        assert_eq!((a.count(), a.owes()), (0, false));
        assert_eq!(a, Sketch::default(), "what was emptied is as if it had never been filled");
    }
}
