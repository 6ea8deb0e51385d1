//! [`Timeouts`]: how long things may take, and why no longer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{
    ConfigError,
    validate::{LONGEST_MS, check},
};

/// How long things may take, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// 1 s: a connection inside a cluster takes well under 1 ms, and one lost SYN is sent again after 1 s.
    pub connect_ms: u64,
    /// 10 s to send a request's head; also how long an idle client connection is kept.
    pub header_read_ms: u64,
    /// 60 s for the head of a response: model services may think for long before the first token.
    pub response_ms: u64,
    /// 1 s that a client of a listener with `protocol: detect` may stay silent before the server is let speak first.
    pub detect_ms: u64,
    /// 5 min without a byte of a request's body: long streams think, and nothing is gathered meanwhile.
    pub body_idle_ms: u64,
    /// 5 min without a byte of an answer's body, as in Envoy, unless its route says otherwise: whoever stalls holds places.
    pub stream_idle_ms: u64,
    /// 60 s that a client may not read while an answer waits for it.
    pub write_idle_ms: u64,
    /// 5 min that an HTTP/2 connection of a client may carry no request; then it is told to go, and connects again when it
    /// has one. One to an upstream is closed after as long, unless the upstream's `pool_idle_ms` says otherwise.
    pub http2_idle_ms: u64,
    /// 1 h in which nothing moves in a tunnel (TCP, WebSocket, `CONNECT`): database pools stay idle for long.
    pub tunnel_idle_ms: u64,
    /// 8 s an idle HTTP/1.1 connection to an upstream is kept: below the 10 s after which our own inbound side closes it.
    pub pool_idle_ms: u64,
    /// How long the sockets stay open once a drain has begun, while `/healthz` is red and clients are told to go: whoever
    /// connects meanwhile is served. 5 s where other machines can connect, and nothing where only this one can: Kubernetes
    /// takes a pod out of its services while it already ends it, and a second or some pass until every kube-proxy, Consul's
    /// clients and DNS caches know. With `drain_ms` and `telemetry.flush_ms` that is 20 s of the 30 s after which it kills.
    /// 0 closes the sockets at once.
    pub lame_duck_ms: Option<u64>,
    /// 10 s that requests in flight get to finish when the sockets are closed.
    pub drain_ms: u64,
}

/// As `lame_duck_ms` says, and why.
const LAME_DUCK_MS: u64 = 5_000;

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect_ms: 1_000,
            header_read_ms: 10_000,
            response_ms: 60_000,
            detect_ms: 1_000,
            body_idle_ms: 300_000,
            stream_idle_ms: 300_000,
            write_idle_ms: 60_000,
            http2_idle_ms: 300_000,
            tunnel_idle_ms: 3_600_000,
            pool_idle_ms: 8_000,
            lame_duck_ms: None,
            drain_ms: 10_000,
        }
    }
}

impl Timeouts {
    /// Refuses times in which nothing could be done, and those that no clock can hold.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let Self { connect_ms, header_read_ms, response_ms, detect_ms, body_idle_ms, stream_idle_ms, .. } = *self;
        let Self { write_idle_ms, http2_idle_ms, tunnel_idle_ms, pool_idle_ms, lame_duck_ms, drain_ms, .. } = *self;
        let at_least_one = [
            ("connect_ms", connect_ms),
            ("header_read_ms", header_read_ms),
            ("response_ms", response_ms),
            ("detect_ms", detect_ms),
            ("body_idle_ms", body_idle_ms),
            ("stream_idle_ms", stream_idle_ms),
            ("write_idle_ms", write_idle_ms),
            ("http2_idle_ms", http2_idle_ms),
            ("tunnel_idle_ms", tunnel_idle_ms),
        ];
        for (key, ms) in at_least_one {
            check((1..=LONGEST_MS).contains(&ms), || format!("timeouts.{key} is {ms}: from 1 ms to a year"))?;
        }
        let lame_duck_ms = lame_duck_ms.unwrap_or_default();
        for (key, ms) in [("pool_idle_ms", pool_idle_ms), ("lame_duck_ms", lame_duck_ms), ("drain_ms", drain_ms)] {
            check(ms <= LONGEST_MS, || format!("timeouts.{key} is {ms}: at most a year"))?;
        }
        Ok(())
    }

    pub(crate) fn connect(&self) -> Duration {
        Duration::from_millis(self.connect_ms)
    }
    pub(crate) fn header_read(&self) -> Duration {
        Duration::from_millis(self.header_read_ms)
    }
    pub(crate) fn response(&self) -> Duration {
        Duration::from_millis(self.response_ms)
    }
    pub(crate) fn detect(&self) -> Duration {
        Duration::from_millis(self.detect_ms)
    }
    pub(crate) fn body_idle(&self) -> Duration {
        Duration::from_millis(self.body_idle_ms)
    }
    pub(crate) fn stream_idle(&self) -> Duration {
        Duration::from_millis(self.stream_idle_ms)
    }
    pub(crate) fn http2_idle(&self) -> Duration {
        Duration::from_millis(self.http2_idle_ms)
    }
    pub(crate) fn write_idle(&self) -> Duration {
        Duration::from_millis(self.write_idle_ms)
    }
    pub(crate) fn tunnel_idle(&self) -> Duration {
        Duration::from_millis(self.tunnel_idle_ms)
    }
    pub(crate) fn pool_idle(&self) -> Duration {
        Duration::from_millis(self.pool_idle_ms)
    }
    /// `reachable` says whether other machines can connect.
    pub(crate) fn lame_duck(&self, reachable: bool) -> Duration {
        let unsaid = if reachable { LAME_DUCK_MS } else { 0 };
        Duration::from_millis(self.lame_duck_ms.unwrap_or(unsaid))
    }
    pub(crate) fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lame_duck_is_for_who_is_far_away() {
        for (said, reachable, expected) in
            [(None, true, 5_000), (None, false, 0), (Some(0), true, 0), (Some(300), false, 300)]
        {
            let timeouts = Timeouts { lame_duck_ms: said, ..Timeouts::default() };
            assert_eq!(timeouts.lame_duck(reachable).as_millis(), expected, "{said:?} {reachable}");
        }
        let refused = Timeouts { lame_duck_ms: Some(u64::MAX), ..Timeouts::default() }.validate().unwrap_err().0;
        assert!(refused.starts_with("timeouts.lame_duck_ms"), "{refused}");
    }
}
