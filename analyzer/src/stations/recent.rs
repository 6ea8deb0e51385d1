//! [`Recent`]: what held over the last windows. One window of 10 s knows λ and S to some percent, and a wait near
//! saturation moves by ten times that; windows in which nothing changed say it together.
//!
//! From the newest window back, a window joins while its arrival rate and service time lie within chance (3 standard errors) of
//! those already in; one in between may be odd, two end it.

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
                super::Known::Given { servers, .. } => Some(servers.get()),
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
            (a, b) => a.is_some() == b.is_some(),
        };
        rates && services && self.servers == other.servers
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
        let (mut windows, mut odd) = (1, 0);
        for window in newest_first {
            if all.is_as(window) {
                all.merge(window);
                durations.add(window.mean_duration_ms());
                (windows, odd) = (windows + 1, 0);
                continue;
            }
            odd += 1;
            if odd == CHANGED {
                break;
            }
        }
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
        })
    }
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

    #[test]
    fn what_is_kept_is_bounded() {
        let random = &mut StdRng::seed_from_u64(4);
        let mut recent = Recent::default();
        (0..100).for_each(|_| recent.add(window(20.0, 10.0, random)));
        assert!(recent.windows.len() == MAX_WINDOWS && recent.steady().unwrap().windows >= 25);
    }
}
