//! What the collector can be told.

use serde::{Deserialize, Serialize};

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
    /// The key and what it must be.
    pub fn validate(&self) -> Result<(), String> {
        let positive = [
            ("max_connections", self.max_connections as u64),
            ("max_streams_per_connection", u64::from(self.max_streams_per_connection)),
            ("body_timeout_ms", self.body_timeout_ms),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{key}: must be at least 1"));
        }
        if self.max_connections > MAX_CONNECTIONS {
            return Err(format!("max_connections: must be at most {MAX_CONNECTIONS}"));
        }
        if self.max_in_flight_bytes < 2 * LEAST_BODY_BYTES {
            return Err(format!("max_in_flight_bytes: must be at least {} (8 KiB)", 2 * LEAST_BODY_BYTES));
        }
        if self.max_body_bytes < LEAST_BODY_BYTES {
            return Err(format!("max_body_bytes: must be at least {LEAST_BODY_BYTES} (4 KiB)"));
        }
        if self.max_in_flight_bytes < 2 * self.max_body_bytes {
            return Err("max_in_flight_bytes: must be at least twice max_body_bytes, or no large compressed request \
                        is ever admitted"
                .into());
        }
        Cors::new(&self.cors_allowed_origins).map_err(|why| format!("cors_allowed_origins: {why}"))?;
        Ok(())
    }
}
