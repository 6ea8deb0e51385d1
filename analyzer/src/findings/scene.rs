//! [`Scene`]: what a detector looks at: one closed window, its requests, and what was usual.

use std::ops::Range;

use weir_schema::UnixNanos;

use super::{
    facts::Facts,
    history::History,
    usual::{Sample, UsualShare},
};
use crate::{
    config::{Config, ControlConfig},
    graph::ServiceGraph,
    robust::median,
    snapshot::{Estimate, Snapshot},
    spans::{Name, Names},
    window::{ServiceWindow, Window},
};

/// Requests a window needs before it says anything of a service.
pub(super) const MIN_REQUESTS: u32 = 8;

/// Excess, as a share of what a request at the entry usually takes, that somebody there would notice.
pub(super) const MIN_IMPACT: f64 = 0.05;

/// Least number of times the usual value that is slow.
pub(super) const MIN_RATIO: f64 = 1.5;

/// A spread of a median that no service is below: schedulers and clocks.
pub(super) const LEAST_MS: f64 = 0.2;

/// Requests of a window over complete ones from which these are a sample.
const SAMPLED: f64 = 1.5;

/// Windows that a statement shows: this one and those it is compared with.
const SHOWN_WINDOWS: i64 = 30;

/// Levels that somebody set, whatever is usual.
#[derive(Clone, Copy, Debug)]
pub(super) struct Levels {
    /// What 99 of 100 requests at an entry are to take at most.
    pub(super) slo_ms: Option<f64>,
    /// How long a request may wait at a bottleneck.
    pub(super) wait_budget_ms: f64,
    /// How busy a bottleneck may be.
    pub(super) target_utilization: f64,
}

impl Levels {
    pub(super) fn of(config: &Config) -> Self {
        let ControlConfig { wq_budget_ms, target_utilization, .. } = config.control;
        Self { slo_ms: config.slo_ms, wait_budget_ms: wq_budget_ms, target_utilization }
    }
}

/// One window and all that is known at its end.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) window: &'a Window,
    /// The estimates of this window.
    pub(super) snapshot: &'a Snapshot,
    pub(super) names: &'a Names,
    pub(super) graph: &'a ServiceGraph,
    pub(super) facts: &'a Facts,
    pub(super) history: &'a History,
    /// Windows of history before anything is judged.
    pub(super) min_history: usize,
    /// What is asked and promised of services.
    pub(super) levels: Levels,
}

impl<'a> Scene<'a> {
    pub(super) fn seconds(&self) -> f64 {
        self.window.length_ns as f64 / 1e9
    }

    pub(super) fn start(&self) -> UnixNanos {
        self.window.end - self.window.length_ns
    }

    /// The time that statements show.
    pub(super) fn shown(&self) -> Range<UnixNanos> {
        self.window.end - SHOWN_WINDOWS * self.window.length_ns..self.window.end
    }

    pub(super) fn text(&self, name: Name) -> &'a str {
        self.names.text(name)
    }

    pub(super) fn estimate(&self, service: Name) -> Option<&'a Estimate> {
        super::remember::estimate(self.snapshot, self.text(service))
    }

    /// The request that spent most time in a service.
    pub(super) fn slowest(&self, service: Name) -> Option<u128> {
        self.facts.services.get(&service)?.slowest.map(|(_, trace)| trace)
    }

    /// Where most of the requests that pass a service enter.
    pub(super) fn entry(&self, service: Name) -> Option<Name> {
        let passing = self.facts.passing(service).max_by_key(|(_, passing, _)| *passing);
        // where no whole request tells, the rates of calls do
        let by_rates = || {
            let view = super::remember::view(self.snapshot, self.text(service))?;
            self.names.find(&view.entries.first()?.service)
        };
        passing.map(|(entry, ..)| entry).or_else(by_rates)
    }

    /// What a request usually takes where those of a service enter.
    pub(super) fn usual_request_ms(&self, service: Name) -> Option<f64> {
        let entry = self.entry(service)?;
        let usual = self.history.duration_ms.usual(entry).map(|usual| usual.median);
        usual.or_else(|| median(self.facts.entries.get(&entry)?.duration_ms.clone()))
    }

    /// Requests per second at an entry.
    pub(super) fn entry_rate_per_s(&self, entry: Name) -> f64 {
        let by_window = self.window.services.get(&entry).map(|service| service.requests as f64);
        let requests = by_window.or_else(|| Some(f64::from(self.facts.entries.get(&entry)?.requests)));
        requests.unwrap_or(0.0) / self.seconds()
    }

    /// Which share of an entry's requests passes a service.
    pub(super) fn reach(&self, entry: Name, service: Name) -> f64 {
        let passing = self.facts.passing(service).find(|(name, ..)| *name == entry);
        passing.map_or(f64::from(entry == service), |(_, passing, all)| f64::from(passing) / f64::from(all.max(1)))
    }

    /// How many a second there were of what was counted in complete requests: when there are too many, these are a sample.
    pub(super) fn per_s(&self, counted: f64) -> f64 {
        let of_window = |entry: &Name| self.window.services.get(entry).map_or(0, |service| service.requests) as f64;
        let all: f64 = self.facts.entries.keys().map(of_window).sum();
        let complete: f64 = self.facts.entries.values().map(|entry| f64::from(entry.requests)).sum();
        let weight = all / complete.max(1.0);
        // about one is one: a request may enter in one window and be complete in the next
        counted / self.seconds() * if weight > SAMPLED { weight } else { 1.0 }
    }

    /// Whether a service was there before, however seldom: it served, or anybody called it.
    pub(super) fn was_called(&self, service: Name) -> bool {
        let is_known = |usual: Option<UsualShare>| usual.is_some_and(|usual| self.is_known(usual.windows));
        let (operations, calls) = (&self.history.operations, &self.history.call_errors);
        let mut served = operations.keys((service, Name::MIN)..=(service, Name::MAX));
        let mut called = calls.keys((Name::MIN, Name::MIN)..=(Name::MAX, Name::MAX)).filter(|(_, to)| *to == service);
        // own times and gaps say less: those of a few requests a window, or of messages, are not kept
        served.any(|key| is_known(operations.usual_share(key))) || called.any(|key| is_known(calls.usual_share(key)))
    }

    /// Whether that is history enough.
    pub(super) fn is_known(&self, windows: usize) -> bool {
        windows >= self.min_history
    }
}

/// Own time of a window's requests; `None` of too few.
pub(super) fn own_time(service: &ServiceWindow) -> Option<Sample> {
    Sample::weighed(&service.own_ms).filter(|own| own.requests >= MIN_REQUESTS)
}

/// What a scene borrows, where a test has only some of it.
#[cfg(test)]
#[derive(Default)]
pub(super) struct Stage {
    pub(super) window: Window,
    pub(super) snapshot: Snapshot,
    pub(super) names: Names,
    pub(super) graph: ServiceGraph,
    pub(super) facts: Facts,
    pub(super) history: History,
}

#[cfg(test)]
impl Stage {
    pub(super) fn scene(&self) -> Scene<'_> {
        let Self { window, snapshot, names, graph, facts, history } = self;
        let levels = Levels::of(&Config::default());
        Scene { window, snapshot, names, graph, facts, history, min_history: 4, levels }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::usual::Share, *};

    /// Who was called by others a few times a window had no own time and no gap in history, and was taken for new.
    #[test]
    fn whoever_was_called_or_served_before_however_seldom_was_there() {
        let [caller, called, served, once, new] = [1, 2, 3, 4, 5];
        let (few, mut history) = (Share { hits: 0, of: 2 }, History::default());
        for window in 0..4 {
            history.call_errors.remember_share((caller, called), few, window);
            history.operations.remember_share((served, 9), few, window);
        }
        // the windows in which a call begins are remembered before it is suspected
        history.call_errors.remember_share((caller, once), few, 4);
        let stage = Stage { history, ..Stage::default() };
        let scene = stage.scene();
        assert_eq!([called, served, once, new].map(|service| scene.was_called(service)), [true, true, false, false]);
    }
}
