//! [`identify`]: how many servers a station has and how it serves, from arrivals and departures alone.
//!
//! Each candidate explains the visits in its own way. First come first served with c servers
//! ([`reconstruct`](crate::departures::reconstruct)) gives service times that are possible, nobody leaves before being started,
//! and that know nothing of how many were there: with too few servers those who met a queue look served faster, with
//! too many slower. A station that is shared leaves `min(n, c)/S` times a second when n are there,
//! whatever the distribution of S (Kelly's insensitivity of symmetric queues), so c is the one under
//! which the departures are likeliest; the service that each visit then got must again know nothing of n. One whose requests
//! hinder each other (locks, caches) leaves at the rate of Gunther's law instead, fitted to the departures in each state.
//!
//! Two more conditions tell sharing from last come first served, under which as many are there at a time: the service that a visit
//! got must not depend on when the next one came, and sharing must explain the departures better than one server for each visit would.
//!
//! A station is refused when its requests leave in batches, when it hardly ever queues, for then any number above the one seen explains it,
//! when its servers are never free (ρ ≥ 1), for then nobody met anything else, and when no candidate does.

mod observed;
mod ranks;
mod states;

use std::num::NonZeroU32;

use observed::Observed;
use serde::{Deserialize, Serialize};
use states::States;

use crate::{
    departures::{Served, Visit},
    queueing::usl::Usl,
};

/// Fewer visits say too little of anything.
pub const MIN_VISITS: usize = 200;

/// Standard deviations by which service times may differ between groups.
const MAX_DEVIATION: f64 = 3.5;

/// Standard deviations from which on servers that somebody said are not believed. Many more than where servers are looked for: who says a number
/// knows the service, and ranks of service times are off by more than chance where requests are not independent.
const GROSS: f64 = 12.0;

/// Calls to others that take less than this share of the time a visit takes itself hold nobody up.
const MIN_CALLED: f64 = 0.1;

/// Standard deviations between the best and the next best explanation of a station that is told surely.
const SURE_MARGIN: f64 = 1.0;

/// Of those, the share that is right; and of the others: 10,136 of 10,309, and 318 of 419. See [`confidence`].
const SURE: f64 = 0.98;
const UNSURE: f64 = 0.76;

/// How a station serves.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Discipline {
    /// First come, first served: one at a time per server, the others wait.
    Fifo,
    /// Everybody is served at once, each a little slower.
    ProcessorSharing,
    /// Everybody is served at once, and hinders everybody else.
    Contended(Usl),
}

/// What a server that is known to be there is held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Holding {
    /// The station's own work.
    OwnTime,
    /// Its calls to others too: a thread that waits for the answer.
    Calls,
    /// Neither: there are not so many, or they do not serve in order.
    Neither,
}

/// What was found of a station.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Station {
    /// How it serves.
    pub discipline: Discipline,
    /// c; 1 of a contended station, where no number of servers is meant.
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
    #[error("too few requests: {visits} of the {MIN_VISITS} needed")]
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
    /// At ρ of 1 and above hardly any request finds a free server, so those that waited cannot be compared with those that did not.
    #[error("requests always wait: hardly one came while a server was free, so how many there are cannot be told")]
    AlwaysBusy,
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

/// Identifies a station by its visits. The first visits are taken to have met it idle.
///
/// # Errors
/// [`Unidentifiable`], and why.
pub fn identify(visits: &[Visit]) -> Result<Station, Unidentifiable> {
    if visits.len() < MIN_VISITS {
        return Err(Unidentifiable::TooFew { visits: visits.len() });
    }
    let observed = Observed::new(visits);
    if observed.leaves_in_batches() {
        return Err(Unidentifiable::NoModel);
    }
    let (at_least, in_order) = observed.in_order();
    if observed.is_always_busy(at_least) {
        return Err(Unidentifiable::AlwaysBusy);
    }
    let states = States::of(&observed.visits);
    let shared = observed.shared(&states);
    if !observed.waits(at_least) {
        // shared servers explain the visits with fewer than are possible in order: requests do wait, but out of order
        let waits_out_of_order = shared.is_some_and(|account| account.servers < at_least);
        return Err(if waits_out_of_order {
            Unidentifiable::NoModel
        } else {
            Unidentifiable::HardlyQueues { at_least }
        });
    }
    let accounts: Vec<Account> = in_order.into_iter().chain(shared).collect();
    let simple = best(&accounts);
    if let Some(found) = simple.filter(|found| found.discipline == Discipline::Fifo) {
        return Ok(found);
    }
    // sharing among many servers looks like hindering: the law is taken where departures are far likelier by it
    let contended = observed.contended(&states).and_then(|account| best(&[account]));
    contended.or(simple).ok_or(Unidentifiable::NoModel)
}

/// What so many servers are held for, by the visits as they would leave without calls to others and as they left: the right one leaves
/// service times that are possible and know nothing of how many were there. `None` where calls are too short to tell, too few
/// visits waited, or both explain them.
#[must_use]
pub fn held_for(own: &[Visit], whole: &[Visit], servers: NonZeroU32) -> Option<Holding> {
    let called_ns: i64 = own.iter().zip(whole).map(|(own, whole)| whole.departure - own.departure).sum();
    let own_ns: i64 = own.iter().map(|visit| visit.departure - visit.arrival).sum();
    if own.len() < MIN_VISITS || (called_ns as f64) < MIN_CALLED * own_ns as f64 {
        return None;
    }
    let (own, whole) = (Observed::new(own), Observed::new(whole));
    let of_calls = whole.misfit_in_order(servers)?;
    // below saturation hardly any visit finds all servers busy with own work alone. Then visits that found more others than the middle one are
    // compared with those that found fewer: their service times must not differ
    let of_own = own.misfit_in_order(servers).unwrap_or_else(|| own.misfit_by_the_middle(servers));
    match (of_own <= MAX_DEVIATION, of_calls <= MAX_DEVIATION) {
        (true, true) => None,
        (true, false) => Some(Holding::OwnTime),
        (false, true) => Some(Holding::Calls),
        (false, false) => (of_own.min(of_calls) > GROSS).then_some(Holding::Neither),
    }
}

/// Probability that what was identified by such a margin serves so, and with so many servers: the share of answers that were right, of simulated
/// stations that serve in order, otherwise, and so that they should have been refused (`compare/queueing`, 18 runs from seed 8,000,000 on).
#[must_use]
pub fn confidence(margin: f64) -> f64 {
    if margin > SURE_MARGIN { SURE } else { UNSURE }
}

/// Splits visits to a station that all share: what a visit got is service, what it took longer is wait.
#[must_use]
pub fn shared(visits: &[Visit], station: &Station) -> Vec<Served> {
    let attained = States::of(visits).attained(visits, |there| station.share(there));
    let split = |(visit, service_ns): (&Visit, f64)| {
        let service_ns = service_ns as i64;
        let wait_ns = (visit.departure - visit.arrival - service_ns).max(0);
        Served { wait_ns, service_ns, complete: !visit.gave_up, overrun_ns: 0 }
    };
    visits.iter().zip(attained).map(split).collect()
}

impl Station {
    /// One that is said to have so many servers, and taken to serve in order.
    pub(crate) fn given(servers: NonZeroU32) -> Self {
        Self { discipline: Discipline::Fifo, servers, service_ns: 0.0, cs2: 0.0, margin: f64::INFINITY }
    }

    /// c, where a number of servers is meant.
    pub(crate) fn counted(&self) -> Option<NonZeroU32> {
        (!matches!(self.discipline, Discipline::Contended(_))).then_some(self.servers)
    }

    /// How fast each is served when so many are there, as a share of being alone.
    fn share(&self, there: u32) -> f64 {
        match self.discipline {
            Discipline::Contended(law) => slowed(&law, there),
            _ => split(self.servers, there),
        }
    }
}

/// Of c servers each gets `min(1, c/n)`.
fn split(servers: NonZeroU32, there: u32) -> f64 {
    (f64::from(servers.get()) / f64::from(there.max(1))).min(1.0)
}

/// By Gunther's law each gets `X(n)/(n·X(1))`.
fn slowed(law: &Usl, there: u32) -> f64 {
    let there = f64::from(there.max(1));
    law.throughput(there) / (there * law.throughput(1.0))
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

fn mean_and_scv(times: &[f64]) -> (f64, f64) {
    let n = times.len() as f64;
    let mean = times.iter().sum::<f64>() / n;
    let variance = times.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, if mean > 0.0 { variance / (mean * mean) } else { 0.0 })
}

#[cfg(test)]
mod tests;
