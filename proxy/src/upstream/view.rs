//! [`View`]: the endpoints of an upstream as they are at one moment: who is well, in which order groups
//! of them come, and how much each group gets. Computed when something changes, only read by requests.
//!
//! Groups are levels: priority first, then nearness. A level carries `min(1, 1.4 × healthy share)` of
//! the traffic: with 1.4, Envoy's overprovisioning, it keeps everything until more than 2 of 7 are out;
//! what it cannot carry goes to the next. When all levels together cannot carry it, their shares are
//! scaled up, and a level with fewer healthy endpoints than the panic threshold uses all it has.
//!
//! A request that goes out again leaves a level of which it has tried everything for the next, also for
//! one without a share; and so does any request where everything in a level has asked to be left alone.

use std::{collections::BTreeMap, sync::Arc};

use tokio::time::Instant;

use crate::{
    config::{Balance, Locality},
    upstream::{balance::Level, endpoint::Endpoint},
};

/// A level that is a little larger than its load needs takes the load of its unhealthy part.
const OVERPROVISIONING: f64 = 1.4;

/// The endpoints at one moment.
#[derive(Default)]
pub(super) struct View {
    all: Vec<Arc<Endpoint>>,
    /// With the sum of the shares up to and with it. One without a share has that of the level before and is never drawn.
    levels: Vec<(f64, Level)>,
    /// When an endpoint that is out comes back.
    until: Option<Instant>,
}

impl View {
    pub(super) fn new(
        all: Vec<Arc<Endpoint>>,
        own: Option<&Locality>,
        panic_percent: u8,
        with_ring: bool,
        now: Instant,
    ) -> Self {
        let mut groups: BTreeMap<(u32, u8), Vec<Arc<Endpoint>>> = BTreeMap::new();
        for endpoint in all.iter().filter(|endpoint| endpoint.spec.weight > 0) {
            let key = (endpoint.spec.priority, distance(own, endpoint.spec.locality.as_ref()));
            groups.entry(key).or_default().push(endpoint.clone());
        }
        let healthy = |group: &Vec<Arc<Endpoint>>| {
            let healthy = group.iter().filter(|endpoint| !endpoint.health.is_ejected(now)).count();
            healthy as f64 / group.len() as f64
        };
        let health: Vec<f64> = groups.values().map(healthy).collect();
        let (shares, enough) = shares(&health);
        let (mut levels, mut sum) = (Vec::new(), 0.0);
        for ((group, health), share) in groups.into_values().zip(health).zip(shares) {
            let panic = !enough && health * 100.0 < f64::from(panic_percent);
            let usable = group.into_iter().filter(|endpoint| panic || !endpoint.health.is_ejected(now)).collect();
            sum += share;
            levels.push((sum, Level::new(usable, with_ring)));
        }
        let until = all.iter().filter_map(|endpoint| endpoint.health.ejected_until(now)).min();
        Self { all, levels, until }
    }

    pub(super) fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.all
    }

    /// Whether an endpoint that was out is back.
    pub(super) fn is_outdated(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now >= until)
    }

    pub(super) fn choose(
        &self,
        balance: &Balance,
        hash: Option<u64>,
        tried: &[usize],
        now: Instant,
    ) -> Option<&Arc<Endpoint>> {
        let drawn = self.draw(hash)?;
        let from_there = || self.levels.iter().cycle().skip(drawn).take(self.levels.len());
        let awake = from_there().find(|(_, level)| level.has_awake_others_than(tried, now));
        let untried = awake.or_else(|| from_there().find(|(_, level)| level.has_others_than(tried)));
        let (_, level) = untried.or_else(|| self.levels.get(drawn))?;
        level.choose(balance, hash, tried, now)
    }

    /// The place of a level, by the shares.
    fn draw(&self, hash: Option<u64>) -> Option<usize> {
        let ((first, _), (all, _)) = (self.levels.first()?, self.levels.last()?);
        if first >= all {
            return Some(0);
        }
        // the same key keeps its level, so that it keeps its endpoint
        let drawn = hash.map_or_else(rand::random::<f64>, |hash| hash as f64 / u64::MAX as f64);
        let beyond = |(up_to, _): &(f64, Level)| drawn < *up_to || up_to >= all;
        self.levels.iter().position(beyond)
    }
}

/// How much of the traffic each level gets by the share of it that is healthy, and whether they can carry it.
fn shares(health: &[f64]) -> (Vec<f64>, bool) {
    let mut left = 1.0;
    let mut shares: Vec<f64> = health
        .iter()
        .map(|health| {
            let share = (health * OVERPROVISIONING).min(left);
            left -= share;
            share
        })
        .collect();
    // a remainder below a rounding error is none
    let enough = left < 1e-9;
    let carried = 1.0 - left;
    if carried > 0.0 {
        shares.iter_mut().for_each(|share| *share /= carried);
    } else if let Some(first) = shares.first_mut() {
        *first = 1.0;
    }
    (shares, enough)
}

/// 0 in the same zone, 1 in the same region, 2 elsewhere or unknown; everything is near to who has no place.
fn distance(own: Option<&Locality>, other: Option<&Locality>) -> u8 {
    let (Some(own), Some(other)) = (own, other) else { return if own.is_some() { 2 } else { 0 } };
    match (own.region == other.region, own.zone == other.zone) {
        (true, true) => 0,
        (true, false) => 1,
        (false, _) => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_carry_what_they_can_and_pass_on_the_rest() {
        for (health, expected, enough) in [
            (vec![1.0], vec![1.0], true),
            (vec![1.0, 1.0], vec![1.0, 0.0], true),
            (vec![0.75, 1.0], vec![1.0, 0.0], true),
            (vec![0.5, 1.0], vec![0.7, 0.3], true),
            (vec![0.0, 1.0], vec![0.0, 1.0], true),
            (vec![0.5, 0.0, 0.1], vec![0.7 / 0.84, 0.0, 0.14 / 0.84], false),
            (vec![0.0, 0.0], vec![1.0, 0.0], false),
        ] {
            let (got, carried) = shares(&health);
            let near = got.iter().zip(&expected).all(|(got, expected)| (got - expected).abs() < 1e-9);
            assert!(near && carried == enough, "{health:?}: {got:?}, not {expected:?}");
        }
    }

    #[test]
    fn zone_then_region_then_the_rest() {
        let at = |region: &str, zone: &str| Locality { region: region.into(), zone: zone.into() };
        let own = at("eu", "a");
        for (other, expected) in
            [(Some(at("eu", "a")), 0), (Some(at("eu", "b")), 1), (Some(at("us", "a")), 2), (None, 2)]
        {
            assert_eq!(distance(Some(&own), other.as_ref()), expected, "{other:?}");
            assert_eq!(distance(None, other.as_ref()), 0);
        }
    }
}
