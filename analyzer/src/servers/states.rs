//! [`States`]: how long how many were there, and how many left meanwhile: the rate at which a station serves, state by state.

use std::num::NonZeroU32;

use crate::{departures::Visit, queueing::usl::Usl};

/// Departures that a state needs to be a point of the law.
const MIN_DEPARTURES: f64 = 20.0;

/// A law that costs less than this share of the throughput at the most seen is as good as none.
const MIN_BEND: f64 = 0.2;

/// How long how many were there, and how many left meanwhile.
pub(super) struct States {
    /// By the number there: time, and departures that ended it.
    spent: Vec<(f64, f64)>,
    /// Times at which the number changed, and the number after.
    changes: Vec<(i64, u32)>,
}

impl States {
    pub(super) fn of(visits: &[Visit]) -> Self {
        let mut events: Vec<(i64, i32)> = visits.iter().flat_map(|v| [(v.arrival, 1), (v.departure, -1)]).collect();
        // who leaves at the moment another comes was not met
        events.sort_unstable();
        let (mut there, mut last) = (0_i32, events.first().map_or(0, |(time, _)| *time));
        let mut spent: Vec<(f64, f64)> = Vec::new();
        let mut changes = Vec::with_capacity(events.len());
        for (time, change) in events {
            let state = usize::try_from(there).unwrap_or(0);
            if spent.len() <= state {
                spent.resize(state + 1, (0.0, 0.0));
            }
            spent[state].0 += (time - last) as f64;
            spent[state].1 += f64::from(change < 0);
            (there, last) = (there + change, time);
            changes.push((time, u32::try_from(there).unwrap_or(0)));
        }
        Self { spent, changes }
    }

    /// Logarithm, up to what all candidates share, of the likelihood that departures come at `min(n, c)/S`.
    pub(super) fn likelihood(&self, servers: NonZeroU32) -> f64 {
        self.likelihood_of(|there| there.min(f64::from(servers.get())))
    }

    /// The same of departures in proportion to `rate(n)`.
    pub(super) fn likelihood_of(&self, rate: impl Fn(f64) -> f64) -> f64 {
        let states = self.spent.iter().enumerate().skip(1);
        let served: f64 = states.clone().map(|(n, (time, _))| time * rate(n as f64)).sum();
        states.map(|(n, (_, left))| left * (rate(n as f64) / served).ln()).sum()
    }

    /// Gunther's law through departures per nanosecond by the number there; `None` where it does not bend.
    pub(super) fn contention(&self) -> Option<Usl> {
        let states = self.spent.iter().enumerate().skip(1);
        let often = states.filter(|(_, (time, left))| *left >= MIN_DEPARTURES && *time > 0.0);
        let points: Vec<(f64, f64, f64)> = often.map(|(n, (time, left))| (n as f64, left / time, *left)).collect();
        let law = Usl::fit_weighted(&points)?;
        let most = points.last()?.0;
        (law.throughput(most) < (1.0 - MIN_BEND) * law.gamma * most).then_some(law)
    }

    /// The service each visit got: `∫ share(n(t)) dt`.
    pub(super) fn attained(&self, visits: &[Visit], share: impl Fn(u32) -> f64) -> Vec<f64> {
        // what somebody who is there all the time would have got by each change
        let (mut total, mut last, mut there) = (0.0, self.changes.first().map_or(0, |(time, _)| *time), 0);
        let mut by_time = Vec::with_capacity(self.changes.len());
        for (time, after) in &self.changes {
            total += (time - last) as f64 * share(there);
            (there, last) = (*after, *time);
            by_time.push((*time, total));
        }
        let at = |time: i64| {
            let place = by_time.partition_point(|(known, _)| *known < time);
            by_time.get(place).or(by_time.last()).map_or(0.0, |(_, total)| *total)
        };
        visits.iter().map(|visit| at(visit.departure) - at(visit.arrival)).collect()
    }
}
