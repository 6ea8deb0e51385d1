//! [`rule`] and [`model`]: how c was found, and which model follows from that and from what arrivals and service look like.

use std::num::NonZeroU32;

use super::limits::refuses;
use crate::{
    model::Model,
    servers::{Discipline, confidence},
    snapshot::Estimate,
    stations::{Giver, Known},
};

/// Standard errors within which a variation is that of exponential times.
const AS_EXPONENTIAL: f64 = 2.0;

/// How c was found.
pub(super) struct Rule {
    pub(super) name: &'static str,
    pub(super) replicas: u32,
    pub(super) discipline: Discipline,
    pub(super) confidence: f64,
}

/// c and how it was found, or why it is not known.
pub(super) fn rule(known: &Known, held: bool) -> Result<(Rule, NonZeroU32), String> {
    match known {
        Known::Given { servers, replicas, by } => {
            let name = match (by, held) {
                (Giver::Configuration, false) => "departures with configured servers",
                (Giver::Sidecars, false) => "departures with servers as sidecars say",
                (Giver::Configuration, true) => "departures with configured servers, each held while calls are awaited",
                (Giver::Sidecars, true) => "departures with servers as sidecars say, each held while calls are awaited",
            };
            // what is said is taken for as sure as what is found surely: nobody measured how often people are right
            let (replicas, confidence) = (*replicas, confidence(f64::INFINITY));
            Ok((Rule { name, replicas, discipline: Discipline::Fifo, confidence }, *servers))
        }
        Known::Identified { servers, replicas, discipline, margin } => {
            let name = match discipline {
                Discipline::Fifo => "departures, served in order",
                Discipline::ProcessorSharing => "departures, shared",
                Discipline::Contended(_) => "departures by the number there: requests hinder each other",
            };
            let (replicas, confidence) = (*replicas, confidence(*margin));
            Ok((Rule { name, replicas, discipline: *discipline, confidence }, *servers))
        }
        Known::Unknown(reason) | Known::AtLeast { why: reason, .. } => {
            Err(format!("{reason}; analyzer.servers can say it"))
        }
        Known::Unseen => Err("no request was seen yet".into()),
    }
}

/// The first rung that fits.
pub(super) fn model(estimate: &Estimate, discipline: Discipline) -> Model {
    let one = estimate.servers == Some(1) || estimate.servers == estimate.replicas;
    let (poisson, exponential) = exponential(estimate);
    match discipline {
        Discipline::Contended(_) => Model::Usl,
        _ if estimate.closed.is_some() => Model::Mva,
        _ if estimate.limited.as_ref().is_some_and(refuses) => Model::Mmck,
        Discipline::ProcessorSharing => Model::Ps,
        Discipline::Fifo => match (one, poisson, exponential) {
            (true, true, true) => Model::Mm1,
            (false, true, true) => Model::Mmc,
            (true, true, false) => Model::Mg1,
            (true, ..) => Model::Gg1,
            (false, ..) => Model::Ggc,
        },
    }
}

/// Whether arrivals, and services, vary as exponential times do, for all that is known.
fn exponential(estimate: &Estimate) -> (bool, bool) {
    let as_one = |scv: f64, deviation: f64| (scv - 1.0).abs() <= AS_EXPONENTIAL * deviation;
    match &estimate.steady {
        Some(steady) => (as_one(steady.ca2, steady.ca2_deviation), as_one(steady.cs2, steady.cs2_deviation)),
        None => (false, false),
    }
}
