//! What the collector can be told.

use std::fmt::Display;

use serde::{Deserialize, Serialize};
use weir_schema::InvalidSetting;

use crate::cors::Cors;

/// The collector's configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Largest request, inflated, in bytes. 20 MiB: what the OpenTelemetry Collector takes by HTTP, so that what was sent to one can be sent
    /// here; three of them fit between arrival and ack.
    pub max_body_bytes: usize,
    /// Bytes of all requests between arrival and ack, as sent, inflated and decoded; the next one waits unread. One that proves larger than it
    /// said may pass it by twice `max_body_bytes`, so that those who wait for each other go on. 64 MiB: half a second of
    /// what two cores store; more that is read ahead only pushes the rest out of the caches.
    pub max_in_flight_bytes: usize,
    /// Connections of both doors; one more is closed at once. Twice as many requests may wait in line, of which 64 KiB each may have come: 256 MiB.
    pub max_connections: usize,
    /// Requests at once on one HTTP/2 connection; the peer waits with the next. 128: HTTP/2 asks for 100 at least.
    pub max_streams_per_connection: u32,
    /// How long a request may wait for room before it is told to come back, in milliseconds; four fifths of it unread. 5 s: half of the time
    /// OpenTelemetry's exporters give a whole export. A call by gRPC that has less time waits less. 0: nobody waits.
    pub max_wait_ms: u64,
    /// How long a body may take to come, in milliseconds. 10 s: the time OpenTelemetry's exporters give a whole export.
    pub body_timeout_ms: u64,
    /// Origins of web pages that may send by OTLP/HTTP: `https://shop.example`, `https://*.shop.example`, or `*`. Empty: none.
    pub cors_allowed_origins: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_body_bytes: 20 << 20,
            max_in_flight_bytes: 64 << 20,
            max_connections: 2_048,
            max_streams_per_connection: 128,
            max_wait_ms: 5_000,
            body_timeout_ms: 10_000,
            cors_allowed_origins: Vec::new(),
        }
    }
}

/// The least that may be set for the largest request: 4 KiB are a few spans.
const LEAST_BODY_BYTES: usize = 4 << 10;

/// More cannot be counted.
const MAX_CONNECTIONS: usize = tokio::sync::Semaphore::MAX_PERMITS / PLACES_PER_CONNECTION;

/// Of those who wait in a queue, so many a connection; they may as well all be of one.
const PLACES_PER_CONNECTION: usize = 2;

impl Config {
    /// How many requests may wait in a queue; one more is refused at once.
    pub(crate) fn places_in_queue(&self) -> usize {
        self.max_connections * PLACES_PER_CONNECTION
    }

    /// Checks that the numbers can work together.
    ///
    /// # Errors
    /// The first that cannot be used.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        let (connections, in_flight, body) = (self.max_connections, self.max_in_flight_bytes, self.max_body_bytes);
        check(connections > 0, "max_connections", connections, "be at least 1")?;
        check(connections <= MAX_CONNECTIONS, "max_connections", connections, format!("be at most {MAX_CONNECTIONS}"))?;
        let streams = self.max_streams_per_connection;
        check(streams > 0, "max_streams_per_connection", streams, "be at least 1")?;
        check(self.body_timeout_ms > 0, "body_timeout_ms", self.body_timeout_ms, "be at least 1")?;
        let least = format!("be at least {} (8 KiB)", 2 * LEAST_BODY_BYTES);
        check(in_flight >= 2 * LEAST_BODY_BYTES, "max_in_flight_bytes", in_flight, least)?;
        let least = format!("be at least {LEAST_BODY_BYTES} (4 KiB)");
        check(body >= LEAST_BODY_BYTES, "max_body_bytes", body, least)?;
        let twice =
            format!("be at least twice max_body_bytes, {body}, or no large compressed request is ever admitted");
        check(in_flight / 2 >= body, "max_in_flight_bytes", in_flight, twice)?;
        Cors::new(&self.cors_allowed_origins).map(|_| ())
    }
}

fn check(holds: bool, key: &str, value: impl Display, must: impl Into<String>) -> Result<(), InvalidSetting> {
    if holds { Ok(()) } else { Err(InvalidSetting::new(key, value, must)) }
}
