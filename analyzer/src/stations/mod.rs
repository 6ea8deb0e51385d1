//! [`Stations`]: the visits of every service over windows, split into wait and service once the
//! number of servers is known: from the configuration, or identified from the visits themselves.
//!
//! Replicas are stations of their own: one queue each. A service whose servers are configured is one
//! station, as the number says. Identifying costs 2 to 19 ms, so each window does a few
//! stations, those first that were looked at longest ago. What a window says beside its splits (each replica and
//! operation, what held over the last windows, whether the rate grows) is in [`StationWindow`].

mod recent;
mod station;

use std::{
    collections::{BTreeMap, VecDeque},
    num::NonZeroU32,
};

pub(crate) use recent::Steady;
use recent::{Recent, Seen};
use serde::{Deserialize, Serialize};
use station::{Keep, Station};
use weir_schema::UnixNanos;

use crate::{
    closed::Closed,
    departures::Visit,
    moments::Moments,
    servers::{self, Discipline},
    spans::Name,
    trend::{Rates, Trend},
    window::ServiceWindow,
};

/// Stations, 290 MB at worst. The replicas of services that come then are not looked at.
const MAX_STATIONS: usize = 2_000;

/// Visits looked at for a station are this old at most: load and code change.
const IDENTIFYING_NS: i64 = 600_000_000_000;

/// Stations identified in one window. One takes 2 ms with one server, 7 with eight, 19 with 32, so all 8 at most 0.15 s.
const IDENTIFIED_A_WINDOW: usize = 8;

/// How long an answer stands before the station, or the loop of clients, is looked at again.
const IDENTIFIED_FOR_NS: i64 = 60_000_000_000;

/// Share of visits that must be known before a moment is judged: a visit shows only when its whole
/// request ends, which may be long after the service itself was done with it.
const KNOWN_SHARE: f64 = 0.99;

/// A replica that nobody visited for so long is gone, when others are visited: one that is identified has a visit each 3 s.
const LATELY_NS: i64 = 60_000_000_000;

/// Whole requests of a service kept to see whether its clients wait for their answers: 64 KB.
const WHOLE_REQUESTS: usize = 4_000;

/// A replica; `None` when replicas are taken together.
type Replica = Option<Name>;

/// A visit, and the whole request it belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) visit: Visit,
    pub(crate) instance: Option<Name>,
    pub(crate) operation: Name,
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
}

/// A station as a checkpoint holds it: what it is, without its visits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SavedStation {
    service: Name,
    replica: Replica,
    pub(crate) tried: UnixNanos,
    found: servers::Station,
}

/// The stations of one service, and what its requests say together.
#[derive(Debug, Default)]
struct ServiceStations {
    replicas: BTreeMap<Replica, Station>,
    /// Start and end of the newest whole requests.
    whole: VecDeque<(UnixNanos, UnixNanos)>,
    closed: Option<Closed>,
    looked_at: Option<UnixNanos>,
    recent: Recent,
    rates: Rates,
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
    /// Requests there at once, at most; looked for only when some were refused for want of room.
    pub(crate) most_there: Option<u32>,
}

/// One replica in a window.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReplicaWindow {
    pub(crate) instance: Option<Name>,
    pub(crate) visits: u64,
    pub(crate) found: Option<servers::Station>,
    pub(crate) between_ms: Moments,
    pub(crate) service_ms: Moments,
    pub(crate) cut_service_ms: f64,
    pub(crate) wait_ms: Moments,
    /// Why its servers are not known.
    pub(crate) reason: Option<String>,
}

/// What is known of how a service serves.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Known {
    /// Somebody said so.
    Configured(NonZeroU32),
    /// From the visits of each replica.
    Identified {
        /// Of all replicas together.
        servers: NonZeroU32,
        replicas: u32,
        discipline: Discipline,
        /// Standard deviations to the next best explanation, of the least sure replica.
        margin: f64,
    },
    /// And why.
    Unknown(String),
    /// No visit yet.
    #[default]
    Unseen,
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
        let by_replica = by_replica(visits, configured.is_some());
        for (replica, visits) in by_replica {
            if !of_service.replicas.contains_key(&replica) {
                if self.count >= MAX_STATIONS {
                    continue;
                }
                self.count += 1;
            }
            of_service.replicas.entry(replica).or_default().take(visits);
        }
        let keep = Keep::of(configured, length_ns);
        for (replica, station) in &mut of_service.replicas {
            let mut window = ReplicaWindow { instance: *replica, ..ReplicaWindow::default() };
            station.judge(service, &mut window, configured, known_until, length_ns);
            station.forget(known_until, keep);
            service.station.between_ms.merge(&window.between_ms);
            service.station.replicas.push(window);
        }
        service.station.replicas.sort_by_key(|replica| replica.instance);
        let lately = known_until - LATELY_NS.max(2 * length_ns);
        service.known = configured.map_or_else(|| known(&of_service.replicas, lately), Known::Configured);
        of_service.remember(service, end, length_ns);
    }

    /// The stations that are identified.
    pub(crate) fn save(&self) -> Vec<SavedStation> {
        let stations = self.by_service.iter().flat_map(|(service, of_service)| {
            of_service.replicas.iter().map(move |(replica, station)| (*service, *replica, station))
        });
        let saved = |(service, replica, station): (Name, Replica, &Station)| {
            let found = *station.found()?.as_ref().ok()?;
            Some(SavedStation { service, replica, tried: station.tried()?, found })
        };
        stations.filter_map(saved).collect()
    }

    /// Takes stations for what they were: until their visits say more.
    pub(crate) fn restore(&mut self, saved: Vec<SavedStation>) {
        for SavedStation { service, replica, tried, found } in saved.into_iter().take(MAX_STATIONS) {
            let of_service = self.by_service.entry(service).or_default();
            of_service.replicas.insert(replica, Station::restored(found, tried));
        }
        self.count = self.by_service.values().map(|service| service.replicas.len()).sum();
    }

    /// Lets a service's stations go: their visits are no longer all there.
    pub(crate) fn forget(&mut self, name: Name) {
        self.count -= self.by_service.remove(&name).map_or(0, |service| service.replicas.len());
    }

    /// Identifies the stations that wait longest for it. Done after a window, for the next.
    pub(crate) fn identify(&mut self, now: UnixNanos, configured: impl Fn(Name) -> bool) {
        let of_services = self.by_service.iter_mut().filter(|(name, _)| !configured(**name));
        let mut due: Vec<&mut Station> = of_services
            .flat_map(|(_, service)| service.replicas.values_mut())
            .filter(|station| station.is_due(now))
            .collect();
        // of several the one that was visited first: numbers of names depend on who was heard of first
        due.sort_by_key(|station| (station.tried(), station.since()));
        due.into_iter().take(IDENTIFIED_A_WINDOW).for_each(|station| station.identify(now));
        self.look_for_loops(now);
        // replicas come and go: who had no visit for as long as visits are kept is forgotten
        self.by_service.retain(|_, service| {
            service.replicas.retain(|_, station| !station.is_gone(now));
            !service.replicas.is_empty()
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

fn by_replica(visits: Vec<Ended>, together: bool) -> BTreeMap<Replica, Vec<Ended>> {
    let mut by_replica: BTreeMap<Replica, Vec<Ended>> = BTreeMap::new();
    for ended in visits {
        by_replica.entry(ended.instance.filter(|_| !together)).or_default().push(ended);
    }
    by_replica
}

/// What the replicas together are.
fn known(replicas: &BTreeMap<Replica, Station>, lately: UnixNanos) -> Known {
    let mut stations: Vec<&Station> = replicas.values().filter(|station| station.is_visited_since(lately)).collect();
    if stations.is_empty() {
        stations.extend(replicas.values());
    }
    if stations.iter().any(|station| station.found().is_none()) {
        return Known::Unknown("it was not looked at yet".into());
    }
    // in the order of their visits: numbers of names depend on who was heard of first
    stations.sort_by_key(|station| station.since());
    let mut all: Option<(servers::Station, u32)> = None;
    for station in stations {
        let found = match station.found() {
            None => continue,
            Some(Err(why)) => return Known::Unknown(why.to_string()),
            Some(Ok(found)) => found,
        };
        all = Some(match all {
            None => (*found, 1),
            Some((sum, _)) if !alike(sum.discipline, found.discipline) => {
                return Known::Unknown("its replicas serve in different ways".into());
            }
            Some((sum, count)) => {
                let servers = sum.servers.saturating_add(found.servers.get());
                (servers::Station { servers, margin: sum.margin.min(found.margin), ..sum }, count + 1)
            }
        });
    }
    all.map_or(Known::Unseen, |(sum, replicas)| Known::Identified {
        servers: sum.servers,
        replicas,
        discipline: sum.discipline,
        margin: sum.margin,
    })
}

/// Fitted laws differ in their numbers, which makes them no other discipline.
fn alike(a: Discipline, b: Discipline) -> bool {
    std::mem::discriminant(&a) == std::mem::discriminant(&b)
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
