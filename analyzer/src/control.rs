//! [`Controller`]: from an open finding to limits, and back when it closes.
//!
//! Fed forward by the queueing model: at most `limit₀ = ceil(c/S · (S + Wq_budget + D))` requests in
//! flight at the bottleneck (Little's law at full capacity; D is the time a request waits there for
//! calls to others, when it holds a place but no worker; with D = 0 it is `c·(1 + Wq_budget/S)`), and
//! at the entry whose path crosses it no more than a share of `c/S`, so that nothing is worked on
//! upstream to be shed later. Guards: floor c, a bounded step,
//! dry run, kill switch, overrides by hand; nothing is decided without fresh windows, because a
//! decision is made only when one closes.

mod audit;
mod limits;
mod orders;

use std::{collections::BTreeMap, num::NonZeroU32};

use serde::{Deserialize, Serialize};
use weir_policy::{Policy, PolicySet};
use weir_schema::{Batch, UnixNanos};

use self::audit::{CONTROLLER, Change, OVERRIDE, actuator, describe};
pub(crate) use self::orders::SavedControl;
use crate::{
    config::ControlConfig,
    snapshot::{ControlView, OverrideView},
};

/// An order from people.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Whether policy follows findings.
    SetControl {
        /// On or off.
        enabled: bool,
    },
    /// Lifts everything at once, or ends that.
    KillSwitch {
        /// Lifted or not.
        engaged: bool,
        /// Who says so.
        author: String,
    },
    /// Sets a policy by hand; it wins over the controller's.
    Override {
        /// What to enforce.
        policy: Policy,
        /// Who says so.
        author: String,
        /// When it ends by itself.
        expires_unix_nano: Option<UnixNanos>,
    },
    /// Takes an override back.
    ClearOverride {
        /// Of which service.
        service: String,
        /// Who says so.
        author: String,
    },
}

/// What the controller needs to know of a bottleneck.
#[derive(Clone, Debug, PartialEq)]
pub struct Bottleneck {
    /// The finding.
    pub finding_id: String,
    /// The service.
    pub service: String,
    /// c, when known.
    pub servers: Option<NonZeroU32>,
    /// S, when known.
    pub service_time_ms: Option<f64>,
    /// S without what a server is held for by calls to others.
    pub own_service_time_ms: Option<f64>,
    /// The same while nothing was wrong.
    pub usual_service_time_ms: Option<f64>,
    /// D: mean time a request waits there for calls to others.
    pub downstream_ms: f64,
    /// ρ, when known.
    pub utilization: Option<f64>,
    /// Requests it completes per second now.
    pub completions_per_s: f64,
    /// Whether a request of it ended in this window: what is missing is not idle.
    pub is_measured: bool,
    /// Whether only a measured load says that it is full: callers repeat calls to who fails at once as to who is slow.
    pub only_if_full: bool,
    /// Where its traffic enters, and how many requests reach it per entry request.
    pub entry: Option<(String, f64)>,
}

/// The controller's state.
#[derive(Debug)]
pub struct Controller {
    config: ControlConfig,
    /// Whether policy follows findings as configured, whatever was ordered since.
    configured: bool,
    kill_switch: bool,
    /// By service: what the controller wants.
    wanted: BTreeMap<String, Policy>,
    /// By service under suspicion: its service time in the window before, in milliseconds.
    measured: BTreeMap<String, f64>,
    /// By service under suspicion: the entry that is limited for it.
    limited_at: BTreeMap<String, String>,
    overrides: BTreeMap<String, OverrideView>,
    current: PolicySet,
    pending: Vec<Change>,
    decided_at: UnixNanos,
    /// After a restart, when limits from before it describe nothing any more.
    stale_at: Option<UnixNanos>,
}

/// What a step decided.
#[derive(Debug, Default)]
pub(crate) struct Decision {
    pub(crate) policy: Option<PolicySet>,
    pub(crate) rows: Option<Batch>,
}

impl Controller {
    /// Nothing regulated.
    #[must_use]
    pub fn new(config: ControlConfig) -> Self {
        let current = PolicySet { ttl_ms: config.ttl_ms, ..PolicySet::default() };
        Self {
            configured: config.enabled,
            config,
            kill_switch: false,
            wanted: BTreeMap::new(),
            measured: BTreeMap::new(),
            limited_at: BTreeMap::new(),
            overrides: BTreeMap::new(),
            current,
            pending: Vec::new(),
            decided_at: 0,
            stale_at: None,
        }
    }

    /// What is regulated now.
    #[must_use]
    pub fn policy(&self) -> &PolicySet {
        &self.current
    }

    /// For people.
    #[must_use]
    pub fn view(&self) -> ControlView {
        let ControlConfig { enabled, dry_run, .. } = self.config;
        ControlView {
            enabled,
            dry_run,
            kill_switch: self.kill_switch,
            overrides: self.overrides.values().cloned().collect(),
        }
    }

    /// Takes an order; it shows in the next decision.
    pub(crate) fn command(&mut self, command: Command) {
        match command {
            Command::SetControl { enabled } => self.config.enabled = enabled,
            Command::KillSwitch { engaged, author } => {
                self.kill_switch = engaged;
                let (old, new) = (Some((!engaged).to_string()), Some(engaged.to_string()));
                let reason = if engaged { "everything lifted by hand" } else { "regulation resumed by hand" };
                let (service, reason) = ("*".to_owned(), reason.to_owned());
                self.note(Change { service, actuator: "kill_switch", old, new, author, reason, finding_id: None });
            }
            Command::Override { policy, author, expires_unix_nano } => {
                let service = policy.service.clone();
                self.note(Change {
                    service: service.clone(),
                    actuator: OVERRIDE,
                    old: None,
                    new: Some(describe(&policy)),
                    author: author.clone(),
                    reason: policy.reason.clone(),
                    finding_id: None,
                });
                self.overrides.insert(service, OverrideView { policy, author, expires_unix_nano });
            }
            Command::ClearOverride { service, author } => {
                if let Some(gone) = self.overrides.remove(&service) {
                    self.note(Change::override_over(service, &gone.policy, author, "taken back"));
                }
            }
        }
    }

    /// Looks at what is wrong now and says what changes.
    pub(crate) fn step(&mut self, bottlenecks: &[Bottleneck], now: UnixNanos) -> Decision {
        self.expire(now);
        let mut wanted = BTreeMap::new();
        if self.config.enabled {
            for bottleneck in bottlenecks {
                self.regulate(bottleneck, &mut wanted);
            }
        }
        let measured = bottlenecks.iter().filter_map(|b| Some((b.service.clone(), b.service_time_ms?)));
        self.measured = measured.collect();
        self.limited_at.retain(|service, _| bottlenecks.iter().any(|bottleneck| bottleneck.service == *service));
        let reason = if self.config.enabled { "the finding is over" } else { "control was switched off" };
        for (service, old) in &self.wanted.clone() {
            if !wanted.contains_key(service) {
                self.note(Change::lifted(service, old, reason));
            }
        }
        self.wanted = wanted;
        self.decide(now)
    }

    /// Obeys people between two windows. Limits move only with fresh measurements, so nothing is
    /// regulated anew here; what is switched off is lifted at once.
    pub(crate) fn obey(&mut self, now: UnixNanos) -> Decision {
        if !self.config.enabled && !self.wanted.is_empty() {
            return self.step(&[], now);
        }
        self.expire(now);
        self.decide(now)
    }

    fn expire(&mut self, now: UnixNanos) {
        self.lift_stale(now);
        let over: Vec<String> = self
            .overrides
            .iter()
            .filter(|(_, o)| o.expires_unix_nano.is_some_and(|at| at <= now))
            .map(|(s, _)| s.clone())
            .collect();
        for service in over {
            if let Some(gone) = self.overrides.remove(&service) {
                self.note(Change::override_over(service, &gone.policy, gone.author, "it expired"));
            }
        }
    }

    /// A new set when what is to be enforced differs from what is.
    fn decide(&mut self, now: UnixNanos) -> Decision {
        self.decided_at = now;
        let policies = self.enforced();
        let changed = policies != self.current.policies;
        if changed {
            let issued_unix_nano = u64::try_from(now).unwrap_or(0);
            let sequence = self.current.sequence + 1;
            self.current = PolicySet { sequence, issued_unix_nano, ttl_ms: self.config.ttl_ms, policies };
        }
        let changes = std::mem::take(&mut self.pending);
        let rows = (!changes.is_empty()).then(|| self.audit(&changes, now));
        Decision { policy: changed.then(|| self.current.clone()), rows }
    }

    fn enforced(&self) -> Vec<Policy> {
        if self.kill_switch {
            return Vec::new();
        }
        let mut policies = if self.config.dry_run { BTreeMap::new() } else { self.wanted.clone() };
        policies.extend(self.overrides.iter().map(|(service, o)| (service.clone(), o.policy.clone())));
        policies.into_values().collect()
    }
}

#[cfg(test)]
mod tests;
