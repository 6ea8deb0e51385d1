//! [`Model`]: the wait that an estimate's model predicts, at any load, service time, variation and number of servers.
//!
//! Each replica is a queue of its own with its share of the arrivals, as measured while nothing is changed. Servers that are added are
//! spread as evenly as they go. Of clients that wait for their answer more arrivals mean more clients.

use std::num::NonZeroU32;

use crate::{
    queueing::{ggc, mg1, mm1, mmc, mmck, mva, usl::Usl},
    snapshot::{Estimate, ReplicaEstimate},
};

/// What describes a station.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// Poisson arrivals, exponential service, one server.
    Mm1,
    /// The same with several.
    Mmc,
    /// Poisson arrivals, any service, one server.
    Mg1,
    /// Any arrivals, any service, one server.
    Gg1,
    /// The same with several.
    Ggc,
    /// Shared by all who are there.
    Ps,
    /// A limit on who may be there.
    Mmck,
    /// Requests that hinder each other.
    Usl,
    /// Few clients that wait for their answer.
    Mva,
    /// Batches of a model server, replayed: [`crate::lm`].
    Lm,
}

/// What a station is asked to take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// λ of all replicas together.
    pub arrival_rate_per_s: f64,
    /// S.
    pub service_time_ms: f64,
    /// c of all replicas together.
    pub servers: u32,
    /// Of arrivals at a replica.
    pub ca2: f64,
    /// Of service times.
    pub cs2: f64,
}

/// A replica's part of the load.
struct Part {
    share: f64,
    servers: NonZeroU32,
    /// Its service time over that of all.
    slower: f64,
}

impl Model {
    const ALL: [(&str, Self); 10] = [
        ("mm1", Self::Mm1),
        ("mmc", Self::Mmc),
        ("mg1", Self::Mg1),
        ("gg1", Self::Gg1),
        ("ggc", Self::Ggc),
        ("ps", Self::Ps),
        ("mmck", Self::Mmck),
        ("usl", Self::Usl),
        ("mva", Self::Mva),
        ("lm", Self::Lm),
    ];

    /// The estimate's; `None` when it is not known.
    #[must_use]
    pub fn of(estimate: &Estimate) -> Option<Self> {
        Self::ALL.into_iter().find(|(name, _)| *name == estimate.model).map(|(_, model)| model)
    }

    /// As in [`Estimate::model`].
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, model)| *model == self).map_or("unknown", |(name, _)| name)
    }

    /// Milliseconds in the queue of one replica; `None` when it would grow without bound.
    fn queue_wait_ms(self, load: &Load, servers: NonZeroU32, room: Option<u32>) -> Option<f64> {
        let (rate, service_s) = (load.arrival_rate_per_s, load.service_time_ms / 1e3);
        let seconds = match self {
            Self::Mm1 if servers.get() == 1 => mm1::queue_wait(rate, service_s),
            Self::Mg1 if servers.get() == 1 => mg1::queue_wait(rate, service_s, load.cs2),
            Self::Mm1 | Self::Mmc | Self::Ps => mmc::queue_wait(rate, service_s, servers),
            Self::Mg1 | Self::Gg1 | Self::Ggc => ggc::queue_wait(rate, service_s, servers, load.ca2, load.cs2),
            Self::Mmck => mmck::solve(rate, service_s, servers, room?).map(|found| found.queue_wait),
            Self::Usl | Self::Mva | Self::Lm => None,
        };
        seconds.map(|seconds| seconds * 1e3)
    }
}

impl Load {
    /// What an estimate says of now: as over the last windows in which nothing changed, with the newest arrivals where these rise or
    /// fall; else of this window.
    #[must_use]
    pub fn now(estimate: &Estimate) -> Option<Self> {
        let steady = Self::steady(estimate)?;
        let newest = estimate.steady.as_ref().and_then(|steady| steady.arrival_rate_per_s_newest);
        Some(Self { arrival_rate_per_s: newest.unwrap_or(steady.arrival_rate_per_s), ..steady })
    }

    /// What was measured together: over the last windows in which nothing changed, else in this one.
    #[must_use]
    pub fn steady(estimate: &Estimate) -> Option<Self> {
        let servers = estimate.servers.or((estimate.model == Model::Usl.as_str()).then_some(1))?;
        if let Some(steady) = &estimate.steady {
            return Some(Self {
                arrival_rate_per_s: steady.arrival_rate_per_s,
                service_time_ms: steady.service_time_ms,
                servers,
                ca2: steady.ca2,
                cs2: steady.cs2,
            });
        }
        Self::of_window(estimate)
    }

    /// What it says of the window alone.
    #[must_use]
    pub fn of_window(estimate: &Estimate) -> Option<Self> {
        Some(Self {
            arrival_rate_per_s: estimate.arrival_rate_per_s,
            service_time_ms: estimate.service_time_ms?,
            servers: estimate.servers.or((estimate.model == Model::Usl.as_str()).then_some(1))?,
            ca2: estimate.ca2.unwrap_or(1.0),
            cs2: estimate.cs2.unwrap_or(1.0),
        })
    }

    /// The same with other arrivals.
    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        Self { arrival_rate_per_s: self.arrival_rate_per_s * factor, ..self }
    }
}

/// Milliseconds in the queue; `None` when it would grow without bound, or no model was found.
#[must_use]
pub fn queue_wait_ms(estimate: &Estimate, load: &Load) -> Option<f64> {
    queue_wait_ms_by(Model::of(estimate)?, estimate, load)
}

/// The same by another model than the estimate's.
pub(crate) fn queue_wait_ms_by(model: Model, estimate: &Estimate, load: &Load) -> Option<f64> {
    match model {
        Model::Usl => contended(estimate, load),
        Model::Mva => closed(estimate, load),
        model => of_replicas(model, estimate, load),
    }
}

fn of_replicas(model: Model, estimate: &Estimate, load: &Load) -> Option<f64> {
    let limit = estimate.limited.as_ref().filter(|_| model == Model::Mmck);
    // what wants in grows as what is served
    let wanted = limit.map_or(1.0, |limit| limit.offered_rate_per_s / estimate.arrival_rate_per_s.max(1e-9));
    let waits = parts(estimate, load.servers)?.into_iter().map(|part| {
        let of_part = Load {
            arrival_rate_per_s: load.arrival_rate_per_s * wanted * part.share,
            service_time_ms: load.service_time_ms * part.slower,
            ..*load
        };
        let room = limit.map(|limit| (f64::from(limit.room) * part.share).round() as u32);
        model.queue_wait_ms(&of_part, part.servers, room).map(|wait| wait * part.share)
    });
    waits.sum()
}

/// Replicas as they are measured, or alike where that is not known or servers change.
fn parts(estimate: &Estimate, servers: u32) -> Option<Vec<Part>> {
    let total: f64 = estimate.by_replica.iter().map(|replica| replica.arrival_rate_per_s).sum();
    if Some(servers) == estimate.servers && estimate.by_replica.len() > 1 && total > 0.0 {
        let part = |replica: &ReplicaEstimate| {
            Some(Part {
                share: replica.arrival_rate_per_s / total,
                servers: NonZeroU32::new(replica.servers?)?,
                slower: replica.service_time_ms? / estimate.service_time_ms?,
            })
        };
        let busy = estimate.by_replica.iter().filter(|replica| replica.arrival_rate_per_s > 0.0);
        if let Some(parts) = busy.map(part).collect() {
            return Some(parts);
        }
    }
    let replicas = estimate.replicas.unwrap_or(1).clamp(1, servers.max(1));
    let part = |place: u32| {
        let more = u32::from(place < servers % replicas);
        let servers = NonZeroU32::new(servers / replicas + more)?;
        Some(Part { share: 1.0 / f64::from(replicas), servers, slower: 1.0 })
    };
    (0..replicas).map(part).collect()
}

/// By the fitted law, of which a longer service time is a slower clock.
fn contended(estimate: &Estimate, load: &Load) -> Option<f64> {
    let scaling = estimate.scaling.as_ref()?;
    let service_s = load.service_time_ms / 1e3;
    let law = Usl { gamma: 1.0 / service_s, sigma: scaling.sigma, kappa: scaling.kappa };
    let share = load.arrival_rate_per_s / f64::from(estimate.replicas.unwrap_or(1).max(1));
    Some((law.response_time(share)? - service_s).max(0.0) * 1e3)
}

/// The station, and all that lies between two visits of a client as a delay.
fn closed(estimate: &Estimate, load: &Load) -> Option<f64> {
    let closed = estimate.closed.as_ref()?;
    let now = Load::now(estimate)?.arrival_rate_per_s.max(1e-9);
    let clients = f64::from(closed.clients) * load.arrival_rate_per_s / now;
    let parts = parts(estimate, load.servers)?;
    let demand =
        |part: &Part| mva::Demand { service: load.service_time_ms * part.slower * part.share, servers: part.servers };
    let demands: Vec<mva::Demand> = parts.iter().map(demand).collect();
    let elsewhere = closed.think_time_ms + closed.elsewhere_ms;
    let wait = |clients: f64| {
        let found = mva::solve(&demands, elsewhere, clients as u32)?;
        let there: f64 = found.queue_length.iter().sum();
        let served: f64 = demands.iter().map(|demand| demand.service).sum();
        Some((there / found.throughput - served).max(0.0))
    };
    // half a client more waits half as much more
    let (fewer, more) = (clients.floor().max(1.0), clients.ceil().max(1.0));
    let (low, high) = (wait(fewer)?, wait(more)?);
    Some(low + (high - low) * (clients - fewer).clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Closed, Limited, Scaling};

    fn estimate(model: Model) -> Estimate {
        Estimate {
            arrival_rate_per_s: 80.0,
            service_time_ms: Some(20.0),
            servers: Some(2),
            replicas: Some(1),
            ca2: Some(1.0),
            cs2: Some(1.0),
            model: model.as_str().to_owned(),
            ..Estimate::default()
        }
    }

    fn wait(estimate: &Estimate) -> f64 {
        queue_wait_ms(estimate, &Load::now(estimate).unwrap()).unwrap()
    }

    #[test]
    fn names_go_both_ways() {
        for (name, model) in Model::ALL {
            assert_eq!((model.as_str(), Model::of(&estimate(model))), (name, Some(model)));
        }
        assert_eq!(Model::of(&Estimate { model: "unknown".into(), ..Estimate::default() }), None);
    }

    #[test]
    fn every_rung_is_its_formula() {
        // a = 1.6 with two servers: C = 0.711111, Wq = C·S/(c(1−ρ)) = 35.56 ms
        let exponential = 35.555_555;
        for model in [Model::Mmc, Model::Ps, Model::Ggc] {
            assert!((wait(&estimate(model)) - exponential).abs() < 1e-4, "{model:?}");
        }
        let one = |model| Estimate { servers: Some(1), arrival_rate_per_s: 40.0, cs2: Some(0.0), ..estimate(model) };
        assert!((wait(&one(Model::Mm1)) - 80.0).abs() < 1e-9);
        assert!((wait(&one(Model::Mg1)) - 40.0).abs() < 1e-9);
        // one server and room for three at ρ = 0.8: those let in find 1.225 there, of whom each takes 20 ms
        let limited = Limited { room: 3, offered_rate_per_s: 40.0, ..Limited::default() };
        let limited = Estimate { limited: Some(limited), ..one(Model::Mmck) };
        assert!((wait(&limited) - 20.0 * (0.8 + 2.0 * 0.64) / (1.0 + 0.8 + 0.64)).abs() < 1e-9);
        let serial = Scaling { gamma_per_s: 50.0, sigma: 1.0, ..Scaling::default() };
        let contended = Estimate { scaling: Some(serial), servers: None, ..one(Model::Usl) };
        assert!((wait(&contended) - 80.0).abs() < 1e-4);
        // one client never waits for another
        let alone = Closed { clients: 1, think_time_ms: 5.0, elsewhere_ms: 0.0 };
        assert!(wait(&Estimate { closed: Some(alone), ..one(Model::Mva) }).abs() < 1e-9);
    }

    #[test]
    fn replicas_are_queues_of_their_own() {
        let two = Estimate { servers: Some(2), replicas: Some(2), ..estimate(Model::Mmc) };
        assert!((wait(&two) - 80.0).abs() < 1e-9, "two queues with one server each");
        let replica = |rate: f64, service: f64| ReplicaEstimate {
            arrival_rate_per_s: rate,
            servers: Some(1),
            service_time_ms: Some(service),
            ..ReplicaEstimate::default()
        };
        let uneven = Estimate { by_replica: vec![replica(40.0, 20.0), replica(20.0, 20.0)], ..two.clone() };
        let load = Load { arrival_rate_per_s: 60.0, ..Load::now(&uneven).unwrap() };
        let expected = 2.0 / 3.0 * 80.0 + 1.0 / 3.0 * 0.4 / 0.6 * 20.0;
        assert!((queue_wait_ms(&uneven, &load).unwrap() - expected).abs() < 1e-9);
        // a third server goes to one of them
        let more = Load { servers: 3, ..Load::now(&two).unwrap() };
        let of_two = mmc::queue_wait(40.0, 0.02, NonZeroU32::new(2).unwrap()).unwrap() * 1e3;
        assert!((queue_wait_ms(&two, &more).unwrap() - (of_two + 80.0) / 2.0).abs() < 1e-9);
    }
}
