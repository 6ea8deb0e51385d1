//! [`Script`]: how long each part of the demo lasts, in proportion to the whole.

use std::time::Duration;

use crate::exit::ConfigError;

/// Below this a window would hold too few requests to judge.
const SHORTEST: Duration = Duration::from_secs(20);

/// Of a minute: 15 s healthy, 20 s of fault only watched, 25 s of fault with policy, windows of 2 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Script {
    pub(super) healthy: Duration,
    pub(super) fault: Duration,
    pub(super) policy: Duration,
    pub(super) window: Duration,
}

/// When each part was, in nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Played {
    pub(super) before_fault: (i64, i64),
    pub(super) fault_without_policy: (i64, i64),
    pub(super) fault_with_policy: (i64, i64),
}

impl Script {
    pub(super) fn of(duration: Duration) -> Result<Self, ConfigError> {
        if duration < SHORTEST {
            return Err(ConfigError(format!(
                "--duration {duration:?}: at least {SHORTEST:?}, or nothing could be judged"
            )));
        }
        Ok(Self {
            healthy: duration * 15 / 60,
            fault: duration * 20 / 60,
            policy: duration * 25 / 60,
            window: (duration / 30).min(Duration::from_secs(10)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_is_as_documented_and_the_rest_in_proportion() {
        let of = |s| Script::of(Duration::from_secs(s)).map(|s| (s.healthy, s.fault, s.policy, s.window));
        let seconds = Duration::from_secs;
        assert_eq!(of(60).unwrap(), (seconds(15), seconds(20), seconds(25), seconds(2)));
        assert_eq!(of(600).unwrap(), (seconds(150), seconds(200), seconds(250), seconds(10)));
        assert!(of(5).is_err());
    }
}
