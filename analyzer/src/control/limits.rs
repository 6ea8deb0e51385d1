//! What limits a bottleneck is due, and how far they move in one step.

use std::{collections::BTreeMap, num::NonZeroU32};

use weir_policy::{ConcurrencyLimit, Policy, RateLimit};

use super::{Bottleneck, CONTROLLER, Change, Controller, actuator, describe};

/// A change of a limit smaller than this share is not worth a new set.
const MIN_CHANGE: f64 = 0.1;

/// A service whose utilization is this share of the target is as good as full.
const FULL: f64 = 0.9;

/// Service times of two windows within this factor describe the same state.
const STEADY: f64 = 1.5;

impl Controller {
    pub(super) fn regulate(&mut self, bottleneck: &Bottleneck, wanted: &mut BTreeMap<String, Policy>) {
        let Bottleneck { finding_id, service, servers, service_time_ms, .. } = bottleneck;
        // a finding outlives its cause by some windows: what is not full now would get a limit from
        // numbers that do not describe the fault, and reach the right one only in small steps
        let full = |u: f64| u >= FULL * self.config.target_utilization;
        let full = bottleneck.utilization.map_or(!bottleneck.only_if_full, full);
        let describes_now = service_time_ms.is_none_or(|s| is_slow(bottleneck) || self.is_steady(service, s));
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
        self.note(Change {
            service: service.clone(),
            actuator: actuator(&policy),
            old,
            new,
            author: CONTROLLER.to_owned(),
            reason,
            finding_id: Some(finding_id.to_owned()),
        });
        wanted.insert(service, policy);
    }
}

/// Whether it is slower than usual now, so that a limit is due at once.
fn is_slow(bottleneck: &Bottleneck) -> bool {
    let now_and_usual = bottleneck.own_service_time_ms.zip(bottleneck.usual_service_time_ms);
    now_and_usual.is_some_and(|(now, usual)| now > STEADY * usual)
}
