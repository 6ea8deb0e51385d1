//! What the collector can be told.

use serde::{Deserialize, Serialize};

/// The collector's configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Largest request, inflated, in bytes. 4 MiB: the limit OpenTelemetry's exporters expect.
    pub max_body_bytes: usize,
    /// Bytes of all requests between arrival and ack; the next one is told to come back.
    pub max_in_flight_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_body_bytes: 4 << 20, max_in_flight_bytes: 256 << 20 }
    }
}

impl Config {
    /// Checks that the numbers can work together.
    ///
    /// # Errors
    /// The key and what it must be.
    pub fn validate(&self) -> Result<(), String> {
        if self.max_body_bytes == 0 {
            return Err("max_body_bytes: must be at least 1".into());
        }
        if self.max_in_flight_bytes < self.max_body_bytes {
            return Err(
                "max_in_flight_bytes: must be at least max_body_bytes, or no large request is ever admitted".into()
            );
        }
        Ok(())
    }
}
