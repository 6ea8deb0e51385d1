//! [`Trend`]: whether a rate grows, and how fast, from points over time, robustly.
//!
//! The slope is the median of the slopes between all pairs of points (H. Theil, 1950; P. K. Sen, "Estimates of the regression
//! coefficient based on Kendall's tau", Journal of the American Statistical Association 63, 1968), so 29 % of the points may be
//! anything. Its interval lies between the slopes `(N ± z·σ)/2` places from the end of their order, with N pairs and
//! `σ² = n(n−1)(2n+5)/18`, the variance of Kendall's score. A trend is said when a 99 % interval leaves out zero and what it adds over the time
//! looked at is a visible share of the rate.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Points kept: 2,016 pairs take 50 µs.
const MAX_POINTS: usize = 64;

/// Fewer points say nothing of a trend.
const MIN_POINTS: usize = 8;

/// A point covers this long at most: 64 of them look back over an hour, further back it was another time of the day.
const MAX_POINT_S: f64 = 60.0;

/// Standard deviations of a 99 % interval.
const DEVIATIONS: f64 = 2.576;

/// Growth over the time looked at, as a share of the rate, that is worth saying.
const MIN_GROWTH: f64 = 0.1;

/// Rates over time: mean over every point's seconds. When full, neighbours are joined until points are a minute long, and then the
/// oldest goes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Rates {
    points: VecDeque<Point>,
    /// Windows that a point is made of.
    windows_a_point: u32,
    windows_in_last: u32,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(into = "[f64; 3]", from = "[f64; 3]")]
struct Point {
    end_s: f64,
    seconds: f64,
    count: f64,
}

/// A growth that is more than chance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Trend {
    /// Change of the rate in a second.
    pub(crate) slope: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// How long was looked at.
    pub(crate) seconds: f64,
}

impl From<Point> for [f64; 3] {
    fn from(Point { end_s, seconds, count }: Point) -> Self {
        [end_s, seconds, count]
    }
}

impl From<[f64; 3]> for Point {
    fn from([end_s, seconds, count]: [f64; 3]) -> Self {
        Self { end_s, seconds, count }
    }
}

impl Rates {
    /// As a checkpoint brought them: no more than are kept.
    pub(crate) fn restored(mut self) -> Self {
        let surplus = self.points.len().saturating_sub(MAX_POINTS);
        self.points.drain(..surplus);
        self
    }

    /// When the newest window ended.
    pub(crate) fn newest_s(&self) -> Option<f64> {
        self.points.back().map(|point| point.end_s)
    }

    /// Takes in a window that ended at `end_s`.
    pub(crate) fn add(&mut self, end_s: f64, seconds: f64, count: f64) {
        let new = Point { end_s, seconds, count };
        let grows = self.windows_in_last < self.windows_a_point.max(1) && self.windows_in_last > 0;
        match self.points.back_mut().filter(|_| grows) {
            Some(last) => {
                *last = last.with(&new);
                self.windows_in_last += 1;
            }
            None => {
                self.points.push_back(new);
                self.windows_in_last = 1;
            }
        }
        if self.points.len() > MAX_POINTS {
            self.make_room();
        }
    }

    fn make_room(&mut self) {
        let seconds = self.points.front().map_or(0.0, |point| point.seconds);
        if 2.0 * seconds > MAX_POINT_S {
            self.points.pop_front();
            return;
        }
        let newest = self.points.pop_back();
        let points: Vec<Point> = self.points.drain(..).collect();
        self.points.extend(points.chunks(2).map(|pair| pair.iter().skip(1).fold(pair[0], |all, next| all.with(next))));
        self.points.extend(newest);
        self.windows_a_point = self.windows_a_point.max(1).saturating_mul(2);
        self.windows_in_last = 1;
    }

    /// The trend; `None` when there is none beyond chance.
    pub(crate) fn trend(&self) -> Option<Trend> {
        // the last point may cover little yet
        let whole = self.points.iter().filter(|point| 2.0 * point.seconds >= self.points[0].seconds);
        let points: Vec<(f64, f64)> = whole.map(|p| (p.end_s - p.seconds / 2.0, p.count / p.seconds)).collect();
        if points.len() < MIN_POINTS {
            return None;
        }
        let (slope, low, high) = theil_sen(&points)?;
        let seconds = points[points.len() - 1].0 - points[0].0;
        let mean = points.iter().map(|(_, rate)| rate).sum::<f64>() / points.len() as f64;
        let visible = slope.abs() * seconds > MIN_GROWTH * mean;
        (visible && low * high > 0.0).then_some(Trend { slope, low, high, seconds })
    }
}

impl Point {
    fn with(&self, next: &Self) -> Self {
        Self { end_s: next.end_s, seconds: self.seconds + next.seconds, count: self.count + next.count }
    }
}

/// Slopes between all pairs of points, sorted.
pub(crate) fn slopes(points: &[(f64, f64)]) -> Vec<f64> {
    let pairs = points.iter().enumerate().flat_map(|(place, a)| points[place + 1..].iter().map(move |b| (a, b)));
    let mut slopes: Vec<f64> = pairs.filter(|(a, b)| b.0 > a.0).map(|(a, b)| (b.1 - a.1) / (b.0 - a.0)).collect();
    slopes.sort_by(f64::total_cmp);
    slopes
}

/// Standard deviation of Kendall's score, pairs that rise less those that fall, of so many points without a trend.
pub(crate) fn score_deviation(points: usize) -> f64 {
    let n = points as f64;
    (n * (n - 1.0) * (2.0 * n + 5.0) / 18.0).sqrt()
}

/// The median slope and its interval.
fn theil_sen(points: &[(f64, f64)]) -> Option<(f64, f64, f64)> {
    let slopes = slopes(points);
    let pairs = slopes.len() as f64;
    let spread = DEVIATIONS * score_deviation(points.len());
    let at = |place: f64| slopes.get((place.max(0.0) as usize).min(slopes.len().saturating_sub(1))).copied();
    Some((at(pairs / 2.0)?, at(((pairs - spread) / 2.0).floor())?, at(((pairs + spread) / 2.0).ceil())?))
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    fn rates(windows: usize, rate: impl Fn(f64) -> f64, seed: u64) -> Rates {
        let mut random = StdRng::seed_from_u64(seed);
        let mut rates = Rates::default();
        for window in 1..=windows {
            let end_s = window as f64 * 10.0;
            // a tenth up or down
            let noise = 1.0 + 0.1 * (2.0 * random.random::<f64>() - 1.0);
            rates.add(end_s, 10.0, 10.0 * rate(end_s) * noise);
        }
        rates
    }

    #[test]
    fn growth_is_found_through_noise_and_outliers() {
        for (windows, seed) in [(12, 1), (60, 2), (200, 3), (1_000, 4)] {
            let spike = |end_s: f64| if (end_s as u64).is_multiple_of(100) { 200.0 } else { 0.0 };
            let slope = 100.0 / (windows as f64 * 10.0);
            let found = rates(windows, |end_s| 50.0 + slope * end_s + spike(end_s), seed).trend().expect("it grows");
            println!("seed {seed}: {found:?}, {slope} meant");
            assert!((found.slope / slope - 1.0).abs() < 0.25 && found.low < slope && slope < found.high, "{found:?}");
        }
    }

    #[test]
    fn what_does_not_grow_has_no_trend() {
        let told = (0..200).filter(|seed| rates(40, |_| 50.0, *seed).trend().is_some()).count();
        assert!(told <= 4, "{told} of 200 flat rates had a trend");
        assert_eq!(rates(5, |end_s| end_s, 1).trend(), None, "five points");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let rates = rates(5_000, |_| 50.0, 1);
        assert!(rates.points.len() <= MAX_POINTS, "{}", rates.points.len());
        assert!(rates.points.iter().all(|point| point.seconds <= MAX_POINT_S));
    }
}
