//! What the analyzer can be told.

use std::{collections::BTreeMap, fmt::Display};

use serde::{Deserialize, Serialize};
use weir_schema::InvalidSetting;

/// Workers of one service: formulas count them one by one.
pub(crate) const MAX_SERVERS: u32 = 10_000;

/// A window, and how late a span may come: a day.
const LONGEST_MS: u64 = 86_400_000;

/// The analyzer's configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Length of a window, in milliseconds. 10 s: a service with 3 requests/s has 30 of them.
    pub window_ms: u64,
    /// How late a span, or a log record, may come and still count in its window, in milliseconds.
    pub lateness_ms: u64,
    /// How long a span is remembered for its children, parents and duplicates, in milliseconds.
    pub hold_ms: u64,
    /// Spans remembered at most; beyond it the oldest half is let go. A span takes 49 bytes and its
    /// table is at most 7/8 full: 3,600,000 take 206 MB, hold 30,000 spans/s for a minute, and leave
    /// most of 1.5 GiB to the store. One more span in a half would double its table.
    pub max_held_spans: usize,
    /// Spans of requests under way that are gathered for root causes; beyond it a share of all requests is, whole. A
    /// span takes 128 bytes, and as many may wait for their ranking: 100,000 take 26 MB and hold 2,000 requests of 50 spans.
    pub max_trace_spans: usize,
    /// Lines that such requests logged, kept for their ranking; beyond it further ones are left out and counted. A line takes
    /// 16 to 110 bytes: 200,000 take 22 MB at the most, and are ten of each of 20,000 requests.
    pub max_trace_lines: usize,
    /// Service level objective: 99 of 100 requests at an entry are to take at most so many milliseconds. When more take longer in 3 of
    /// 5 windows, a finding names the service at which they wait most. Without it nothing is told against an objective.
    pub slo_ms: Option<f64>,
    /// Workers of a service, of all its replicas together, where known: divided among the replicas that are visited. It comes before
    /// what sidecars say of their own replica (`servers` of proxy.yaml), which is the better place where replicas come and go.
    pub servers: BTreeMap<String, u32>,
    /// Windows of history before a service is judged.
    pub min_history: usize,
    /// The controller.
    pub control: ControlConfig,
}

/// The controller's configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControlConfig {
    /// Whether policy follows findings. Off by default: look first.
    pub enabled: bool,
    /// Whether changes are only proposed.
    pub dry_run: bool,
    /// How long a request may wait at the bottleneck, in milliseconds.
    pub wq_budget_ms: f64,
    /// Load admitted at the entry, as a share of the bottleneck's capacity.
    pub target_utilization: f64,
    /// Largest change of a limit in one window, as a share.
    pub max_step: f64,
    /// How long a set holds without news, in milliseconds.
    pub ttl_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            window_ms: 10_000,
            lateness_ms: 2_000,
            hold_ms: 60_000,
            max_held_spans: 3_600_000,
            max_trace_spans: 100_000,
            max_trace_lines: 200_000,
            slo_ms: None,
            servers: BTreeMap::new(),
            min_history: 4,
            control: ControlConfig::default(),
        }
    }
}

impl Default for ControlConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            dry_run: false,
            wq_budget_ms: 100.0,
            target_utilization: 0.92,
            max_step: 0.2,
            ttl_ms: 60_000,
        }
    }
}

impl Config {
    /// Checks that the numbers can work together.
    ///
    /// # Errors
    /// The first that cannot be used.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        for (key, ms) in [("window_ms", self.window_ms), ("lateness_ms", self.lateness_ms), ("hold_ms", self.hold_ms)] {
            check(ms <= LONGEST_MS, key, ms, format!("be at most {LONGEST_MS}, a day"))?;
        }
        check(self.window_ms >= 100, "window_ms", self.window_ms, "be at least 100")?;
        let least = self.window_ms + self.lateness_ms;
        let must = format!("be at least window_ms + lateness_ms, {least}");
        check(self.hold_ms >= least, "hold_ms", self.hold_ms, must)?;
        check(self.max_held_spans >= 1_000, "max_held_spans", self.max_held_spans, "be at least 1000")?;
        check(self.max_trace_spans >= 1_000, "max_trace_spans", self.max_trace_spans, "be at least 1000")?;
        let slo_ms = self.slo_ms.unwrap_or(f64::INFINITY);
        check(slo_ms > 0.0, "slo_ms", slo_ms, "be above 0")?;
        for (service, servers) in &self.servers {
            let must = format!("be from 1 to {MAX_SERVERS}");
            check((1..=MAX_SERVERS).contains(servers), &format!("servers.{service}"), servers, must)?;
        }
        check(self.min_history >= 2, "min_history", self.min_history, "be at least 2")?;
        self.control.validate().map_err(|invalid| invalid.within("control"))
    }
}

impl ControlConfig {
    fn validate(&self) -> Result<(), InvalidSetting> {
        check(self.wq_budget_ms > 0.0, "wq_budget_ms", self.wq_budget_ms, "be above 0")?;
        for (key, share) in [("target_utilization", self.target_utilization), ("max_step", self.max_step)] {
            check(share > 0.0 && share <= 1.0, key, share, "be above 0 and at most 1")?;
        }
        Ok(())
    }
}

fn check(holds: bool, key: &str, value: impl Display, must: impl Into<String>) -> Result<(), InvalidSetting> {
    if holds { Ok(()) } else { Err(InvalidSetting::new(key, value, must)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_named_with_its_value() {
        let refused = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        let cases = [
            (refused(|config| config.window_ms = 99), "window_ms: is 99, must be at least 100"),
            // nanoseconds of it are counted in 64 bits
            (
                refused(|config| config.window_ms = u64::MAX),
                "window_ms: is 18446744073709551615, must be at most 86400000",
            ),
            (
                refused(|config| config.hold_ms = 11_999),
                "hold_ms: is 11999, must be at least window_ms + lateness_ms, 12000",
            ),
            (refused(|config| config.slo_ms = Some(0.0)), "slo_ms: is 0, must be above 0"),
            (refused(|config| config.slo_ms = Some(f64::NAN)), "slo_ms: is NaN, must be above 0"),
            (
                refused(|config| config.servers = [("cart".to_owned(), 0)].into()),
                "servers.cart: is 0, must be from 1 to 10000",
            ),
            (
                refused(|config| config.control.max_step = 1.5),
                "control.max_step: is 1.5, must be above 0 and at most 1",
            ),
        ];
        for (said, expect) in cases {
            assert!(said.starts_with(expect), "{said}");
        }
        assert_eq!(Config::default().validate(), Ok(()));
    }
}
