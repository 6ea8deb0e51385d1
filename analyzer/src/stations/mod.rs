//! [`Stations`]: the visits of every service over windows, split into wait and service once the
//! number of servers is known: from the configuration, or identified from the visits themselves.
//!
//! Replicas are stations of their own: one queue each. A configured number of servers is of the whole service, and
//! divided among them (`shares`). Identifying costs 2 to 19 ms, so each window does a few
//! stations, those first that were looked at longest ago. What a window says beside its splits (each replica and
//! operation, what held over the last windows, whether the rate grows) is in [`StationWindow`].

mod course;
mod known;
mod recent;
mod shares;
mod station;

use std::{
    collections::{BTreeMap, VecDeque},
    num::{NonZeroU16, NonZeroU32},
};

pub(crate) use course::SavedCourse;
pub(crate) use known::{Giver, Known};
pub(crate) use recent::Steady;
use recent::{Recent, Seen};
use serde::{Deserialize, Serialize};
use shares::divide;
use station::{Keep, Station};
use weir_schema::UnixNanos;

use crate::{
    closed::Closed,
    departures::Visit,
    moments::Moments,
    servers::{self, Holding},
    spans::Name,
    trend::{Rates, Trend},
    window::ServiceWindow,
};

/// Stations, 290 MB at worst. Replicas that come then are not looked at: their visits are counted, and of their service nothing is said.
const MAX_STATIONS: usize = 2_000;

/// Visits looked at for a station are this old at most: load and code change.
const IDENTIFYING_NS: i64 = 600_000_000_000;

/// Stations identified in one window, and as many whose servers are said looked at for what these are held for. One takes 2 ms with one
/// server, 7 with eight, 19 with 32, so all at most 0.2 s.
const IDENTIFIED_A_WINDOW: usize = 8;

/// How long an answer stands before the station, or the loop of clients, is looked at again.
const IDENTIFIED_FOR_NS: i64 = 60_000_000_000;

/// Share of visits that must be known before a moment is judged: a visit shows only when its whole
/// request ends, which may be long after the service itself was done with it.
const KNOWN_SHARE: f64 = 0.99;

/// A replica that was visited in none of so many windows has no share of the servers that are said of its service.
const SHARING_WINDOWS: i64 = 3;

/// Whole requests of a service kept to see whether its clients wait for their answers: 64 KB.
const WHOLE_REQUESTS: usize = 4_000;

/// Why nothing is said of a station that is not what somebody said.
const NEITHER: &str =
    "its servers are not as many as were said: neither own times nor whole requests leave as they would";

/// A replica; `None` of spans that do not say which.
type Replica = Option<Name>;

/// A visit, and the whole request it belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) visit: Visit,
    /// How long it waited for calls to others.
    pub(crate) called_ns: i64,
    pub(crate) instance: Option<Name>,
    pub(crate) operation: Name,
    /// How many the replica works on at once, if it says so.
    pub(crate) servers: Option<NonZeroU16>,
    /// When it came to the proxy.
    pub(crate) start: UnixNanos,
    /// When the whole request ended.
    pub(crate) end: UnixNanos,
    /// How many it stands for.
    pub(crate) weight: u32,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Stations {
    /// In order, so that who is looked at first does not depend on chance.
    by_service: BTreeMap<Name, ServiceStations>,
    count: usize,
    /// Visits to replicas for which there was no room.
    pub(crate) refused: u64,
}

/// A station as a checkpoint holds it: what it is, without its visits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SavedStation {
    service: Name,
    replica: Replica,
    /// When it was identified; when it was visited last, if it said its servers itself.
    pub(crate) tried: UnixNanos,
    #[serde(default)]
    found: Option<servers::Station>,
    #[serde(default)]
    said: Option<NonZeroU32>,
    #[serde(default)]
    holding: Option<Holding>,
    /// Of how many servers that is.
    #[serde(default)]
    held_of: Option<NonZeroU32>,
}

/// The stations of one service, and what its requests say together.
#[derive(Debug, Default)]
struct ServiceStations {
    replicas: BTreeMap<Replica, Station>,
    /// Whether somebody said how many servers it has.
    is_configured: bool,
    /// Start and end of the newest whole requests.
    whole: VecDeque<(UnixNanos, UnixNanos)>,
    closed: Option<Closed>,
    looked_at: Option<UnixNanos>,
    recent: Recent,
    rates: Rates,
}

/// What there was no room for.
#[derive(Clone, Copy, Debug, Default)]
struct Beyond {
    replicas: usize,
    visits: u64,
}

/// What a window says of the stations of a service.
#[derive(Clone, Debug, Default)]
pub(crate) struct StationWindow {
    /// Each replica, by name.
    pub(crate) replicas: Vec<ReplicaWindow>,
    /// Service times by operation, milliseconds.
    pub(crate) by_operation: BTreeMap<Name, Moments>,
    /// Times between arrivals at a replica, milliseconds, of all replicas.
    pub(crate) between_ms: Moments,
    /// What held over the last windows.
    pub(crate) steady: Option<Steady>,
    pub(crate) trend: Option<Trend>,
    pub(crate) closed: Option<Closed>,
    /// How long a server is held for calls to others, milliseconds, where it is: service times hold it.
    pub(crate) held_ms: Option<f64>,
    /// Requests there at once, at most; looked for only when some were refused for want of room.
    pub(crate) most_there: Option<u32>,
}

/// One replica in a window.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReplicaWindow {
    pub(crate) instance: Option<Name>,
    pub(crate) visits: u64,
    pub(crate) found: Option<servers::Station>,
    /// Its servers, given or found.
    pub(crate) servers: Option<NonZeroU32>,
    pub(crate) between_ms: Moments,
    pub(crate) service_ms: Moments,
    pub(crate) cut_service_ms: f64,
    /// What of service times was for calls to others.
    pub(crate) held_ms: Moments,
    pub(crate) wait_ms: Moments,
    /// Why its servers are not known.
    pub(crate) reason: Option<String>,
}

impl Stations {
    /// Takes in what a service did in a window that ended at `end`, and says in `service` what of it was wait
    /// and what service.
    pub(crate) fn window(
        &mut self,
        name: Name,
        service: &mut ServiceWindow,
        mut visits: Vec<Ended>,
        configured: Option<NonZeroU32>,
        (end, length_ns): (UnixNanos, i64),
    ) {
        let known_until = end - lag(&visits);
        visits.sort_unstable_by_key(|ended| (ended.visit.departure, ended.visit.arrival, ended.end, ended.start));
        let of_service = self.by_service.entry(name).or_default();
        of_service.whole.extend(visits.iter().map(|ended| (ended.start, ended.end)));
        let surplus = of_service.whole.len().saturating_sub(WHOLE_REQUESTS);
        of_service.whole.drain(..surplus);
        let by_replica = by_replica(visits);
        let (visited, before) = (by_replica.len(), of_service.replicas.len());
        let beyond = of_service.take(by_replica, MAX_STATIONS.saturating_sub(self.count));
        self.count += of_service.replicas.len() - before;
        self.refused += beyond.visits;
        let since = known_until - SHARING_WINDOWS * length_ns;
        of_service.configure(configured, since);
        let keep = Keep::of(configured, of_service.replicas.len(), length_ns);
        let holding = of_service.holding();
        for (replica, station) in &mut of_service.replicas {
            let mut window = ReplicaWindow { instance: *replica, ..ReplicaWindow::default() };
            station.judge(service, &mut window, holding, (known_until, length_ns));
            station.forget(known_until, keep);
            service.station.between_ms.merge(&window.between_ms);
            service.station.replicas.push(window);
        }
        service.station.replicas.sort_by_key(|replica| replica.instance);
        service.station.held_ms =
            (holding == Some(Holding::Calls)).then(|| held_ms(&service.station.replicas)).flatten();
        service.known = match configured {
            // what the others do is part of the arrivals, and would be served by nobody
            _ if beyond.replicas > 0 => Known::beyond(beyond.replicas, visited),
            Some(servers) => known::configured(servers, &of_service.replicas, since),
            None => known::known(&of_service.replicas, known_until, length_ns),
        };
        if matches!(service.known, Known::Given { .. }) && holding == Some(Holding::Neither) {
            service.known = Known::Unknown(NEITHER.into());
        }
        of_service.remember(service, end, length_ns);
    }

    /// The stations that are identified, or said what they are.
    pub(crate) fn save(&self) -> Vec<SavedStation> {
        let stations = self.by_service.iter().flat_map(|(service, of_service)| {
            of_service.replicas.iter().map(move |(replica, station)| (*service, *replica, station))
        });
        let saved = |(service, replica, station): (Name, Replica, &Station)| {
            let (found, said) = (station.found().and_then(|found| found.as_ref().ok()).copied(), station.said());
            let known_at = said.and_then(|_| station.visited()).max(station.tried());
            let known_at = known_at.max(station.looked_at());
            let (holding, held_of) = (station.holding(), station.held_of());
            let tried = known_at.filter(|_| found.is_some() || said.is_some() || holding.is_some())?;
            Some(SavedStation { service, replica, tried, found, said, holding, held_of })
        };
        stations.filter_map(saved).collect()
    }

    /// Takes stations for what they were: until their visits say more.
    pub(crate) fn restore(&mut self, saved: Vec<SavedStation>) {
        for saved in saved.into_iter().take(MAX_STATIONS) {
            let SavedStation { service, replica, tried, found, said, holding, held_of } = saved;
            let of_service = self.by_service.entry(service).or_default();
            of_service.replicas.insert(replica, Station::restored((found, said), (holding, held_of), tried));
        }
        self.count = self.by_service.values().map(|service| service.replicas.len()).sum();
    }

    /// Lets a service's stations go: their visits are no longer all there.
    pub(crate) fn forget(&mut self, name: Name) {
        self.count -= self.by_service.remove(&name).map_or(0, |service| service.replicas.len());
    }

    /// Identifies the stations that wait longest for it. Done after a window, for the next.
    pub(crate) fn identify(&mut self, now: UnixNanos) {
        let due = self.by_service.values_mut().flat_map(|service| service.due(now));
        let (said, unsaid): (Vec<&mut Station>, Vec<_>) = due.partition(|station| station.given().is_some());
        for mut due in [said, unsaid] {
            // of several the one that was visited first: numbers of names depend on who was heard of first
            due.sort_by_key(|station| (station.looked_at(), station.since()));
            due.into_iter().take(IDENTIFIED_A_WINDOW).for_each(|station| station.identify(now));
        }
        self.look_for_loops(now);
        // replicas come and go: who had no visit for as long as visits are kept is forgotten
        self.by_service.retain(|_, service| {
            service.replicas.retain(|_, station| !station.is_gone(now));
            service.is_known(now)
        });
        self.count = self.by_service.values().map(|service| service.replicas.len()).sum();
    }

    fn look_for_loops(&mut self, now: UnixNanos) {
        let is_due = |looked: Option<UnixNanos>| looked.is_none_or(|looked| now - looked >= IDENTIFIED_FOR_NS);
        let mut due: Vec<&mut ServiceStations> =
            self.by_service.values_mut().filter(|service| is_due(service.looked_at)).collect();
        due.sort_by_key(|service| (service.looked_at, service.whole.front().copied()));
        for service in due.into_iter().take(IDENTIFIED_A_WINDOW) {
            service.looked_at = Some(now);
            service.closed = Closed::detect(service.whole.iter().copied());
        }
    }
}

impl ServiceStations {
    /// Takes in visits, with room for so many replicas more.
    fn take(&mut self, by_replica: BTreeMap<Replica, Vec<Ended>>, mut room: usize) -> Beyond {
        let mut beyond = Beyond::default();
        for (replica, visits) in by_replica {
            if !self.replicas.contains_key(&replica) {
                if room == 0 {
                    beyond.replicas += 1;
                    beyond.visits += visits.len() as u64;
                    continue;
                }
                room -= 1;
            }
            self.replicas.entry(replica).or_default().take(visits);
        }
        beyond
    }

    /// What servers that were said are held for, as most replicas show that have some and show it; of as many that they are held for calls.
    fn holding(&self) -> Option<Holding> {
        let given = || self.replicas.values().filter(|station| station.given().is_some());
        let count = |holding| given().filter(|station| station.holding() == Some(holding)).count();
        let counted = [Holding::Neither, Holding::OwnTime, Holding::Calls].map(|holding| (count(holding), holding));
        counted.into_iter().filter(|(count, _)| *count > 0).max_by_key(|(count, _)| *count).map(|(_, holding)| holding)
    }

    /// Replicas to look at. Of a service whose servers are said, those that have no share of them are gone.
    fn due(&mut self, now: UnixNanos) -> impl Iterator<Item = &mut Station> {
        let is_configured = self.is_configured;
        let there = self.replicas.values_mut().filter(move |station| !is_configured || station.given().is_some());
        there.filter(move |station| station.is_due(now))
    }

    /// Gives each replica its share of the servers that somebody said the service has.
    fn configure(&mut self, servers: Option<NonZeroU32>, since: UnixNanos) {
        self.is_configured = servers.is_some();
        let mut shares = servers.map(|servers| divide(servers, &self.replicas, since)).unwrap_or_default();
        for (replica, station) in &mut self.replicas {
            station.configure(shares.remove(replica));
        }
    }

    /// What goes beyond this window: the windows before it, the growth of the rate, the loop of clients.
    fn remember(&mut self, service: &mut ServiceWindow, end: UnixNanos, length_ns: i64) {
        let seconds = length_ns as f64 / 1e9;
        self.rates.add(end as f64 / 1e9, seconds, service.requests as f64);
        self.recent.add(Seen::of(service, seconds));
        let station = &mut service.station;
        station.steady = self.recent.steady();
        station.trend = self.rates.trend();
        station.closed = self.closed;
        station.most_there = (service.refused > 0).then(|| most_there(&self.whole, end - length_ns));
    }
}

fn held_ms(replicas: &[ReplicaWindow]) -> Option<f64> {
    let all = replicas.iter().fold(Moments::default(), |mut all, replica| {
        all.merge(&replica.held_ms);
        all
    });
    all.mean()
}

fn by_replica(visits: Vec<Ended>) -> BTreeMap<Replica, Vec<Ended>> {
    let mut by_replica: BTreeMap<Replica, Vec<Ended>> = BTreeMap::new();
    for ended in visits {
        by_replica.entry(ended.instance).or_default().push(ended);
    }
    by_replica
}

/// How long after a visit its whole request has ended, nearly always.
fn lag(visits: &[Ended]) -> i64 {
    let mut lags: Vec<i64> = visits.iter().map(|ended| ended.end - ended.visit.departure).collect();
    lags.sort_unstable();
    lags.get((lags.len().saturating_sub(1) as f64 * KNOWN_SHARE) as usize).copied().unwrap_or(0)
}

/// Of whole requests, how many were there at once since then, at most.
fn most_there(whole: &VecDeque<(UnixNanos, UnixNanos)>, since: UnixNanos) -> u32 {
    let recent = whole.iter().filter(|(_, end)| *end >= since);
    let mut events: Vec<(UnixNanos, i32)> = recent.flat_map(|(start, end)| [(*start, 1), (*end, -1)]).collect();
    events.sort_unstable();
    let mut there = 0;
    let most = events.iter().map(|(_, change)| {
        there += change;
        there
    });
    u32::try_from(most.max().unwrap_or(0)).unwrap_or(0)
}

#[cfg(test)]
mod tests;
