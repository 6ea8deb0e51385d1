//! [`Known`]: how a service serves, from what was said or found of each of its replicas.

use std::{collections::BTreeMap, num::NonZeroU32};

use weir_schema::UnixNanos;

use super::{MAX_STATIONS, Replica, station::Station};
use crate::servers::{self, Discipline};

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

/// What the replicas together are, of which each was given its share of so many servers.
pub(super) fn configured(servers: NonZeroU32, replicas: &BTreeMap<Replica, Station>) -> Known {
    let shares = replicas.values().filter_map(Station::given);
    let (all, count) = shares.fold((0_u32, 0), |(all, count), share| (all.saturating_add(share.get()), count + 1));
    Known::Given { servers: NonZeroU32::new(all).unwrap_or(servers), replicas: count.max(1), by: Giver::Configuration }
}

/// What the replicas together are, by what those say, or what was found of them, that were visited lately.
pub(super) fn known(replicas: &BTreeMap<Replica, Station>, lately: UnixNanos) -> Known {
    let mut stations: Vec<&Station> = replicas.values().filter(|station| station.is_visited_since(lately)).collect();
    if stations.is_empty() {
        stations.extend(replicas.values());
    }
    if stations.iter().any(|station| station.serves().is_none()) {
        return Known::Unknown("it was not looked at yet".into());
    }
    // in the order of their visits: numbers of names depend on who was heard of first
    stations.sort_by_key(|station| station.since());
    let mut all: Option<(servers::Station, u32)> = None;
    for found in stations.iter().filter_map(|station| station.serves()) {
        let found = match found {
            Err(why) => return Known::Unknown(why.to_string()),
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

/// Fitted laws differ in their numbers, which makes them no other discipline.
fn alike(a: Discipline, b: Discipline) -> bool {
    std::mem::discriminant(&a) == std::mem::discriminant(&b)
}
