//! [`SavedControl`]: what of the controller a restart must not lose: what people ordered, and the limits in force.
//!
//! Orders of people hold until people take them back: the kill switch, overrides until they expire, and whether policy follows
//! findings, where somebody ordered otherwise than the configuration says. Limits of the controller's own go on where they were,
//! so that a restart in the middle of a fault moves none of them; but after five minutes they describe nothing that is measured, and
//! are lifted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weir_policy::{Policy, PolicySet};
use weir_schema::UnixNanos;

use super::{Change, Controller};
use crate::snapshot::OverrideView;

/// Limits that nothing was measured for in so long say nothing of now.
const STALE_NS: i64 = 300_000_000_000;

/// As a checkpoint holds it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SavedControl {
    kill_switch: bool,
    /// Whether policy follows findings, where that was ordered otherwise than configured.
    ordered: Option<bool>,
    overrides: BTreeMap<String, OverrideView>,
    wanted: BTreeMap<String, Policy>,
    measured: BTreeMap<String, f64>,
    limited_at: BTreeMap<String, String>,
    current: PolicySet,
    decided_at: UnixNanos,
}

impl Controller {
    pub(crate) fn save(&self) -> SavedControl {
        let enabled = self.config.enabled;
        SavedControl {
            kill_switch: self.kill_switch,
            ordered: (enabled != self.configured).then_some(enabled),
            overrides: self.overrides.clone(),
            wanted: self.wanted.clone(),
            measured: self.measured.clone(),
            limited_at: self.limited_at.clone(),
            current: self.current.clone(),
            decided_at: self.decided_at,
        }
    }

    /// Before anything is decided, takes back up what was saved.
    pub(crate) fn restore(&mut self, saved: SavedControl) {
        let SavedControl { kill_switch, ordered, overrides, wanted, measured, limited_at, current, decided_at } = saved;
        self.config.enabled = ordered.unwrap_or(self.config.enabled);
        self.kill_switch = kill_switch;
        (self.overrides, self.wanted) = (overrides, wanted);
        (self.measured, self.limited_at) = (measured, limited_at);
        self.current = PolicySet { ttl_ms: self.config.ttl_ms, ..current };
        self.stale_at = Some(decided_at.saturating_add(STALE_NS));
    }

    /// The first decision after a restart that took too long lifts what was limited before it.
    pub(super) fn lift_stale(&mut self, now: UnixNanos) {
        if self.stale_at.take().is_none_or(|at| now < at) {
            return;
        }
        for (service, old) in std::mem::take(&mut self.wanted) {
            self.note(Change::lifted(&service, &old, "nothing was measured while weir was away"));
        }
        self.measured.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use weir_policy::RateLimit;

    use super::*;
    use crate::{
        config::ControlConfig,
        control::{Bottleneck, Command},
    };

    const MINUTE: i64 = 60_000_000_000;

    fn bottleneck() -> Bottleneck {
        Bottleneck {
            finding_id: "f1".into(),
            service: "tagger".into(),
            servers: NonZeroU32::new(4),
            service_time_ms: Some(80.0),
            own_service_time_ms: Some(80.0),
            usual_service_time_ms: Some(20.0),
            downstream_ms: 0.0,
            utilization: Some(1.0),
            completions_per_s: 50.0,
            is_measured: true,
            only_if_full: false,
            entry: Some(("gateway".into(), 1.0)),
        }
    }

    fn override_of(service: &str, expires_unix_nano: Option<i64>) -> Command {
        let policy = Policy {
            service: service.into(),
            rate_limit: RateLimit::new(7.0, NonZeroU32::MIN),
            reason: "by hand".into(),
            ..Policy::default()
        };
        Command::Override { policy, author: "ana".into(), expires_unix_nano }
    }

    /// As a checkpoint does it.
    fn restarted(before: &Controller, config: ControlConfig) -> Controller {
        let mut bytes = Vec::new();
        ciborium::into_writer(&before.save(), &mut bytes).unwrap();
        let mut after = Controller::new(config);
        after.restore(ciborium::from_reader(bytes.as_slice()).unwrap());
        after
    }

    #[test]
    fn what_people_ordered_and_what_is_in_force_outlives_a_restart() {
        let mut before = Controller::new(ControlConfig::default());
        before.command(Command::SetControl { enabled: true });
        before.command(override_of("cart", None));
        before.command(override_of("stock", Some(3 * MINUTE)));
        before.step(&[bottleneck()], MINUTE);
        let mut after = restarted(&before, ControlConfig::default());
        assert_eq!(after.policy(), before.policy());
        assert!(after.view().enabled && after.view().overrides.len() == 2);
        assert!(after.obey(2 * MINUTE).policy.is_none(), "nothing moves");
        let expired = after.obey(3 * MINUTE);
        assert_eq!(expired.policy.unwrap().sequence, before.policy().sequence + 1);
        assert!(after.policy().for_service("stock").is_none() && after.policy().for_service("tagger").is_some());
    }

    #[test]
    fn an_engaged_kill_switch_stays_engaged() {
        let config = ControlConfig { enabled: true, ..ControlConfig::default() };
        let mut before = Controller::new(config.clone());
        before.step(&[bottleneck()], MINUTE);
        before.command(Command::KillSwitch { engaged: true, author: "ana".into() });
        before.obey(MINUTE + 1);
        let mut after = restarted(&before, config.clone());
        assert!(after.view().kill_switch);
        after.step(&[bottleneck()], MINUTE + 2);
        assert!(after.policy().policies.is_empty(), "an open finding changes nothing");
        after.command(Command::KillSwitch { engaged: false, author: "ana".into() });
        assert_eq!(after.obey(MINUTE + 3).policy.unwrap().policies.len(), 2);
    }

    #[test]
    fn the_configuration_rules_where_nobody_ordered_otherwise() {
        let on = ControlConfig { enabled: true, ..ControlConfig::default() };
        let quiet = Controller::new(ControlConfig::default());
        assert!(restarted(&quiet, on.clone()).view().enabled);
        let mut off = Controller::new(on.clone());
        off.command(Command::SetControl { enabled: false });
        assert!(!restarted(&off, on).view().enabled);
    }

    #[test]
    fn limits_of_long_ago_are_lifted_and_orders_are_not() {
        let mut before = Controller::new(ControlConfig { enabled: true, ..ControlConfig::default() });
        before.command(override_of("cart", None));
        before.step(&[bottleneck()], MINUTE);
        let mut after = restarted(&before, ControlConfig { enabled: true, ..ControlConfig::default() });
        let lifted = after.obey(MINUTE + STALE_NS);
        let left: Vec<_> = lifted.policy.unwrap().policies.into_iter().map(|policy| policy.service).collect();
        assert_eq!(left, ["cart"]);
        assert_eq!(lifted.rows.unwrap().rows.num_rows(), 2, "both limits' ends are in the audit");
    }
}
