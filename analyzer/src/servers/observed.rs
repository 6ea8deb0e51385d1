//! [`Observed`]: the visits of a station, what each met, and how far every candidate explains them.

use std::num::NonZeroU32;

use super::{
    Account, Discipline, MAX_DEVIATION,
    ranks::{self, Differ, Ranked},
    slowed, split,
    states::States,
};
use crate::departures::{Served, Visit, reconstruct};

/// Candidates; more servers than this are hardly ever all busy in one window.
const MAX_SERVERS: u32 = 64;

/// A visit that leaves this share of a service time before its start is impossible; clocks are off by less.
const CLOCK_TOLERANCE: f64 = 0.05;

/// Impossible visits above this share rule a candidate out; one is chance.
const MAX_IMPOSSIBLE: f64 = 0.003;

/// Departures within this share of their mean distance are at one moment.
const TOGETHER: f64 = 0.1;

/// By chance one in ten departures is as near to the one before, of bursts two or three; of batches it is most of them.
const MAX_TOGETHER: f64 = 0.4;

/// Beyond these standard deviations further servers only fit worse.
const HOPELESS: f64 = 12.0;

/// Standard deviations by which waiting must show for there to be a queue at all. The most of three looks has to reach them: at 3, with servers for
/// everybody, one station in 300 does by chance.
const MIN_QUEUE_EVIDENCE: f64 = MAX_DEVIATION;

/// Difference of log-likelihoods by which sharing among some must be likelier than a server for everybody: as much as [`MAX_DEVIATION`] of one
/// number (S. S. Wilks, 1938).
const MIN_SHARING_EVIDENCE: f64 = MAX_DEVIATION * MAX_DEVIATION / 2.0;

/// Difference of log-likelihoods by which a law with two numbers more must be likelier than any number of servers.
const MIN_BEND_EVIDENCE: f64 = 10.0;

/// Visits in order of arrival, with what each met.
pub(super) struct Observed {
    pub(super) visits: Vec<Visit>,
    /// How many were there when each came.
    met: Vec<u32>,
    most: u32,
    /// The middle of `met`, at least one.
    middle: u32,
    /// What one in ten met more than.
    many: u32,
}

impl Observed {
    pub(super) fn new(visits: &[Visit]) -> Self {
        let mut visits = visits.to_vec();
        // of those that came at one moment any may be first, but not by how long it took
        visits.sort_by_key(|visit| (visit.arrival, scrambled(visit.departure)));
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
        let many = sorted[sorted.len() * 9 / 10].max(1);
        Self { most: sorted[sorted.len() - 1].saturating_add(1), middle, many, visits, met }
    }

    /// Whether many leave at one moment who did not come at one: a server takes several at once.
    pub(super) fn leaves_in_batches(&self) -> bool {
        let mut by_departure: Vec<&Visit> = self.visits.iter().collect();
        by_departure.sort_by_key(|visit| (visit.departure, visit.arrival));
        let first_and_last = by_departure.first().zip(by_departure.last());
        let span = first_and_last.map_or(0, |(first, last)| last.departure - first.departure) as f64;
        let near = TOGETHER * span / by_departure.len() as f64;
        let together = by_departure.windows(2).filter(|pair| {
            let apart = |a: i64, b: i64| (b - a).abs() as f64;
            apart(pair[0].departure, pair[1].departure) < near && apart(pair[0].arrival, pair[1].arrival) > near
        });
        together.count() as f64 > MAX_TOGETHER * by_departure.len() as f64
    }

    /// Whether hardly anybody came while one of the fewest servers, or of two more, was free.
    pub(super) fn is_always_busy(&self, at_least: NonZeroU32) -> bool {
        let free = self.met.iter().filter(|others| **others < at_least.get() + 2).count();
        free < ranks::MIN_GROUP
    }

    /// Whether those who met others there took longer: with servers for everybody they would not.
    pub(super) fn waits(&self, at_least: NonZeroU32) -> bool {
        let stays: Vec<f64> = self.visits.iter().map(|visit| (visit.departure - visit.arrival) as f64).collect();
        // the fewest servers may be one or two below the true number, which queues a little later
        let thresholds = at_least.get()..at_least.get() + 3;
        let ranked = Ranked::of(&stays);
        let evidence = thresholds.filter_map(|servers| ranked.compare(&self.met, servers).map(|d| d.place));
        evidence.fold(f64::NEG_INFINITY, f64::max) > MIN_QUEUE_EVIDENCE
    }

    /// The fewest servers that serve in order and are possible, and what they and more of them explain.
    pub(super) fn in_order(&self) -> (NonZeroU32, Vec<Account>) {
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

    /// Standard deviations by which so many servers in order do not explain the visits, endless where they cannot; `None` where too few
    /// met them all busy, or not, to tell.
    pub(super) fn misfit_in_order(&self, servers: NonZeroU32) -> Option<f64> {
        let Some(service_ns) = self.possible(servers) else { return Some(f64::INFINITY) };
        let account = self.account(Discipline::Fifo, servers, service_ns);
        account.misfit.is_finite().then_some(account.misfit)
    }

    /// The same between those who met more others than the middle one, and fewer.
    pub(super) fn misfit_by_the_middle(&self, servers: NonZeroU32) -> f64 {
        let Some(service_ns) = self.possible(servers) else { return f64::INFINITY };
        Ranked::of(&service_ns).compare(&self.met, self.middle).map_or(0.0, Differ::worst)
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

    /// The number of servers under which the departures are likeliest if they are shared, where they are likelier so than with one for everybody.
    pub(super) fn shared(&self, states: &States) -> Option<Account> {
        let candidates = (1..=MAX_SERVERS.min(self.most)).filter_map(NonZeroU32::new);
        let servers = candidates.max_by(|a, b| states.likelihood(*a).total_cmp(&states.likelihood(*b)))?;
        if states.likelihood(servers) < states.likelihood_of(|there| there) + MIN_SHARING_EVIDENCE {
            return None;
        }
        let attained = states.attained(&self.visits, |there| split(servers, there));
        Some(self.shared_by(Discipline::ProcessorSharing, servers, attained))
    }

    /// Gunther's law through the departures of each state, where it bends as no number of servers does.
    pub(super) fn contended(&self, states: &States) -> Option<Account> {
        let law = states.contention()?;
        let candidates = (1..=MAX_SERVERS.min(self.most)).filter_map(NonZeroU32::new);
        let of_servers = candidates.map(|servers| states.likelihood(servers)).fold(f64::NEG_INFINITY, f64::max);
        if states.likelihood_of(|there| law.throughput(there)) < of_servers + MIN_BEND_EVIDENCE {
            return None;
        }
        let attained = states.attained(&self.visits, |there| slowed(&law, there));
        Some(self.shared_by(Discipline::Contended(law), NonZeroU32::MIN, attained))
    }

    /// The account of a station that serves everybody at once. Who comes after does not know what those before him need, so what they got
    /// must not know how soon he came. Last come first served leaves as many there at a time as sharing does (F. P. Kelly, "Reversibility
    /// and Stochastic Networks", 1979, section 3.3), and even who left hardly tells them apart; but there whoever comes soon goes before.
    fn shared_by(&self, discipline: Discipline, servers: NonZeroU32, service_ns: Vec<f64>) -> Account {
        let all_busy = if matches!(discipline, Discipline::Contended(_)) { self.middle } else { servers.get() };
        let knows_the_next = self.knows_the_next(&service_ns, all_busy);
        let account = self.account(discipline, servers, service_ns);
        Account { misfit: account.misfit.max(knows_the_next), ..account }
    }

    /// Standard deviations by which the service of those who met so many is another where the next came soon.
    fn knows_the_next(&self, service_ns: &[f64], threshold: u32) -> f64 {
        let gap = |place: &usize| self.visits[place + 1].arrival - self.visits[*place].arrival;
        let busy = (0..self.visits.len().saturating_sub(1)).filter(|place| self.met[*place] >= threshold);
        let busy: Vec<usize> = busy.collect();
        let mut gaps: Vec<i64> = busy.iter().map(gap).collect();
        gaps.sort_unstable();
        let Some(middle) = gaps.get(gaps.len() / 2) else { return 0.0 };
        let times: Vec<f64> = busy.iter().map(|place| service_ns[*place]).collect();
        let soon: Vec<u32> = busy.iter().map(|place| u32::from(gap(place) < *middle)).collect();
        Ranked::of(&times).compare(&soon, 1).map_or(0.0, |differ| differ.place.abs())
    }

    fn account(&self, discipline: Discipline, servers: NonZeroU32, service_ns: Vec<f64>) -> Account {
        let ranked = Ranked::of(&service_ns);
        let between = |threshold: u32| ranked.compare(&self.met, threshold);
        // few meet many servers all busy: what holds there must hold between the middle's halves too
        let middle = between(self.middle);
        let all_busy = match discipline {
            // there is no number at which all are busy: what holds must hold far up too
            Discipline::Contended(_) => between(self.many),
            _ => between(servers.get()),
        };
        let place = all_busy.map_or(f64::INFINITY, |differ| differ.place);
        let misfit = all_busy.map_or(f64::INFINITY, Differ::worst).max(middle.map_or(0.0, Differ::worst));
        Account { discipline, servers, service_ns, misfit, place }
    }
}

/// An order that knows nothing of the number's size (the finalizer of SplitMix64; G. L. Steele et al., 2014).
fn scrambled(number: i64) -> u64 {
    let mut bits = number as u64;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
