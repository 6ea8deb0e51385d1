//! [`identify`]: how many servers a station has and how it serves, from arrivals and departures alone.
//!
//! Each candidate explains the visits in its own way. First come first served with c servers
//! ([`reconstruct`]) gives service times that are possible, nobody leaves before being started, and that know
//! nothing of how many were there: with too few servers those who met a queue look served faster, with
//! too many slower. A station that is shared leaves `min(n, c)/S` times a second when n are there,
//! whatever the distribution of S (Kelly's insensitivity of symmetric queues), so c is the one under
//! which the departures are likeliest; the service that each visit then got must again know nothing of n.
//! Independence is asked of ranks, of their place (H. B. Mann and D. R. Whitney, 1947) and of their
//! scatter (A. R. Ansari and R. A. Bradley, 1960), so heavy tails do not decide.
//!
//! A station is refused when it hardly ever queues, for then any number above the one seen explains it,
//! and when no candidate does.

use std::num::NonZeroU32;

use crate::departures::{Served, Visit, reconstruct};

/// Fewer visits say too little of anything.
pub const MIN_VISITS: usize = 200;

/// Candidates; more servers than this are hardly ever all busy in one window.
const MAX_SERVERS: u32 = 64;

/// Visits that need to have met a queue, and not to have.
const MIN_GROUP: usize = 15;

/// A visit that leaves this share of a service time before its start is impossible; clocks are off by less.
const CLOCK_TOLERANCE: f64 = 0.05;

/// Impossible visits above this share rule a candidate out; one is chance.
const MAX_IMPOSSIBLE: f64 = 0.003;

/// Standard deviations by which service times may differ between groups.
const MAX_DEVIATION: f64 = 3.5;

/// Beyond these standard deviations further servers only fit worse.
const HOPELESS: f64 = 12.0;

/// Standard deviations by which waiting must show for there to be a queue at all.
const MIN_QUEUE_EVIDENCE: f64 = 3.0;

/// How a station serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discipline {
    /// First come, first served: one at a time per server, the others wait.
    Fifo,
    /// Everybody is served at once, each a little slower.
    ProcessorSharing,
}

/// What was found of a station.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Station {
    /// How it serves.
    pub discipline: Discipline,
    /// c.
    pub servers: NonZeroU32,
    /// S, nanoseconds.
    pub service_ns: f64,
    /// cs².
    pub cs2: f64,
    /// By how many standard deviations the best other number of servers explains it worse.
    pub margin: f64,
}

/// Why a station cannot be identified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unidentifiable {
    /// There were too few visits.
    #[error("{visits} requests are too few: {MIN_VISITS} are needed")]
    TooFew {
        /// That many.
        visits: usize,
    },
    /// Any number of servers from this one on explains what was seen.
    #[error("requests hardly ever wait: it has {at_least} servers or more")]
    HardlyQueues {
        /// The fewest.
        at_least: NonZeroU32,
    },
    /// Neither first come first served nor shared, with any number of servers.
    #[error("requests wait, but neither in order nor by sharing: its number of servers cannot be told")]
    NoModel,
}

/// One candidate's account of the visits.
struct Account {
    discipline: Discipline,
    servers: NonZeroU32,
    service_ns: Vec<f64>,
    /// Standard deviations by which the service times know how many were there, at worst.
    misfit: f64,
    /// The same for their place between those who met all servers busy and the others.
    place: f64,
}

/// Visits in order of arrival, with what each met.
struct Observed {
    visits: Vec<Visit>,
    /// How many were there when each came.
    met: Vec<u32>,
    most: u32,
    /// The middle of `met`, at least one.
    middle: u32,
}

/// Identifies a station by its visits. The first visits are taken to have met it idle.
///
/// # Errors
/// [`Unidentifiable`], and why.
pub fn identify(visits: &[Visit]) -> Result<Station, Unidentifiable> {
    if visits.len() < MIN_VISITS {
        return Err(Unidentifiable::TooFew { visits: visits.len() });
    }
    let observed = Observed::new(visits);
    let (at_least, in_order) = observed.in_order();
    if !observed.waits(at_least) {
        return Err(Unidentifiable::HardlyQueues { at_least });
    }
    let accounts: Vec<Account> = in_order.into_iter().chain(observed.shared()).collect();
    best(&accounts).ok_or(Unidentifiable::NoModel)
}

/// Splits visits to c servers that all share: what a visit got is service, what it took longer is wait.
#[must_use]
pub fn shared(visits: &[Visit], servers: NonZeroU32) -> Vec<Served> {
    let attained = States::of(visits).attained(visits, servers);
    let split = |(visit, service_ns): (&Visit, f64)| {
        let service_ns = service_ns as i64;
        let wait_ns = (visit.departure - visit.arrival - service_ns).max(0);
        Served { wait_ns, service_ns, complete: !visit.gave_up, overrun_ns: 0 }
    };
    visits.iter().zip(attained).map(split).collect()
}

/// The account that fits best.
fn best(accounts: &[Account]) -> Option<Station> {
    let fitting = accounts.iter().filter(|account| account.misfit <= MAX_DEVIATION);
    let chosen = fitting.min_by(|a, b| a.misfit.total_cmp(&b.misfit))?;
    let others = accounts.iter().filter(|other| !std::ptr::eq(*other, chosen));
    let margin = others.map(|other| other.misfit).fold(f64::INFINITY, f64::min) - chosen.misfit;
    let (mean, cs2) = mean_and_scv(&chosen.service_ns);
    Some(Station { discipline: chosen.discipline, servers: chosen.servers, service_ns: mean, cs2, margin })
}

impl Observed {
    fn new(visits: &[Visit]) -> Self {
        let mut visits = visits.to_vec();
        visits.sort_by_key(|visit| (visit.arrival, visit.departure));
        let mut departures: Vec<i64> = visits.iter().map(|visit| visit.departure).collect();
        departures.sort_unstable();
        let mut left = 0;
        let count = |(come, visit): (usize, &Visit)| {
            while left < departures.len() && departures[left] <= visit.arrival {
                left += 1;
            }
            u32::try_from(come.saturating_sub(left)).unwrap_or(u32::MAX)
        };
        let met: Vec<u32> = visits.iter().enumerate().map(count).collect();
        let mut sorted = met.clone();
        sorted.sort_unstable();
        let middle = sorted[sorted.len() / 2].max(1);
        Self { most: sorted[sorted.len() - 1].saturating_add(1), middle, visits, met }
    }

    /// Whether those who met others there took longer: with servers for everybody they would not.
    fn waits(&self, at_least: NonZeroU32) -> bool {
        let stays: Vec<f64> = self.visits.iter().map(|visit| (visit.departure - visit.arrival) as f64).collect();
        // the fewest servers may be one or two below the true number, which queues a little later
        let thresholds = at_least.get()..at_least.get() + 3;
        let evidence = thresholds.filter_map(|servers| groups(&stays, &self.met, servers).map(|(place, _)| place));
        evidence.fold(f64::NEG_INFINITY, f64::max) > MIN_QUEUE_EVIDENCE
    }

    /// The fewest servers that serve in order and are possible, and what they and more of them explain.
    fn in_order(&self) -> (NonZeroU32, Vec<Account>) {
        let mut accounts: Vec<Account> = Vec::new();
        let mut at_least = NonZeroU32::MIN;
        for servers in (1..=MAX_SERVERS.min(self.most)).filter_map(NonZeroU32::new) {
            let Some(service_ns) = self.possible(servers) else {
                at_least = servers.saturating_add(1);
                continue;
            };
            let account = self.account(Discipline::Fifo, servers, service_ns);
            let hopeless = account.place > HOPELESS;
            accounts.push(account);
            if hopeless {
                break;
            }
        }
        (at_least, accounts)
    }

    /// Service times in order of arrival; `None` when too many visits left before they could be started.
    fn possible(&self, servers: NonZeroU32) -> Option<Vec<f64>> {
        let served = reconstruct(&self.visits, servers);
        let service = |(visit, served): (&Visit, &Served)| (visit.departure - visit.arrival - served.wait_ns) as f64;
        let service_ns: Vec<f64> = self.visits.iter().zip(&served).map(service).collect();
        let tolerance = CLOCK_TOLERANCE * service_ns.iter().sum::<f64>() / service_ns.len() as f64;
        // of two that came at about the same time, the clock does not say which was first
        let at = |place: usize| self.visits.get(place).map(|visit| visit.arrival);
        let near = |a: Option<i64>, b: Option<i64>| a.zip(b).is_some_and(|(a, b)| ((b - a).abs() as f64) < tolerance);
        let alone =
            |place: usize| !near(at(place), at(place + 1)) && !near(place.checked_sub(1).and_then(at), at(place));
        let overran = |place: usize| served[place].overrun_ns as f64 > tolerance;
        let impossible = (0..served.len()).filter(|place| overran(*place) && alone(*place)).count();
        (impossible as f64 <= MAX_IMPOSSIBLE * served.len() as f64).then_some(service_ns)
    }

    /// The number of servers under which the departures are likeliest if they are shared.
    fn shared(&self) -> Option<Account> {
        let states = States::of(&self.visits);
        let candidates = (1..=MAX_SERVERS.min(self.most)).filter_map(NonZeroU32::new);
        let servers = candidates.max_by(|a, b| states.likelihood(*a).total_cmp(&states.likelihood(*b)))?;
        Some(self.account(Discipline::ProcessorSharing, servers, states.attained(&self.visits, servers)))
    }

    fn account(&self, discipline: Discipline, servers: NonZeroU32, service_ns: Vec<f64>) -> Account {
        let between = |threshold: u32| groups(&service_ns, &self.met, threshold);
        let (place, scatter) = between(servers.get()).unwrap_or((f64::INFINITY, f64::INFINITY));
        // few meet many servers all busy: what holds there must hold between the middle's halves too
        let (middle_place, middle_scatter) = between(self.middle).unwrap_or((0.0, 0.0));
        let misfit = [place, scatter, middle_place, middle_scatter].into_iter().map(f64::abs).fold(0.0, f64::max);
        Account { discipline, servers, service_ns, misfit, place }
    }
}

/// How long how many were there, and how many left meanwhile.
struct States {
    /// By the number there: time, and departures that ended it.
    spent: Vec<(f64, f64)>,
    /// Times at which the number changed, and the number after.
    changes: Vec<(i64, u32)>,
}

impl States {
    fn of(visits: &[Visit]) -> Self {
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
    fn likelihood(&self, servers: NonZeroU32) -> f64 {
        let busy = |n: usize| (n as f64).min(f64::from(servers.get()));
        let states = self.spent.iter().enumerate().skip(1);
        let served: f64 = states.clone().map(|(n, (time, _))| time * busy(n)).sum();
        states.map(|(n, (_, left))| left * (busy(n) / served).ln()).sum()
    }

    /// The service each visit got: `∫ min(1, c/n(t)) dt`.
    fn attained(&self, visits: &[Visit], servers: NonZeroU32) -> Vec<f64> {
        // what somebody who is there all the time would have got by each change
        let (mut total, mut last, mut there) = (0.0, self.changes.first().map_or(0, |(time, _)| *time), 0);
        let mut by_time = Vec::with_capacity(self.changes.len());
        for (time, after) in &self.changes {
            total += (time - last) as f64 * (f64::from(servers.get()) / f64::from(there.max(1))).min(1.0);
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

/// Standard deviations by which the place and the scatter of `times` differ between those who met
/// `servers` or more there and the others; `None` when either group is too small.
fn groups(times: &[f64], met: &[u32], servers: u32) -> Option<(f64, f64)> {
    let busy = met.iter().filter(|others| **others >= servers).count();
    let idle = times.len() - busy;
    if busy < MIN_GROUP || idle < MIN_GROUP {
        return None;
    }
    let mut order: Vec<usize> = (0..times.len()).collect();
    order.sort_by(|a, b| times[*a].total_cmp(&times[*b]));
    let total = times.len() as f64;
    let (mut ranks, mut distances) = (0.0, 0.0);
    for (rank, index) in order.into_iter().enumerate() {
        if met[index] >= servers {
            let rank = rank as f64 + 1.0;
            ranks += rank;
            distances += (rank - (total + 1.0) / 2.0).abs();
        }
    }
    let (busy, idle) = (busy as f64, idle as f64);
    let place = (ranks - busy * (total + 1.0) / 2.0) / (busy * idle * (total + 1.0) / 12.0).sqrt();
    // mean and variance of |rank − middle| over all ranks, drawn without replacement
    let mean = total / 4.0;
    let variance = (total * total - 1.0) / 12.0 - mean * mean;
    let scatter = (distances - busy * mean) / (busy * idle / (total - 1.0) * variance).sqrt();
    Some((place, scatter))
}

fn mean_and_scv(times: &[f64]) -> (f64, f64) {
    let n = times.len() as f64;
    let mean = times.iter().sum::<f64>() / n;
    let variance = times.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, if mean > 0.0 { variance / (mean * mean) } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::queueing::simulation::{Law, Request, Station as Simulated};

    const VISITS: usize = 4_000;

    /// Simulated requests as spans show them: S is a millisecond; clocks are off by this share of it.
    fn visits(requests: impl IntoIterator<Item = Request>, jitter: f64) -> Vec<Visit> {
        let mut random = StdRng::seed_from_u64(99);
        let mut at = |time: f64| ((time + jitter * (random.random::<f64>() * 2.0 - 1.0)) * 1e6) as i64;
        let visit = |r: Request| (at(r.arrival), at(r.departure));
        let mut visit = visit;
        requests
            .into_iter()
            .map(|r| {
                let (arrival, departure) = visit(r);
                Visit { arrival, departure: departure.max(arrival), gave_up: false }
            })
            .collect()
    }

    fn grid() -> impl Iterator<Item = (u64, Simulated)> {
        let servers = [1, 2, 4, 8];
        let loads = [0.5, 0.7, 0.85, 0.95];
        let laws = [Law::Erlang(4), Law::Exponential, Law::Lognormal(4.0)];
        let seeds: u64 = std::env::var("TEST_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
        (0..seeds).flat_map(move |seed| {
            servers.into_iter().flat_map(move |servers| {
                loads.into_iter().flat_map(move |load| {
                    laws.into_iter().map(move |service| {
                        let station = Simulated { arrivals: Law::Exponential, service, servers, load };
                        (seed * 1_000 + u64::from(servers) * 100 + (load * 100.0) as u64, station)
                    })
                })
            })
        })
    }

    fn median(mut values: Vec<f64>) -> f64 {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }

    fn score(jitter: f64) -> (usize, usize, usize, f64) {
        let (mut exact, mut wrong, mut refused, mut errors) = (0, 0, 0, Vec::new());
        for (seed, station) in grid() {
            let requests: Vec<_> = station.run(seed, VISITS).collect();
            let rate = VISITS as f64 / (requests[VISITS - 1].arrival - requests[0].arrival);
            match identify(&visits(requests.iter().copied(), jitter)) {
                Ok(found) => {
                    let real = requests.iter().map(|r| r.departure - r.start).sum::<f64>() / VISITS as f64;
                    let rho = rate * found.service_ns / 1e6 / f64::from(found.servers.get());
                    let truth = rate * real / f64::from(station.servers);
                    errors.push((rho / truth - 1.0).abs());
                    if found.servers.get() == station.servers && found.discipline == Discipline::Fifo {
                        exact += 1;
                    } else {
                        wrong += 1;
                        println!("seed {seed} {station:?}: {found:?}");
                    }
                }
                Err(why) => {
                    refused += 1;
                    println!("seed {seed} {station:?}: {why}");
                }
            }
        }
        println!(
            "jitter {jitter}: {exact} exact, {wrong} wrong, {refused} refused, median error of rho {:.4}",
            median(errors.clone())
        );
        (exact, wrong, refused, median(errors))
    }

    #[test]
    fn clean_stations_are_identified() {
        let (exact, wrong, refused, error) = score(0.0);
        assert!(exact as f64 >= 0.93 * (exact + wrong) as f64 && error <= 0.02, "{exact} {wrong} {refused} {error}");
    }

    #[test]
    fn clocks_that_are_off_by_a_hundredth_cost_little() {
        let (exact, wrong, _, error) = score(0.01);
        assert!(exact as f64 >= 0.9 * (exact + wrong) as f64 && error <= 0.05, "{exact} {wrong} {error}");
    }

    #[test]
    fn sharing_is_told_from_queueing() {
        let (mut right, mut n) = (0, 0);
        for (seed, station) in grid().filter(|(_, station)| station.load > 0.6) {
            n += 1;
            match identify(&visits(station.run_shared(seed, VISITS), 0.0)) {
                Ok(found)
                    if found.discipline == Discipline::ProcessorSharing && found.servers.get() == station.servers =>
                {
                    right += 1
                }
                other => println!("seed {seed} shared {station:?}: {other:?}"),
            }
        }
        println!("{right} of {n} shared stations");
        assert!(right as f64 >= 0.9 * n as f64, "{right} of {n}");
    }

    #[test]
    fn what_cannot_be_told_is_refused() {
        for (seed, service) in
            (0..10).flat_map(|seed| [Law::Erlang(4), Law::Exponential, Law::Lognormal(4.0)].map(|law| (seed, law)))
        {
            // servers for everybody
            let delay = Simulated { arrivals: Law::Exponential, service, servers: 100, load: 0.05 };
            let found = identify(&visits(delay.run(seed, VISITS), 0.0));
            assert!(matches!(found, Err(Unidentifiable::HardlyQueues { .. })), "seed {seed} {delay:?}: {found:?}");
        }
        assert!(matches!(identify(&[]), Err(Unidentifiable::TooFew { visits: 0 })));
    }

    #[test]
    fn a_station_that_serves_in_no_order_is_not_taken_for_another() {
        let mut told = 0;
        for seed in 0..12 {
            let station = Simulated { arrivals: Law::Exponential, service: Law::Exponential, servers: 2, load: 0.85 };
            let found = identify(&visits(station.run_random_order(seed, VISITS), 0.0));
            println!("seed {seed}: {found:?}");
            told += usize::from(found.is_ok());
        }
        assert!(told <= 1, "{told} of 12 random orders were taken for something else");
    }
}
