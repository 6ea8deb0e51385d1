//! [`Suspicion`]: what one detector says of one service in one window.
//!
//! Confidence is of the same form as that of the ranking of traces (`causes/ranking.rs`), so both can be compared:
//! `(1 − 3/z) · (1 − e^(−n/3)) · h/(h + ½)`: how far beyond chance, from how many requests, against how many
//! windows; times its share of all that is suspected of one cause with it in the window (`merge.rs`). No factor is fitted. On simulated
//! meshes it promises less than it keeps: `findings/tests` prints the table.

use std::collections::BTreeSet;

use weir_schema::UnixNanos;

use super::{
    kind::{Class, Kind},
    scene::Scene,
};
use crate::{snapshot::Evidence, spans::Name};

/// Deviations that are no chance where nothing else is looked at.
const GATE: f64 = 3.0;

/// Requests that are an e-fold of doubt less.
const FEW_REQUESTS: f64 = 3.0;

/// Windows of history that halve the doubt.
const FEW_WINDOWS: f64 = 0.5;

/// What speaks against a service in one window.
#[derive(Clone, Debug)]
pub(super) struct Suspicion {
    pub(super) service: Name,
    pub(super) kind: Kind,
    pub(super) operation: Option<Name>,
    pub(super) instance: Option<Name>,
    /// The other side, where there is one: who repeats calls, whom a surge loads, what is not called any more.
    pub(super) peer: Option<Name>,
    /// Milliseconds that requests lose per second.
    pub(super) lost_ms_per_s: f64,
    /// Share of the requests that pass it which suffer.
    pub(super) touched: f64,
    pub(super) confidence: f64,
    /// Whether it is told against a level (an objective, full servers) and not against history: then what happens is usual.
    pub(super) standing: bool,
    /// How many windows it speaks for.
    pub(super) votes: usize,
    /// When it began, as far as this window tells.
    pub(super) onset: UnixNanos,
    pub(super) summary: String,
    pub(super) action: String,
    pub(super) evidence: Vec<Evidence>,
    /// Services that only suffer from it.
    pub(super) victims: BTreeSet<Name>,
}

impl Suspicion {
    /// Whether it is of a fault that was not always there.
    pub(super) fn is_new_fault(&self) -> bool {
        !self.standing && self.kind.class() == Class::Fault
    }

    pub(super) fn of(kind: Kind, service: Name, scene: &Scene) -> Self {
        Self {
            service,
            kind,
            operation: None,
            instance: None,
            peer: None,
            lost_ms_per_s: 0.0,
            touched: 1.0,
            confidence: 0.0,
            standing: false,
            votes: 1,
            onset: scene.start(),
            summary: String::new(),
            action: String::new(),
            evidence: Vec::new(),
            victims: BTreeSet::new(),
        }
    }
}

/// How sure so many deviations of so many requests are, against so many windows.
pub(super) fn confidence(deviations: f64, requests: u32, windows: usize) -> f64 {
    let beyond_chance = (1.0 - GATE / deviations.max(GATE)).max(0.0);
    let enough = 1.0 - (-f64::from(requests) / FEW_REQUESTS).exp();
    let known = windows as f64 / (windows as f64 + FEW_WINDOWS);
    beyond_chance * enough * known
}
