//! [`Controller`]: from an open finding to limits, and back when it closes.
//!
//! Fed forward by the queueing model: at most `limit₀ = ceil(c/S · (S + Wq_budget + D))` requests in
//! flight at the bottleneck (Little's law at full capacity; D is the time a request waits there for
//! calls to others, when it holds a place but no worker; with D = 0 it is `c·(1 + Wq_budget/S)`), and
//! at the entry whose path crosses it no more than a share of `c/S`, so that nothing is worked on
//! upstream to be shed later. Guards: floor c, a bounded step,
//! dry run, kill switch, overrides by hand; nothing is decided without fresh windows, because a
//! decision is made only when one closes.

mod orders;

use std::{collections::BTreeMap, num::NonZeroU32, sync::Arc};

use arrow::{
    array::{ArrayRef, BooleanArray, Int64Array, StringArray},
    record_batch::RecordBatch,
};
use serde::{Deserialize, Serialize};
use weir_policy::{ConcurrencyLimit, Policy, PolicySet, RateLimit};
use weir_schema::{Batch, Table, UnixNanos};

pub(crate) use self::orders::SavedControl;
use crate::{
    config::ControlConfig,
    snapshot::{ControlView, OverrideView},
};

/// A change of a limit smaller than this share is not worth a new set.
const MIN_CHANGE: f64 = 0.1;

/// A service whose utilization is this share of the target is as good as full.
const FULL: f64 = 0.9;

/// Service times of two windows within this factor describe the same state.
const STEADY: f64 = 1.5;

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
    /// S while nothing was wrong.
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

/// One change for the audit.
#[derive(Clone, Debug, PartialEq)]
struct Change {
    service: String,
    actuator: &'static str,
    old: Option<String>,
    new: Option<String>,
    author: String,
    reason: String,
    finding_id: Option<String>,
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
                self.note("*", "kill_switch", old, new, author, reason.into(), None);
            }
            Command::Override { policy, author, expires_unix_nano } => {
                let new = Some(describe(&policy));
                self.note(&policy.service, "override", None, new, author.clone(), policy.reason.clone(), None);
                let service = policy.service.clone();
                self.overrides.insert(service, OverrideView { policy, author, expires_unix_nano });
            }
            Command::ClearOverride { service, author } => {
                if let Some(gone) = self.overrides.remove(&service) {
                    self.note(
                        &service,
                        "override",
                        Some(describe(&gone.policy)),
                        None,
                        author,
                        "taken back".into(),
                        None,
                    );
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
                let reason = reason.to_owned();
                self.note(service, actuator(old), Some(describe(old)), None, "controller".into(), reason, None);
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

    fn regulate(&mut self, bottleneck: &Bottleneck, wanted: &mut BTreeMap<String, Policy>) {
        let Bottleneck { finding_id, service, servers, service_time_ms, .. } = bottleneck;
        // a finding outlives its cause by some windows: what is not full now would get a limit from
        // numbers that do not describe the fault, and reach the right one only in small steps
        let full = |u: f64| u >= FULL * self.config.target_utilization;
        let full = bottleneck.utilization.map_or(!bottleneck.only_if_full, full);
        let describes_now = service_time_ms.is_none_or(|s| is_slow(bottleneck, s) || self.is_steady(service, s));
        let entry_limited = self.limited_at.get(service).is_some_and(|entry| self.wanted.contains_key(entry));
        let begun = self.wanted.contains_key(service) || entry_limited;
        let due = full && describes_now && bottleneck.is_measured;
        if !begun && !due {
            return;
        }
        // completions are no more than a limit lets through: without a measured load they would lead it down for ever
        if begun && (bottleneck.utilization.is_none() || !bottleneck.is_measured) {
            self.keep(service, wanted);
            return;
        }
        if let Some((c, s)) = servers.zip(*service_time_ms) {
            let target = (f64::from(c.get()) / s * (s + self.config.wq_budget_ms + bottleneck.downstream_ms)).ceil();
            let limit = self
                .stepped(service, target, |p| p.concurrency_limit.map(|l| f64::from(l.limit.get())))
                .max(f64::from(c.get()));
            let queue_timeout_ms = self.config.wq_budget_ms as u64;
            let limit = NonZeroU32::new(limit as u32).unwrap_or(c);
            let limit = ConcurrencyLimit { limit, queue: limit.get(), queue_timeout_ms };
            let reason = format!(
                "{service} has {c} workers and takes {s:.0} ms, and waits {:.0} ms for others: at most {} in flight keep the wait below {queue_timeout_ms} ms",
                bottleneck.downstream_ms, limit.limit
            );
            let policy =
                Policy { service: service.clone(), concurrency_limit: Some(limit), reason, ..Policy::default() };
            self.want(policy, finding_id, wanted);
        }
        let Some((entry, visits)) = &bottleneck.entry else { return };
        let capacity =
            servers.zip(*service_time_ms).map_or(bottleneck.completions_per_s, |(c, s)| f64::from(c.get()) * 1e3 / s);
        let target = self.config.target_utilization * capacity / visits.max(1e-6);
        let rate = self.stepped(entry, target, |p| p.rate_limit.map(|r| r.rate_per_s()));
        let burst = NonZeroU32::new((rate / 10.0).ceil() as u32).unwrap_or(NonZeroU32::MIN);
        let Some(rate_limit) = RateLimit::new(rate, burst) else { return };
        let reason = format!(
            "{service} completes {capacity:.0}/s: {entry} admits {rate:.0}/s so that nothing is worked on to be shed later"
        );
        let mut policy = wanted.remove(entry).unwrap_or_else(|| Policy {
            service: entry.clone(),
            reason: reason.clone(),
            ..Policy::default()
        });
        policy.rate_limit = Some(rate_limit);
        if &policy.service != service {
            policy.reason = reason;
        }
        self.limited_at.insert(service.clone(), entry.clone());
        self.want(policy, finding_id, wanted);
    }

    /// What is in force for a service goes on as it is.
    fn keep(&self, service: &str, wanted: &mut BTreeMap<String, Policy>) {
        let limited = [Some(service), self.limited_at.get(service).map(String::as_str)];
        for (name, policy) in limited.into_iter().flatten().filter_map(|name| self.wanted.get_key_value(name)) {
            wanted.entry(name.clone()).or_insert_with(|| policy.clone());
        }
    }

    /// Whether the window before measured about the same: the window after a fault still serves its
    /// backlog, and is full, but at the usual pace and not for long.
    fn is_steady(&self, service: &str, service_time_ms: f64) -> bool {
        let before = self.measured.get(service);
        before.is_some_and(|before| (1.0 / STEADY..=STEADY).contains(&(service_time_ms / before)))
    }

    /// Towards `target`, but no further than a step from what is in force; small changes are left.
    fn stepped(&self, service: &str, target: f64, value: impl Fn(&Policy) -> Option<f64>) -> f64 {
        let Some(now) = self.wanted.get(service).and_then(value) else { return target };
        if (target - now).abs() < MIN_CHANGE * now {
            return now;
        }
        target.clamp(now * (1.0 - self.config.max_step), now * (1.0 + self.config.max_step)).max(1.0)
    }

    fn want(&mut self, policy: Policy, finding_id: &str, wanted: &mut BTreeMap<String, Policy>) {
        let old = self.wanted.get(&policy.service);
        let same = old.is_some_and(|old| {
            old.concurrency_limit == policy.concurrency_limit && old.rate_limit == policy.rate_limit
        });
        if same {
            let old = old.cloned().unwrap_or(policy);
            wanted.insert(old.service.clone(), old);
            return;
        }
        let (old, new) = (old.map(describe), Some(describe(&policy)));
        let (service, reason) = (policy.service.clone(), policy.reason.clone());
        self.note(&service, actuator(&policy), old, new, "controller".into(), reason, Some(finding_id.to_owned()));
        wanted.insert(service, policy);
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
                self.note(
                    &service,
                    "override",
                    Some(describe(&gone.policy)),
                    None,
                    gone.author,
                    "it expired".into(),
                    None,
                );
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

    #[allow(clippy::too_many_arguments, reason = "the columns of one audit row")]
    fn note(
        &mut self,
        service: &str,
        actuator: &'static str,
        old: Option<String>,
        new: Option<String>,
        author: String,
        reason: String,
        finding_id: Option<String>,
    ) {
        self.pending.push(Change { service: service.to_owned(), actuator, old, new, author, reason, finding_id });
    }

    fn audit(&self, changes: &[Change], now: UnixNanos) -> Batch {
        let text = |value: fn(&Change) -> Option<&str>| {
            Arc::new(changes.iter().map(value).collect::<StringArray>()) as ArrayRef
        };
        let sequence = i64::try_from(self.current.sequence).unwrap_or(i64::MAX);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![now; changes.len()])),
            Arc::new(Int64Array::from(vec![sequence; changes.len()])),
            text(|c| Some(&c.service)),
            text(|_| None),
            text(|c| Some(c.actuator)),
            text(|c| c.old.as_deref()),
            text(|c| c.new.as_deref()),
            text(|c| Some(&c.author)),
            text(|c| Some(&c.reason)),
            text(|c| c.finding_id.as_deref()),
            Arc::new(BooleanArray::from(vec![self.config.dry_run; changes.len()])),
        ];
        let table = Table::PolicyChanges;
        let rows = RecordBatch::try_new(table.schema(), columns).expect("the columns above are the table's");
        Batch { table, rows }
    }
}

/// Whether it is slower than usual now, so that a limit is due at once.
fn is_slow(bottleneck: &Bottleneck, service_time_ms: f64) -> bool {
    bottleneck.usual_service_time_ms.is_some_and(|usual| service_time_ms > STEADY * usual)
}

fn actuator(policy: &Policy) -> &'static str {
    if policy.concurrency_limit.is_some() {
        "concurrency_limit"
    } else if policy.rate_limit.is_some() {
        "rate_limit"
    } else {
        "breaker"
    }
}

fn describe(policy: &Policy) -> String {
    let limit = policy.concurrency_limit.map(|l| format!("{} in flight", l.limit));
    let rate = policy.rate_limit.map(|r| format!("{:.1}/s", r.rate_per_s()));
    let breaker = policy.breaker.map(|b| format!("breaker at {:.0} % errors", b.error_ratio() * 100.0));
    [limit, rate, breaker].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bottleneck(service_time_ms: f64) -> Bottleneck {
        Bottleneck {
            finding_id: "f1".into(),
            service: "tagger".into(),
            servers: NonZeroU32::new(4),
            service_time_ms: Some(service_time_ms),
            usual_service_time_ms: Some(20.0),
            downstream_ms: 0.0,
            utilization: Some(1.0),
            completions_per_s: 50.0,
            is_measured: true,
            only_if_full: false,
            entry: Some(("gateway".into(), 1.0)),
        }
    }

    fn controller(config: ControlConfig) -> Controller {
        Controller::new(ControlConfig { enabled: true, ..config })
    }

    #[test]
    fn a_bottleneck_is_limited_and_shed_at_the_entry() {
        let mut controller = controller(ControlConfig::default());
        assert!(controller.step(&[bottleneck(20.0)], 0).policy.is_none());
        let policy = controller.step(&[bottleneck(80.0)], 1).policy.unwrap();
        assert_eq!(policy.validate(), Ok(()));
        assert_eq!(policy.for_service("tagger").unwrap().concurrency_limit.unwrap().limit.get(), 9);
        assert!((policy.for_service("gateway").unwrap().rate_limit.unwrap().rate_per_s() - 46.0).abs() < 1e-9);
        assert!(controller.step(&[bottleneck(81.0)], 2).policy.is_none(), "noise changes nothing");
        let lifted = controller.step(&[], 3);
        assert!(lifted.policy.unwrap().policies.is_empty());
        assert_eq!(lifted.rows.unwrap().rows.num_rows(), 2);
    }

    #[test]
    fn a_limit_moves_in_steps_and_never_below_the_workers() {
        let mut controller = controller(ControlConfig::default());
        controller.step(&[bottleneck(20.0)], 0);
        controller.step(&[bottleneck(20.0)], 1);
        let mut last = 24.0;
        for now in 2..20 {
            controller.step(&[bottleneck(100_000.0)], now);
            let limit =
                f64::from(controller.policy().for_service("tagger").unwrap().concurrency_limit.unwrap().limit.get());
            assert!(limit >= 4.0 && limit >= last * 0.8 - 1.0, "{limit} after {last}");
            last = limit;
        }
        assert!(last <= 6.0);
    }

    #[test]
    fn people_win() {
        let mut controller = controller(ControlConfig::default());
        controller.step(&[bottleneck(80.0)], 0);
        controller.step(&[bottleneck(80.0)], 1);
        controller.command(Command::KillSwitch { engaged: true, author: "ana".into() });
        assert!(controller.step(&[bottleneck(80.0)], 2).policy.unwrap().policies.is_empty());
        controller.command(Command::KillSwitch { engaged: false, author: "ana".into() });
        let policy = Policy {
            service: "tagger".into(),
            rate_limit: RateLimit::new(7.0, NonZeroU32::MIN),
            reason: "by hand".into(),
            ..Policy::default()
        };
        controller.command(Command::Override { policy, author: "ana".into(), expires_unix_nano: Some(10) });
        let set = controller.step(&[bottleneck(80.0)], 3).policy.unwrap();
        assert!(set.for_service("tagger").unwrap().concurrency_limit.is_none());
        let set = controller.step(&[bottleneck(80.0)], 10).policy.unwrap();
        assert!(set.for_service("tagger").unwrap().concurrency_limit.is_some(), "the override expired");
    }

    #[test]
    fn limits_move_with_windows_only_and_switching_off_lifts_at_once() {
        let mut controller = controller(ControlConfig::default());
        controller.step(&[bottleneck(20.0)], 0);
        controller.step(&[bottleneck(20.0)], 1);
        let before = controller.policy().clone();
        assert!((2..10).all(|now| controller.obey(now).policy.is_none()));
        assert_eq!(controller.policy(), &before);
        controller.command(Command::SetControl { enabled: false });
        assert!(controller.obey(11).policy.unwrap().policies.is_empty());
    }

    #[test]
    fn nothing_is_begun_for_a_service_that_is_not_full() {
        let mut controller = controller(ControlConfig::default());
        let recovered = Bottleneck { utilization: Some(0.4), ..bottleneck(20.0) };
        assert!(controller.step(std::slice::from_ref(&recovered), 1).policy.is_none());
        assert!(controller.step(&[bottleneck(20.0)], 1).policy.is_some(), "a surge that lasts");
        controller.step(&[], 1);
        assert!(controller.step(&[bottleneck(20.0)], 2).policy.is_none(), "the last of a backlog at the usual pace");
        assert!(controller.step(&[bottleneck(80.0)], 2).policy.is_some(), "slow, at once");
        let set = controller.step(&[recovered], 3).policy.unwrap();
        assert!(set.for_service("tagger").is_some(), "what was begun is loosened in steps until the finding is over");
    }

    #[test]
    fn who_is_not_measured_keeps_its_limits_however_long_nothing_comes() {
        let mut controller = controller(ControlConfig::default());
        controller.step(&[bottleneck(80.0)], 0);
        let before = controller.policy().clone();
        assert_eq!(before.policies.len(), 2);
        let silent = Bottleneck {
            servers: None,
            service_time_ms: None,
            utilization: None,
            completions_per_s: 0.0,
            is_measured: false,
            entry: None,
            ..bottleneck(80.0)
        };
        for now in 1..20 {
            assert!(controller.step(std::slice::from_ref(&silent), now).policy.is_none());
        }
        assert_eq!(controller.policy(), &before);
        assert!(controller.step(&[], 20).policy.unwrap().policies.is_empty(), "until the finding is over");
        assert!(controller.step(&[silent], 21).policy.is_none(), "and nothing is begun for it");
    }

    #[test]
    fn without_a_measured_load_a_limit_is_set_once_and_does_not_follow_what_it_lets_through() {
        let mut controller = controller(ControlConfig::default());
        let unknown = |completions_per_s: f64| Bottleneck {
            servers: None,
            service_time_ms: None,
            utilization: None,
            completions_per_s,
            ..bottleneck(80.0)
        };
        let limit = |controller: &Controller| {
            controller
                .policy()
                .for_service("gateway")
                .and_then(|policy| policy.rate_limit)
                .map(|rate| rate.rate_per_s())
        };
        controller.step(&[unknown(50.0)], 0);
        for (now, completions) in [(1, 46.0), (2, 42.0), (3, 30.0), (4, 3.0)] {
            controller.step(&[unknown(completions)], now);
            assert!((limit(&controller).unwrap() - 46.0).abs() < 1e-9, "{:?}", limit(&controller));
        }
        controller.step(&[], 5);
        controller.step(&[Bottleneck { only_if_full: true, ..unknown(50.0) }], 6);
        assert_eq!(limit(&controller), None, "that calls to it are repeated does not say that it is full");
        controller.step(&[Bottleneck { only_if_full: true, ..bottleneck(80.0) }], 7);
        assert!(limit(&controller).is_some(), "its measured load does");
    }

    #[test]
    fn off_and_dry_run_change_nothing() {
        let mut off = Controller::new(ControlConfig::default());
        assert!(off.step(&[bottleneck(80.0)], 1).policy.is_none());
        let mut dry = controller(ControlConfig { dry_run: true, ..ControlConfig::default() });
        let decision = dry.step(&[bottleneck(80.0)], 1);
        assert!(decision.policy.is_none() && decision.rows.is_some(), "proposed in the audit, not enforced");
    }
}
