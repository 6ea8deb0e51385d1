//! [`fit`]: the memory bounds of a server's parts, made to fit into what its control group or the machine gives.
//!
//! Each part is bounded by a number of its own; their defaults are for a machine that has 3.2 GiB for them. In a smaller one, or in a
//! container with a limit, all of them together would be more than there is, and the kernel would end the server under load. So
//! what nobody configured is scaled, by one share for all parts, until everything fits into nine tenths of what is given:
//!
//! ```text
//! share = (9/10 given - fixed - configured) / Σ defaults of the rest,   from 1/16 to 1
//! ```
//!
//! The last tenth is for the program itself and for what is between two allocations. Below a sixteenth a server would only refuse,
//! so there it is left to a warning at the start.

use tracing::{info, warn};
use weir_proxy::given_bytes;

use crate::config::Config;

/// What no key bounds, 720 MiB: footers and bloom filters of files, what look-ups of traces ask of them, one merge, one file packed more
/// tightly, logs and metrics on their way to the analysis, two traces that are held, and the requests of ten minutes.
const FIXED_BYTES: u64 = (192 + 64 + 128 + 128 + 32 + 2 * 64 + 48) << 20;

/// The least share of a default.
const LEAST_SHARE: f64 = 1.0 / 16.0;

/// A bound in memory: its key, what one of its units takes, and where it stands.
struct Part {
    key: &'static str,
    unit_bytes: f64,
    value: fn(&Config) -> u64,
    set: fn(&mut Config, u64),
}

/// What the units take is said where the keys are defined.
const PARTS: [Part; 7] = [
    Part {
        key: "collector.max_in_flight_bytes",
        unit_bytes: 1.0,
        value: |config| config.collector.max_in_flight_bytes as u64,
        set: |config, value| config.collector.max_in_flight_bytes = size(value),
    },
    Part {
        key: "collector.max_connections",
        unit_bytes: (128 << 10) as f64,
        value: |config| config.collector.max_connections as u64,
        set: |config, value| config.collector.max_connections = size(value),
    },
    Part {
        key: "store.memory_limit_bytes",
        unit_bytes: 1.125,
        value: |config| config.store.memory_limit_bytes,
        set: |config, value| config.store.memory_limit_bytes = value,
    },
    Part {
        key: "store.sql.memory_bytes",
        unit_bytes: 1.0,
        value: |config| config.store.sql.memory_bytes as u64,
        set: |config, value| config.store.sql.memory_bytes = size(value),
    },
    Part {
        key: "analyzer.max_held_spans",
        unit_bytes: 58.0,
        value: |config| config.analyzer.max_held_spans as u64,
        set: |config, value| config.analyzer.max_held_spans = size(value),
    },
    Part {
        key: "analyzer.max_trace_spans",
        unit_bytes: 288.0,
        value: |config| config.analyzer.max_trace_spans as u64,
        set: |config, value| config.analyzer.max_trace_spans = size(value),
    },
    Part {
        key: "analyzer.max_trace_lines",
        unit_bytes: 110.0,
        value: |config| config.analyzer.max_trace_lines as u64,
        set: |config, value| config.analyzer.max_trace_lines = size(value),
    },
];

impl Part {
    fn bytes(&self, config: &Config) -> f64 {
        (self.value)(config) as f64 * self.unit_bytes
    }
}

fn size(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// Scales what was not configured, so that all of it fits into `given` bytes. The largest request is half of what may be in flight.
pub(crate) fn fit(config: &mut Config, is_configured: impl Fn(&str) -> bool, given: Option<u64>) {
    let (configured, rest): (Vec<&Part>, Vec<&Part>) = PARTS.iter().partition(|part| is_configured(part.key));
    let bytes = |parts: &[&Part], config: &Config| parts.iter().map(|part| part.bytes(config)).sum::<f64>();
    if let Some(given) = given {
        let left = given as f64 * 0.9 - FIXED_BYTES as f64 - bytes(&configured, config);
        let share = (left / bytes(&rest, config).max(1.0)).clamp(LEAST_SHARE, 1.0);
        for part in rest {
            (part.set)(config, ((part.value)(config) as f64 * share) as u64);
        }
    }
    let collector = &mut config.collector;
    if !is_configured("collector.max_body_bytes") {
        collector.max_body_bytes = collector.max_body_bytes.min(collector.max_in_flight_bytes / 2);
    } else if !is_configured("collector.max_in_flight_bytes") {
        collector.max_in_flight_bytes = collector.max_in_flight_bytes.max(collector.max_body_bytes.saturating_mul(2));
    }
}

/// All bounds together.
fn bounds_bytes(config: &Config) -> u64 {
    FIXED_BYTES + PARTS.iter().map(|part| part.bytes(config)).sum::<f64>() as u64
}

/// Says at the start what the parts may have.
pub(crate) fn say(config: &Config) {
    let (bounds, given) = (bounds_bytes(config), given_bytes());
    let mib = |bytes: u64| bytes >> 20;
    let given_mib = given.map(mib);
    let (in_flight_mib, store_mib) =
        (config.collector.max_in_flight_bytes >> 20, config.store.memory_limit_bytes >> 20);
    let (sql_mib, held_spans) = (config.store.sql.memory_bytes >> 20, config.analyzer.max_held_spans);
    let connections = config.collector.max_connections;
    let bounds_mib = mib(bounds);
    match given.is_some_and(|given| bounds > given) {
        true => warn!(
            given_mib,
            bounds_mib,
            in_flight_mib,
            connections,
            store_mib,
            sql_mib,
            held_spans,
            "memory: the bounds together are more than there is: give more, or configure less"
        ),
        false => info!(given_mib, bounds_mib, in_flight_mib, connections, store_mib, sql_mib, held_spans, "memory"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn fitted(given: Option<u64>, configured: &[&str], change: impl FnOnce(&mut Config)) -> Config {
        let mut config = Config::default();
        change(&mut config);
        fit(&mut config, |key| configured.contains(&key), given);
        config
    }

    #[test]
    fn the_bounds_of_a_small_container_fit_into_it() {
        for given in [GIB * 19 / 20, GIB, 2 * GIB, 3 * GIB] {
            let config = fitted(Some(given), &[], |_| {});
            assert!(bounds_bytes(&config) <= given / 10 * 9 + PARTS.len() as u64, "{given}: {}", bounds_bytes(&config));
            config.collector.validate().unwrap();
            config.store().validate().unwrap();
            config.analyzer.validate().unwrap();
        }
        // as before this was there: 1 GiB ended by the kernel
        assert!(bounds_bytes(&Config::default()) > 2 * GIB);
    }

    #[test]
    fn where_there_is_enough_or_nothing_is_known_the_defaults_stay() {
        let defaults = bounds_bytes(&Config::default());
        for given in [None, Some(4 * GIB), Some(u64::MAX)] {
            assert_eq!(bounds_bytes(&fitted(given, &[], |_| {})), defaults, "{given:?}");
        }
    }

    #[test]
    fn what_is_configured_stays_and_the_rest_makes_room_for_it() {
        let configured =
            fitted(Some(2 * GIB), &["store.sql.memory_bytes"], |config| config.store.sql.memory_bytes = 1 << 29);
        assert_eq!(configured.store.sql.memory_bytes, 1 << 29);
        let unconfigured = fitted(Some(2 * GIB), &[], |_| {});
        assert!(unconfigured.store.sql.memory_bytes > 1 << 29);
        assert!(configured.store.memory_limit_bytes > unconfigured.store.memory_limit_bytes);
        assert!(bounds_bytes(&configured) <= 2 * GIB / 10 * 9 + 100);
    }

    #[test]
    fn in_almost_nothing_a_sixteenth_is_left() {
        let config = fitted(Some(64 << 20), &[], |_| {});
        assert_eq!(config.store.memory_limit_bytes, 32 << 20);
        config.collector.validate().unwrap();
        config.store().validate().unwrap();
    }

    #[test]
    fn the_largest_request_and_what_is_in_flight_go_together() {
        let in_flight = ["collector.max_in_flight_bytes"];
        let config = fitted(None, &in_flight, |config| config.collector.max_in_flight_bytes = 16 << 20);
        assert_eq!(config.collector.max_body_bytes, 8 << 20);
        let body = ["collector.max_body_bytes"];
        let config = fitted(Some(GIB), &body, |config| config.collector.max_body_bytes = 20 << 20);
        assert_eq!(config.collector.max_in_flight_bytes, 40 << 20);
    }
}
