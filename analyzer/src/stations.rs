//! [`Stations`]: the visits of every service over windows, split into wait and service once the
//! number of servers is known: from the configuration, or identified from the visits themselves.
//!
//! Replicas are stations of their own: one queue each. A service whose servers are configured is one
//! station, as the number says. Identifying costs 2 to 19 ms, so each window does a few
//! stations, those first that were looked at longest ago.

use std::{
    collections::{BTreeMap, VecDeque},
    num::NonZeroU32,
};

use serde::{Deserialize, Serialize};
use weir_schema::UnixNanos;

use crate::{
    departures::{Visit, reconstruct},
    servers::{self, Discipline, Unidentifiable},
    spans::Name,
    window::ServiceWindow,
};

/// Visits of a station with configured servers that are kept, so that the queue at a window's start is known.
const CARRIED_VISITS: usize = 20_000;

/// The same of one that is to be identified: 120 KB.
const CARRIED_UNIDENTIFIED: usize = IDENTIFYING_VISITS + 1_000;

/// Stations, 240 MB at worst. The replicas of services that come then are not looked at.
const MAX_STATIONS: usize = 2_000;

/// Visits that identify a station: more make it slower and hardly surer.
const IDENTIFYING_VISITS: usize = 4_000;

/// Visits looked at for a station are this old at most: load and code change.
const IDENTIFYING_NS: i64 = 600_000_000_000;

/// How long an answer stands before the station is looked at again.
const IDENTIFIED_FOR_NS: i64 = 60_000_000_000;

/// Stations identified in one window. One takes 2 ms with one server, 7 with eight, 19 with 32, so all 8 at most 0.15 s.
const IDENTIFIED_A_WINDOW: usize = 8;

/// Share of visits that must be known before a moment is judged: a visit shows only when its whole
/// request ends, which may be long after the service itself was done with it.
const KNOWN_SHARE: f64 = 0.99;

/// A replica; `None` when replicas are taken together.
type Replica = Option<Name>;

/// A visit, and when its whole request ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) visit: Visit,
    pub(crate) instance: Option<Name>,
    pub(crate) end: UnixNanos,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Stations {
    /// In order, so that who is looked at first does not depend on chance.
    by_service: BTreeMap<Name, BTreeMap<Replica, Station>>,
    count: usize,
}

/// The visits of one station, over windows.
#[derive(Debug, Default)]
struct Station {
    visits: VecDeque<Visit>,
    /// Visits that departed before this are judged.
    judged_until: UnixNanos,
    found: Option<Result<servers::Station, Unidentifiable>>,
    /// When it was last identified, or tried.
    tried: Option<UnixNanos>,
}

/// A station as a checkpoint holds it: what it is, without its visits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SavedStation {
    service: Name,
    replica: Replica,
    tried: UnixNanos,
    shared: bool,
    servers: NonZeroU32,
    service_ns: f64,
    cs2: f64,
    margin: f64,
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
        let replicas = self.by_service.entry(name).or_default();
        visits.sort_unstable_by_key(|ended| (ended.visit.departure, ended.visit.arrival, ended.end));
        for ended in visits {
            let replica = ended.instance.filter(|_| configured.is_none());
            if !replicas.contains_key(&replica) {
                if self.count >= MAX_STATIONS {
                    continue;
                }
                self.count += 1;
            }
            replicas.entry(replica).or_default().visits.push_back(ended.visit);
        }
        let (keep_ns, most) = match configured {
            Some(_) => (2 * length_ns, CARRIED_VISITS),
            None => (IDENTIFYING_NS.max(2 * length_ns), CARRIED_UNIDENTIFIED),
        };
        for station in replicas.values_mut() {
            station.judge(service, configured, known_until, length_ns);
            station.forget(known_until - keep_ns, most);
        }
        service.known = configured.map_or_else(|| known(replicas), Known::Configured);
    }

    /// The stations that are identified.
    pub(crate) fn save(&self) -> Vec<SavedStation> {
        let stations = self.by_service.iter().flat_map(|(service, replicas)| {
            replicas.iter().map(move |(replica, station)| (*service, *replica, station))
        });
        let saved = |(service, replica, station): (Name, Replica, &Station)| {
            let found = station.found.as_ref()?.as_ref().ok()?;
            Some(SavedStation {
                service,
                replica,
                tried: station.tried?,
                shared: found.discipline == Discipline::ProcessorSharing,
                servers: found.servers,
                service_ns: found.service_ns,
                cs2: found.cs2,
                margin: found.margin,
            })
        };
        stations.filter_map(saved).collect()
    }

    /// Takes stations for what they were: until their visits say more.
    pub(crate) fn restore(&mut self, saved: Vec<SavedStation>) {
        for saved in saved.into_iter().take(MAX_STATIONS) {
            let discipline = if saved.shared { Discipline::ProcessorSharing } else { Discipline::Fifo };
            let SavedStation { servers, service_ns, cs2, margin, .. } = saved;
            let found = servers::Station { discipline, servers, service_ns, cs2, margin };
            let station = Station { found: Some(Ok(found)), tried: Some(saved.tried), ..Station::default() };
            self.by_service.entry(saved.service).or_default().insert(saved.replica, station);
        }
        self.count = self.by_service.values().map(BTreeMap::len).sum();
    }

    /// Lets a service's stations go: their visits are no longer all there.
    pub(crate) fn forget(&mut self, name: Name) {
        self.count -= self.by_service.remove(&name).map_or(0, |replicas| replicas.len());
    }

    /// Identifies the stations that wait longest for it. Done after a window, for the next.
    pub(crate) fn identify(&mut self, now: UnixNanos, configured: impl Fn(Name) -> bool) {
        let of_services = self.by_service.iter_mut().filter(|(name, _)| !configured(**name));
        let mut due: Vec<&mut Station> =
            of_services.flat_map(|(_, replicas)| replicas.values_mut()).filter(|station| station.is_due(now)).collect();
        // of several the one that was visited first: numbers of names depend on who was heard of first
        due.sort_by_key(|station| {
            (station.tried, station.visits.front().map(|visit| (visit.departure, visit.arrival)))
        });
        due.into_iter().take(IDENTIFIED_A_WINDOW).for_each(|station| station.identify(now));
        // replicas come and go: who had no visit for as long as visits are kept is forgotten
        self.by_service.retain(|_, replicas| {
            replicas.retain(|_, station| !station.visits.is_empty() || station.was_tried_lately(now));
            !replicas.is_empty()
        });
        self.count = self.by_service.values().map(BTreeMap::len).sum();
    }
}

/// What the replicas together are.
fn known(replicas: &BTreeMap<Replica, Station>) -> Known {
    let mut all: Option<(servers::Station, u32)> = None;
    for station in replicas.values() {
        let found = match &station.found {
            None => return Known::Unknown("it was not looked at yet".into()),
            Some(Err(why)) => return Known::Unknown(why.to_string()),
            Some(Ok(found)) => found,
        };
        all = Some(match all {
            None => (*found, 1),
            Some((sum, _)) if sum.discipline != found.discipline => {
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

/// How long after a visit its whole request has ended, nearly always.
fn lag(visits: &[Ended]) -> i64 {
    let mut lags: Vec<i64> = visits.iter().map(|ended| ended.end - ended.visit.departure).collect();
    lags.sort_unstable();
    lags.get((lags.len().saturating_sub(1) as f64 * KNOWN_SHARE) as usize).copied().unwrap_or(0)
}

impl Station {
    /// Splits what departed since the last time into wait and service: long enough ago that those
    /// beside it are known too.
    fn judge(
        &mut self,
        service: &mut ServiceWindow,
        configured: Option<NonZeroU32>,
        known_until: UnixNanos,
        length_ns: i64,
    ) {
        let until = known_until.max(self.judged_until);
        let judged = self.judged_until..until;
        self.judged_until = until;
        let identified = self.found.as_ref().and_then(|found| found.as_ref().ok());
        let Some(servers) = configured.or(identified.map(|found| found.servers)) else { return };
        let shared = configured.is_none() && identified.is_some_and(|f| f.discipline == Discipline::ProcessorSharing);
        // two windows back are enough to know the queue at the start of this one
        let from = judged.start.max(until - 4 * length_ns) - 2 * length_ns;
        let visits: Vec<Visit> = self.visits.iter().copied().filter(|visit| visit.departure >= from).collect();
        let served = if shared { servers::shared(&visits, servers) } else { reconstruct(&visits, servers) };
        for (_, served) in visits.iter().zip(served).filter(|(visit, _)| judged.contains(&visit.departure)) {
            let service_ms = served.service_ns as f64 / 1e6;
            if served.complete {
                service.service_ms.push(service_ms);
            } else {
                service.cut_service_ms += service_ms;
            }
            service.app_wait_ms.push(served.wait_ns as f64 / 1e6);
        }
    }

    /// One that a checkpoint brought has no visits yet.
    fn was_tried_lately(&self, now: UnixNanos) -> bool {
        self.tried.is_some_and(|tried| now.saturating_sub(tried) <= IDENTIFYING_NS)
    }

    fn is_due(&self, now: UnixNanos) -> bool {
        self.tried.is_none_or(|tried| now - tried >= IDENTIFIED_FOR_NS)
    }

    fn identify(&mut self, now: UnixNanos) {
        self.tried = Some(now);
        let known: Vec<Visit> =
            self.visits.iter().copied().filter(|visit| visit.departure <= self.judged_until).collect();
        let newest = known.len().saturating_sub(IDENTIFYING_VISITS);
        self.found = Some(servers::identify(&known[newest..]));
    }

    fn forget(&mut self, before: UnixNanos, most: usize) {
        self.visits.retain(|visit| visit.departure >= before);
        let surplus = self.visits.len().saturating_sub(most);
        self.visits.drain(..surplus);
    }
}
