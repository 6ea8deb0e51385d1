//! [`Known`]: how a service serves, from what was said or found of each of its replicas.

use std::{collections::BTreeMap, num::NonZeroU32};

use weir_schema::UnixNanos;

use super::{MAX_STATIONS, Replica, station::Station};
use crate::servers::{self, Discipline, Unidentifiable};

/// What is known of how a service serves.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Known {
    /// Somebody said so.
    Given {
        /// Of all replicas together.
        servers: NonZeroU32,
        replicas: u32,
        by: Giver,
    },
    /// From the visits of each replica.
    Identified {
        /// Of all replicas together.
        servers: NonZeroU32,
        replicas: u32,
        discipline: Discipline,
        /// Standard deviations to the next best explanation, of the least sure replica.
        margin: f64,
    },
    /// Requests hardly ever wait: it has so many servers, of all replicas together, or more.
    AtLeast { servers: u32, why: String },
    /// And why.
    Unknown(String),
    /// No visit yet.
    #[default]
    Unseen,
}

/// Who said how many servers there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Giver {
    /// `analyzer.servers`, of the whole service.
    Configuration,
    /// The sidecar of every replica, of its own.
    Sidecars,
}

impl Known {
    /// Of some of the replicas that were visited nothing is known, because there are too many in the mesh.
    pub(super) fn beyond(unseen: usize, visited: usize) -> Self {
        Self::Unknown(format!(
            "not looked at: {unseen} of its {visited} replicas are beyond the {MAX_STATIONS} of the mesh that are told apart"
        ))
    }
}

/// What the replicas together are, of which each that was visited since was given its share of so many servers.
pub(super) fn configured(servers: NonZeroU32, replicas: &BTreeMap<Replica, Station>, since: UnixNanos) -> Known {
    let visited = replicas.values().filter(|station| station.is_visited_since(since));
    let shares = visited.filter_map(Station::given);
    let (all, count) = shares.fold((0_u32, 0), |(all, count), share| (all.saturating_add(share.get()), count + 1));
    Known::Given { servers: NonZeroU32::new(all).unwrap_or(servers), replicas: count.max(1), by: Giver::Configuration }
}

/// What the replicas together are, by what those say, or what was found of them, that are there still. One that has just come is taken to be
/// as its siblings, where these are all alike.
pub(super) fn known(replicas: &BTreeMap<Replica, Station>, now: UnixNanos, length_ns: i64) -> Known {
    let mut stations: Vec<&Station> = replicas.values().filter(|station| station.is_there(now, length_ns)).collect();
    if stations.is_empty() {
        stations.extend(replicas.values());
    }
    let sibling = sibling(&stations);
    let serves = |station: &Station| match station.serves() {
        None | Some(Err(Unidentifiable::TooFew { .. })) if sibling.is_some() => sibling.map(Ok),
        serves => serves,
    };
    if stations.iter().any(|station| serves(station).is_none()) {
        return Known::Unknown("it was not looked at yet".into());
    }
    // in the order of their visits: numbers of names depend on who was heard of first
    stations.sort_by_key(|station| station.since());
    let mut all: Option<(servers::Station, u32)> = None;
    for found in stations.iter().filter_map(|station| serves(station)) {
        let found = match found {
            Err(why) => return not_told(&stations, why),
            Ok(found) => found,
        };
        all = Some(match all {
            None => (found, 1),
            Some((sum, _)) if !alike(sum.discipline, found.discipline) => {
                return Known::Unknown("its replicas serve in different ways".into());
            }
            Some((sum, count)) => {
                let servers = sum.servers.saturating_add(found.servers.get());
                (servers::Station { servers, margin: sum.margin.min(found.margin), ..sum }, count + 1)
            }
        });
    }
    let Some((sum, replicas)) = all else { return Known::Unseen };
    let servers::Station { servers, discipline, margin, .. } = sum;
    match stations.iter().all(|station| station.given().is_some()) {
        true => Known::Given { servers, replicas, by: Giver::Sidecars },
        false => Known::Identified { servers, replicas, discipline, margin },
    }
}

/// Why servers cannot be told; where that is because requests hardly ever wait, how many there are at least.
fn not_told(stations: &[&Station], why: Unidentifiable) -> Known {
    let at_least = |station: &&Station| match station.serves()? {
        Ok(found) => Some(found.servers.get()),
        Err(Unidentifiable::HardlyQueues { at_least }) => Some(at_least.get()),
        Err(_) => None,
    };
    match stations.iter().map(at_least).sum() {
        Some(servers) => Known::AtLeast { servers, why: why.to_string() },
        None => Known::Unknown(why.to_string()),
    }
}

/// What all that are known are; `None` where they differ.
fn sibling(stations: &[&Station]) -> Option<servers::Station> {
    let mut known = stations.iter().filter_map(|station| station.serves()?.ok());
    let first = known.next()?;
    let is_as = |other: servers::Station| other.servers == first.servers && alike(other.discipline, first.discipline);
    known.all(is_as).then_some(first)
}

/// Fitted laws differ in their numbers, which makes them no other discipline.
fn alike(a: Discipline, b: Discipline) -> bool {
    std::mem::discriminant(&a) == std::mem::discriminant(&b)
}
