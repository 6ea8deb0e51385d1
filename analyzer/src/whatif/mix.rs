//! [`Visited`]: whom requests that pass a service visit, and how long, beside all others: with more of these alone, what others are asked for is
//! another mix.
//!
//! By rates alone a service that gets more of one sort of requests makes more of all its calls, and takes as long for each. Recorded requests tell
//! the sorts apart. Of the visits to a service a share f is made for visits to the changed one, of which there are g times as many then:
//!
//! ```text
//! λ'/λ = f·g + 1 − f      S'/S = t'/t,  t' = (f·g·t₁ + (1 − f)·t₂)/(f·g + 1 − f)      (1 + cs²')/(1 + cs²) = (E't²/t'²)/(E t²/t²)
//! ```
//!
//! with t₁ and t₂ what a visit of either sort holds a server for: its duration where servers are held for calls, else its own time, less the wait,
//! which is what own times are on average above S. Within both sorts times are taken to vary alike. A service whose rate the recorded requests do
//! not account for is left to the rates of edges.

use std::sync::Arc;

use super::{entries::Recorded, traffic::Calls};
use crate::{
    model::Load,
    retiming::Request,
    snapshot::{ServiceView, Snapshot},
};

/// Fewer visits tell no share.
const MIN_VISITS: u32 = 30;

/// Recorded requests account for a rate to which their visits add up so nearly.
const NEARLY: f64 = 0.2;

/// Visits of recorded requests, each after the one that called it, and which services they account for.
pub(super) struct Visited {
    visits: Vec<Visit>,
    /// By place.
    accounted: Vec<bool>,
    /// S by place, without what servers are held for; `None` where it is not known.
    service_ms: Vec<Option<f64>>,
}

struct Visit {
    place: usize,
    /// The visit that called it.
    caller: Option<usize>,
    /// What it holds a server for, and waits for it.
    ms: f64,
    /// Without calls, which it may hold one for, too.
    own_ms: f64,
    /// How many a second it stands for.
    weight: f64,
}

/// What a service is visited for.
#[derive(Clone, Copy, Debug, Default)]
struct Sorts {
    /// Visits made for those of the changed service, a second, and what they take together.
    of_changed: f64,
    ms_of_changed: f64,
    others: f64,
    ms_of_others: f64,
    /// Without calls, of all.
    own_ms: f64,
}

/// What becomes of a service by who asks it then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Mixed {
    /// Arrivals then over now.
    pub(super) growth: f64,
    pub(super) mix: Mix,
}

/// Another mix of requests beside that of now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Mix {
    /// S then over now.
    pub(super) mean: f64,
    /// The same of 1 + cs².
    pub(super) square: f64,
}

impl Mix {
    pub(super) const AS_NOW: Self = Self { mean: 1.0, square: 1.0 };

    pub(super) fn cs2(self, now: f64) -> f64 {
        ((1.0 + now) * self.square - 1.0).max(0.0)
    }
}

impl Visited {
    pub(super) fn of(snapshot: &Snapshot, calls: &Calls<'_>, recorded: &Recorded<'_>) -> Self {
        let services = &snapshot.services;
        let (outside, mut visits) = (calls.outside_rates(), Vec::new());
        // in their order: sums of the same numbers are the same then
        for request in snapshot.requests.iter() {
            let (Some(place), Some(alike)) = (calls.place(&request.service), recorded.get(&*request.service)) else {
                continue;
            };
            add(&mut visits, services, calls, request, None, outside[place] / alike.len() as f64);
        }
        let mut seen = vec![(0, 0.0); services.len()];
        for Visit { place, weight, .. } in &visits {
            seen[*place] = (seen[*place].0 + 1, seen[*place].1 + weight);
        }
        let accounted = |(service, (visits, rate)): (&ServiceView, (u32, f64))| {
            visits >= MIN_VISITS && (rate - service.rate_per_s).abs() <= NEARLY * service.rate_per_s
        };
        let accounted = services.iter().zip(seen).map(accounted).collect();
        let service_ms = |service: &ServiceView| {
            let estimate = &service.estimate;
            Some(Load::now(estimate)?.service_time_ms - estimate.held_ms.unwrap_or(0.0))
        };
        Self { visits, accounted, service_ms: services.iter().map(service_ms).collect() }
    }

    /// With so many times the arrivals at one service, what becomes of each, by place; `None` where edges tell it as well as is known.
    pub(super) fn mixed(&self, changed: usize, arrivals: f64) -> Vec<Option<Mixed>> {
        let mut sorts = vec![Sorts::default(); self.accounted.len()];
        let mut is_of_changed = Vec::with_capacity(self.visits.len());
        for visit in &self.visits {
            let of_changed = visit.place == changed || visit.caller.is_some_and(|caller| is_of_changed[caller]);
            is_of_changed.push(of_changed);
            sorts[visit.place].add(visit, of_changed);
        }
        // who does not know the changed one knows nobody's share of it
        let is_known = |place: usize| self.accounted[place] && self.accounted[changed];
        let mixed = |(place, sorts): (usize, &Sorts)| sorts.mixed(arrivals, self.service_ms[place]);
        sorts.iter().enumerate().map(|sorts| is_known(sorts.0).then(|| mixed(sorts))).collect()
    }
}

fn add(
    visits: &mut Vec<Visit>,
    services: &[ServiceView],
    calls: &Calls<'_>,
    request: &Request<Arc<str>>,
    caller: Option<usize>,
    weight: f64,
) {
    let Some(place) = calls.place(&request.service) else { return };
    let (own_ms, this) = (request.own_ms(), visits.len());
    let ms = if services[place].estimate.held_ms.is_some() { request.duration_ms } else { own_ms };
    visits.push(Visit { place, caller, ms, own_ms, weight });
    let called = request.calls.iter().filter_map(|call| call.callee.as_deref());
    called.for_each(|callee| add(visits, services, calls, callee, Some(this), weight));
}

impl Sorts {
    fn add(&mut self, visit: &Visit, of_changed: bool) {
        let (visits, ms) = match of_changed {
            true => (&mut self.of_changed, &mut self.ms_of_changed),
            false => (&mut self.others, &mut self.ms_of_others),
        };
        *visits += visit.weight;
        *ms += visit.weight * visit.ms;
        self.own_ms += visit.weight * visit.own_ms;
    }

    /// S is without what servers are held for.
    fn mixed(&self, arrivals: f64, service_ms: Option<f64>) -> Mixed {
        let growth = (self.of_changed * arrivals + self.others) / (self.of_changed + self.others);
        let mix = service_ms.and_then(|service_ms| self.mix(arrivals, service_ms));
        Mixed { growth, mix: mix.unwrap_or(Mix::AS_NOW) }
    }

    /// `None` of one sort alone.
    fn mix(&self, arrivals: f64, service_ms: f64) -> Option<Mix> {
        let wait_ms = (self.own_ms / (self.of_changed + self.others) - service_ms).max(0.0);
        let mean = |ms: f64, visits: f64| (ms / visits - wait_ms).max(0.0);
        let (t1, t2) = (mean(self.ms_of_changed, self.of_changed), mean(self.ms_of_others, self.others));
        let moments = |of_changed: f64| {
            let all = of_changed + self.others;
            let first = (of_changed * t1 + self.others * t2) / all;
            (first, (of_changed * t1 * t1 + self.others * t2 * t2) / all)
        };
        let ((now, now2), (then, then2)) = (moments(self.of_changed), moments(self.of_changed * arrivals));
        let is_mixed = self.of_changed > 0.0 && self.others > 0.0 && now > 0.0 && then > 0.0;
        is_mixed.then(|| Mix { mean: then / now, square: then2 / then.powi(2) / (now2 / now.powi(2)) })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            tests::{change, edge, service},
            *,
        },
        *,
    };
    use crate::{retiming::Call, snapshot::Requests};

    /// A pool of eight threads: of the web a request makes one wait 100 ms for the store, of the api it takes 5 ms.
    fn pool() -> Snapshot {
        let mut pool = service("pool", 150.0, (50.0 * 105.0 + 100.0 * 5.0) / 150.0, 8, 60.0);
        pool.estimate.held_ms = Some(100.0 / 3.0);
        let wait_ms = pool.estimate.queue_wait_ms.observed.unwrap();
        let part = |service: &str, duration_ms: f64, callee: Option<Request<Arc<str>>>| {
            let call = |callee: Request<Arc<str>>| Call {
                start_ms: duration_ms - callee.duration_ms,
                end_ms: duration_ms,
                callee: Some(Box::new(callee)),
            };
            Request { service: Arc::from(service), duration_ms, calls: callee.map(call).into_iter().collect() }
        };
        let of_pool = |ms: f64, callee| part("pool", wait_ms + ms, callee);
        let web = part("web", wait_ms + 106.0, Some(of_pool(105.0, Some(part("store", 100.0, None)))));
        let api = part("api", wait_ms + 6.0, Some(of_pool(5.0, None)));
        Snapshot {
            services: vec![
                service("api", 100.0, 1.0, 4, wait_ms + 6.0),
                pool,
                service("store", 50.0, 100.0, 40, 100.0),
                service("web", 50.0, 1.0, 4, wait_ms + 106.0),
            ],
            edges: vec![
                edge("api", "pool", 100.0, 1.0),
                edge("pool", "store", 50.0, 1.0),
                edge("web", "pool", 50.0, 1.0),
            ],
            requests: Requests::of((0..80).map(|n| if n % 2 == 0 { web.clone() } else { api.clone() })),
            ..Snapshot::default()
        }
    }

    fn then(snapshot: &Snapshot, entry: &str, arrivals: f64) -> Prediction {
        what_if(snapshot, &Change { arrivals, ..change(entry) }).unwrap()
    }

    fn of<'a>(found: &'a Prediction, name: &str) -> Option<&'a ServicePrediction> {
        found.services.iter().find(|service| service.service == name)
    }

    /// The pool was said to be 79 % busy then, and the store to get five more: its callers' mix was taken to stay.
    #[test]
    fn more_requests_of_one_entry_are_more_of_what_these_ask_for() {
        let snapshot = pool();
        let found = then(&snapshot, "web", 1.3);
        let (pool, store) = (of(&found, "pool").unwrap(), of(&found, "store").unwrap());
        assert!((pool.arrival_rate_per_s_then - 165.0).abs() < 1e-6, "{pool:?}");
        assert!((store.arrival_rate_per_s_then - 65.0).abs() < 1e-6, "{store:?}");
        let busy = (65.0 * 0.105 + 100.0 * 0.005) / 8.0;
        assert!((pool.utilization_then.unwrap() - busy).abs() < 1e-6, "{pool:?}");
        // a request of the api takes no longer itself
        let api = found.entries.iter().find(|entry| entry.entry == "api").unwrap();
        let waits_longer = pool.queue_wait_ms_then.unwrap() - pool.queue_wait_ms.unwrap();
        let longer = api.response_time_ms_then.unwrap() - api.response_time_ms;
        assert!(waits_longer > 1.0 && (longer - waits_longer).abs() < 1e-6, "{longer} {waits_longer}");
        // short requests make the pool no busier than they are, and nobody calls the store for them
        let found = then(&snapshot, "api", 4.0);
        let busy = (50.0 * 0.105 + 400.0 * 0.005) / 8.0;
        let pool = of(&found, "pool").unwrap();
        assert!((pool.utilization_then.unwrap() - busy).abs() < 1e-6, "{pool:?}");
        assert_eq!(of(&found, "store"), None);
    }

    #[test]
    fn where_recorded_requests_do_not_account_for_a_rate_edges_tell_it() {
        let mut snapshot = pool();
        // half of what comes to the pool is in no recorded request
        let store = |snapshot: &Snapshot| of(&then(snapshot, "web", 1.3), "store").unwrap().arrival_rate_per_s_then;
        snapshot.services[1].rate_per_s = 300.0;
        assert!((store(&snapshot) - 65.0).abs() < 1e-6, "of the store they are all");
        let pool = of(&then(&snapshot, "web", 1.3), "pool").unwrap().arrival_rate_per_s_then;
        assert!((pool / snapshot.services[1].estimate.arrival_rate_per_s - 315.0 / 300.0).abs() < 1e-6, "{pool}");
        snapshot.requests = Requests::default();
        assert!((store(&snapshot) - 50.0 * 315.0 / 300.0).abs() < 1e-6);
    }

    #[test]
    fn short_requests_beside_long_ones_vary_more() {
        let sorts =
            |of_changed: f64| Sorts { of_changed, ms_of_changed: 10.0, others: 1.0, ms_of_others: 10.0, own_ms: 20.0 };
        let mixed = |of_changed: f64, arrivals: f64| sorts(of_changed).mixed(arrivals, Some(20.0 / (of_changed + 1.0)));
        assert_eq!(mixed(1.0, 2.0).mix, Mix { mean: 1.0, square: 1.0 }, "both take as long");
        assert_eq!(sorts(10.0).mixed(10.0, None).mix, Mix::AS_NOW, "S is not known");
        let Mixed { growth, mix } = mixed(10.0, 10.0);
        assert!((growth - 101.0 / 11.0).abs() < 1e-9);
        // E t² λ is what the wait follows: of a hundred of 1 ms beside one of 10 twice as much as of one of 10
        let (now, then) = ((20.0 / 11.0_f64, 110.0 / 11.0), (110.0 / 101.0_f64, 200.0 / 101.0));
        assert!((mix.mean - then.0 / now.0).abs() < 1e-9);
        assert!((mix.square - then.1 / then.0.powi(2) / (now.1 / now.0.powi(2))).abs() < 1e-9);
        assert_eq!(Mix { mean: 1.0, square: 0.1 }.cs2(1.0), 0.0);
    }
}
