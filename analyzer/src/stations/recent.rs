//! [`Recent`]: what held over the last windows. One window of 10 s knows λ and S to some percent, and a wait near
//! saturation moves by ten times that; windows in which nothing changed say it together.
//!
//! From the newest window back, a window joins while its arrival rate and service time lie within chance (3 standard errors) of
//! those already in; one in between may be odd, two end it. Of a service whose service time is not known its duration must not double
//! or halve. Traffic that grows slowly passes from window to window, so a line is laid through the rates of those that joined: where it
//! rises or falls beyond chance, the newest rate is that of its end, and the mean is one of the past.

use std::{collections::VecDeque, num::NonZeroU32};

use serde::{Deserialize, Serialize};

use super::ReplicaWindow;
use crate::{moments::Moments, window::ServiceWindow};

/// Windows kept, 200 bytes each: five minutes at 10 s.
const MAX_WINDOWS: usize = 30;

/// Standard errors within which two windows are the same.
const SAME: f64 = 3.0;

/// Windows that are not the same before it is said that something changed.
const CHANGED: usize = 2;

/// Where only durations are known, one so many times another's, or less than that part of it, is another: queues near saturation move
/// the mean of a window by half and more.
const SAME_DURATION: f64 = 2.0;

/// Windows that a line is laid through.
const MIN_LINE: usize = 5;

/// Standard errors of its slope that are no chance: once in eighty.
const SLOPE: f64 = 2.5;

/// The last windows of a service, oldest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Recent {
    windows: VecDeque<Seen>,
}

/// What is remembered of a window.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(into = "SavedSeen", from = "SavedSeen")]
pub(super) struct Seen {
    seconds: f64,
    served: f64,
    servers: Option<u32>,
    between_ms: Moments,
    service_ms: Moments,
    cut_service_ms: f64,
    wait_ms: Moments,
    duration_ms: f64,
}

/// [`Seen`] without the names of its fields, which would be half of a checkpoint.
type SavedSeen = (f64, f64, Option<u32>, [Moments; 3], [f64; 2]);

/// What held over several windows, this one included.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Steady {
    pub(crate) windows: u32,
    pub(crate) served: f64,
    pub(crate) seconds: f64,
    pub(crate) between_ms: Moments,
    pub(crate) service_ms: Moments,
    pub(crate) cut_service_ms: f64,
    pub(crate) wait_ms: Moments,
    pub(crate) duration_ms: f64,
    /// Standard error of the mean duration, by its scatter between windows; `None` of fewer than three.
    pub(crate) duration_error_ms: Option<f64>,
    /// Where they rise or fall beyond chance.
    pub(crate) newest: Option<NewestRate>,
}

/// Arrivals a second at the end of the newest window, by a line through the rates of several.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct NewestRate {
    pub(crate) per_s: f64,
    /// Its standard error.
    pub(crate) error: f64,
}

impl From<Seen> for SavedSeen {
    fn from(seen: Seen) -> Self {
        let Seen { seconds, served, servers, between_ms, service_ms, cut_service_ms, wait_ms, duration_ms } = seen;
        (seconds, served, servers, [between_ms, service_ms, wait_ms], [cut_service_ms, duration_ms])
    }
}

impl From<SavedSeen> for Seen {
    fn from((seconds, served, servers, moments, [cut_service_ms, duration_ms]): SavedSeen) -> Self {
        let [between_ms, service_ms, wait_ms] = moments;
        Self { seconds, served, servers, between_ms, service_ms, cut_service_ms, wait_ms, duration_ms }
    }
}

impl Seen {
    pub(super) fn of(service: &ServiceWindow, seconds: f64) -> Self {
        let replicas = &service.station.replicas;
        let mut seen = Self {
            seconds,
            served: (service.requests - service.shed) as f64,
            servers: match service.known {
                super::Known::Given { servers, .. } | super::Known::Identified { servers, .. } => Some(servers.get()),
                _ => {
                    let found = |of: &ReplicaWindow| of.found.map(|found| found.servers);
                    replicas.iter().map(|of| of.servers.or(found(of)).map(NonZeroU32::get)).sum()
                }
            },
            cut_service_ms: service.cut_service_ms,
            duration_ms: service.busy_ns / 1e6,
            ..Self::default()
        };
        for replica in replicas {
            seen.between_ms.merge(&replica.between_ms);
            seen.service_ms.merge(&replica.service_ms);
            seen.wait_ms.merge(&replica.wait_ms);
        }
        seen
    }

    fn mean_duration_ms(&self) -> f64 {
        self.duration_ms / self.served.max(1.0)
    }

    fn rate(&self) -> f64 {
        self.served / self.seconds
    }

    fn rate_variance(&self) -> f64 {
        self.served.max(1.0) * self.between_ms.scv().unwrap_or(1.0).max(1.0) / self.seconds.powi(2)
    }

    fn service(&self) -> Option<(f64, f64)> {
        let (mean, scv) = (self.service_ms.mean()?, self.service_ms.scv()?);
        Some((mean, mean * mean * scv / self.service_ms.count()))
    }

    fn is_as(&self, other: &Self) -> bool {
        let near = |a: f64, b: f64, variance: f64| (a - b).abs() <= SAME * variance.sqrt();
        let rates = near(self.rate(), other.rate(), self.rate_variance() + other.rate_variance());
        let services = match (self.service(), other.service()) {
            (Some((a, of_a)), Some((b, of_b))) => near(a, b, of_a + of_b),
            (None, None) => self.takes_as_long(other),
            (a, b) => a.is_some() == b.is_some(),
        };
        rates && services && self.servers == other.servers
    }

    fn takes_as_long(&self, other: &Self) -> bool {
        let (a, b) = (self.mean_duration_ms(), other.mean_duration_ms());
        a <= SAME_DURATION * b && b <= SAME_DURATION * a
    }

    fn merge(&mut self, other: &Self) {
        self.seconds += other.seconds;
        self.served += other.served;
        self.between_ms.merge(&other.between_ms);
        self.service_ms.merge(&other.service_ms);
        self.cut_service_ms += other.cut_service_ms;
        self.wait_ms.merge(&other.wait_ms);
        self.duration_ms += other.duration_ms;
    }
}

impl Recent {
    /// As a checkpoint brought them: no more than are kept.
    pub(super) fn restored(mut self) -> Self {
        let surplus = self.windows.len().saturating_sub(MAX_WINDOWS);
        self.windows.drain(..surplus);
        self
    }

    /// Requests in all of them.
    pub(super) fn served(&self) -> f64 {
        self.windows.iter().map(|window| window.served).sum()
    }

    pub(super) fn add(&mut self, window: Seen) {
        self.windows.push_back(window);
        if self.windows.len() > MAX_WINDOWS {
            self.windows.pop_front();
        }
    }

    /// From the newest window back to the last change; `None` before the first.
    pub(super) fn steady(&self) -> Option<Steady> {
        let mut newest_first = self.windows.iter().rev();
        let mut all = newest_first.next()?.clone();
        let mut durations: Moments = [all.mean_duration_ms()].into_iter().collect();
        let mut rates = vec![(0.0, all.rate())];
        let (mut windows, mut odd) = (1, 0);
        for (age, window) in (1..).zip(newest_first) {
            if all.is_as(window) {
                all.merge(window);
                durations.add(window.mean_duration_ms());
                rates.push((-f64::from(age), window.rate()));
                (windows, odd) = (windows + 1, 0);
                continue;
            }
            odd += 1;
            if odd == CHANGED {
                break;
            }
        }
        let newest = newest(&rates, all.rate_variance() * f64::from(windows));
        let Seen { seconds, served, between_ms, service_ms, cut_service_ms, wait_ms, duration_ms, .. } = all;
        let scatter = durations.mean().zip(durations.scv()).filter(|_| windows > 2);
        let duration_error_ms = scatter.map(|(mean, scv)| mean * (scv / f64::from(windows)).sqrt());
        Some(Steady {
            windows,
            served,
            seconds,
            between_ms,
            service_ms,
            cut_service_ms,
            wait_ms,
            duration_ms,
            duration_error_ms,
            newest,
        })
    }
}

/// The end of the line of least squares through rates, half a window after the newest, of which each varies by chance by so much;
/// `None` where its slope may be chance too.
fn newest(rates: &[(f64, f64)], variance: f64) -> Option<NewestRate> {
    let n = rates.len() as f64;
    if rates.len() < MIN_LINE {
        return None;
    }
    let mean = |of: fn(&(f64, f64)) -> f64| rates.iter().map(of).sum::<f64>() / n;
    let (at, rate) = (mean(|(at, _)| *at), mean(|(_, rate)| *rate));
    let spread: f64 = rates.iter().map(|(x, _)| (x - at).powi(2)).sum();
    let slope = rates.iter().map(|(x, y)| (x - at) * (y - rate)).sum::<f64>() / spread;
    let off: f64 = rates.iter().map(|(x, y)| (y - rate - slope * (x - at)).powi(2)).sum();
    let variance = variance.max(off / (n - 2.0));
    if slope.abs() <= SLOPE * (variance / spread).sqrt() {
        return None;
    }
    let ahead = 0.5 - at;
    let error = (variance * (1.0 / n + ahead * ahead / spread)).sqrt();
    // a line that falls may end below what came last
    Some(NewestRate { per_s: (rate + slope * ahead).max(rates[0].1 / 2.0), error })
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::queueing::simulation::Law;

    fn window(rate: f64, service_ms: f64, random: &mut StdRng) -> Seen {
        let mut seen = Seen { seconds: 10.0, servers: Some(1), ..Seen::default() };
        let mut at_ms = 0.0;
        while at_ms < 10_000.0 {
            let between = Law::Exponential.sample(random) * 1e3 / rate;
            at_ms += between;
            seen.served += 1.0;
            seen.between_ms.add(between);
            seen.service_ms.add(Law::Exponential.sample(random) * service_ms);
        }
        seen
    }

    #[test]
    fn windows_join_until_something_changed() {
        let random = &mut StdRng::seed_from_u64(3);
        for (rate_before, service_before) in [(50.0, 10.0), (100.0, 5.0)] {
            let mut recent = Recent::default();
            (0..20).for_each(|_| recent.add(window(rate_before, service_before, random)));
            (0..10).for_each(|_| recent.add(window(100.0, 10.0, random)));
            let steady = recent.steady().unwrap();
            println!("seed 3: {} windows", steady.windows);
            assert!((8..=10).contains(&steady.windows), "{}", steady.windows);
            assert!((steady.served / steady.seconds / 100.0 - 1.0).abs() < 0.05);
        }
    }

    /// Traffic that had doubled in ten minutes was taken for what it was minutes before, and predictions at more of it
    /// said less wait than there was.
    #[test]
    fn traffic_that_grows_slowly_is_what_it_is_now() {
        let random = &mut StdRng::seed_from_u64(5);
        let mut recent = Recent::default();
        (0..40).for_each(|n| recent.add(window(20.0 + 0.4 * f64::from(n), 10.0, random)));
        let steady = recent.steady().unwrap();
        let (mean, newest) = (steady.served / steady.seconds, steady.newest.expect("it grows"));
        println!("seed 5: {} windows of {mean:.2}, {newest:?}", steady.windows);
        assert!(mean < 33.0, "the mean is of the past");
        assert!((newest.per_s / 35.8 - 1.0).abs() < 0.06 && newest.error < 0.06 * newest.per_s);
    }

    #[test]
    fn a_line_through_what_does_not_grow_is_hardly_ever_believed() {
        let random = &mut StdRng::seed_from_u64(6);
        let told = (0..100).filter(|_| {
            let mut recent = Recent::default();
            (0..20).for_each(|_| recent.add(window(20.0, 10.0, random)));
            recent.steady().unwrap().newest.is_some()
        });
        let told = told.count();
        println!("seed 6: {told} of 100");
        assert!(told <= 4, "{told} of 100");
    }

    #[test]
    fn where_no_service_is_known_windows_join_while_requests_take_as_long() {
        let random = &mut StdRng::seed_from_u64(7);
        let mut recent = Recent::default();
        for took_ms in [[10.0; 10], [25.0; 10]].into_iter().flatten() {
            let seen = window(100.0, 5.0, random);
            recent.add(Seen { duration_ms: took_ms * seen.served, service_ms: Moments::default(), ..seen });
        }
        let steady = recent.steady().unwrap();
        println!("seed 7: {} windows", steady.windows);
        assert!((8..=10).contains(&steady.windows) && (steady.duration_ms / steady.served - 25.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let random = &mut StdRng::seed_from_u64(4);
        let mut recent = Recent::default();
        (0..100).for_each(|_| recent.add(window(20.0, 10.0, random)));
        assert!(recent.windows.len() == MAX_WINDOWS && recent.steady().unwrap().windows >= 25);
    }
}
