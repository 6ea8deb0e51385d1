//! [`divide`]: the workers that a service is said to have, among its replicas.
//!
//! The number is of the whole service, and replicas are queues of their own. Of none it is said how many workers it has, so each is taken to
//! have as many as the others; what does not come out even goes, one each, to those with most visits, for who has a worker
//! more is sent more, or falls behind, which shows. Those are counted that were visited in this window or the two before, though visits of others
//! are kept for longer: a replica that is gone leaves its share to the others, and one that comes takes some, as the number says. Nobody has none: while replicas
//! replace each other there may be more of them than workers for a moment, and each works.

use std::{cmp::Reverse, collections::BTreeMap, num::NonZeroU32};

use weir_schema::UnixNanos;

use super::{Replica, station::Station};

/// The share of each replica that was visited since.
pub(super) fn divide(
    servers: NonZeroU32,
    replicas: &BTreeMap<Replica, Station>,
    since: UnixNanos,
) -> BTreeMap<Replica, NonZeroU32> {
    let visited = replicas.iter().filter(|(_, station)| station.is_visited_since(since));
    shares(servers, visited.map(|(replica, station)| (station.visits(), *replica)).collect())
}

fn shares(servers: NonZeroU32, mut replicas: Vec<(usize, Replica)>) -> BTreeMap<Replica, NonZeroU32> {
    let count = u32::try_from(replicas.len()).unwrap_or(u32::MAX).max(1);
    let (each, more) = (servers.get() / count, servers.get() % count);
    replicas.sort_unstable_by_key(|(visits, replica)| (Reverse(*visits), *replica));
    let share = |place: usize| NonZeroU32::new(each + u32::from(place < more as usize)).unwrap_or(NonZeroU32::MIN);
    replicas.into_iter().enumerate().map(|(place, (_, replica))| (replica, share(place))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_even_and_what_is_over_goes_where_most_is_done() {
        let cases: [(u32, &[usize], &[u32]); 6] = [
            (3, &[10, 10, 10], &[1, 1, 1]),
            (12, &[10, 30, 20], &[4, 4, 4]),
            (8, &[10, 30, 20], &[2, 3, 3]),
            (5, &[7], &[5]),
            // one of three is gone, and then one more than there are workers has come
            (3, &[10, 20], &[1, 2]),
            (3, &[5, 5, 5, 5], &[1, 1, 1, 1]),
        ];
        for (servers, visits, expected) in cases {
            let replicas = (1..).zip(visits).map(|(name, visits)| (*visits, Some(name))).collect();
            let found = shares(NonZeroU32::new(servers).unwrap(), replicas);
            assert_eq!(
                found.values().map(|share| share.get()).collect::<Vec<_>>(),
                expected,
                "{servers} of {visits:?}"
            );
        }
        assert!(shares(NonZeroU32::MIN, Vec::new()).is_empty());
    }
}
