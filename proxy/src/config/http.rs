//! [`Http`]: what one client may cost, so that no client can cost the others their service.

use serde::{Deserialize, Serialize};

use crate::config::ConfigError;

/// hyper reads into a buffer that is never smaller.
const HEADER_BYTES_MIN: usize = 8 * 1024;

/// Bounds on connections, requests and streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// 60 KiB for a request's head, as Envoy has it: cookies and tokens grow, but nothing honest is longer; more is a 431.
    /// As much for that of an upstream's answer over HTTP/2.
    pub max_header_bytes: usize,
    /// 100 fields in a head; more is a 431. Up to 100 they are read without an allocation.
    pub max_headers: usize,
    /// The longest body of a request, else a 413. Unbounded when absent: bodies pass and are never gathered.
    pub max_body_bytes: Option<u64>,
    /// 100 bytes a second, after a grace of `timeouts.header_read_ms`, below which a body of announced length is cut with
    /// a 408: a modem has sixty times that. Bodies without a length are streams, which may think; 0 asks for no rate.
    pub min_body_bytes_per_s: u64,
    /// 100 requests at once on one HTTP/2 connection: what RFC 9113 advises as the least.
    pub max_streams: u32,
    /// 20 streams reset by the client before the proxy came to look at them; more ends the connection (rapid reset).
    pub max_pending_resets: usize,
    /// 2,000 HTTP/2 frames a second that cost the receiver more than the sender (resets, PING, SETTINGS, PRIORITY,
    /// CONTINUATION, empty DATA), with a burst of five seconds' worth; more ends the connection.
    pub max_control_frames_per_s: u32,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            max_header_bytes: 60 * 1024,
            max_headers: 100,
            max_body_bytes: None,
            min_body_bytes_per_s: 100,
            max_streams: 100,
            max_pending_resets: 20,
            max_control_frames_per_s: 2_000,
        }
    }
}

impl Http {
    /// Refuses bounds that nothing could pass.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let least = [
            ("max_header_bytes", self.max_header_bytes, HEADER_BYTES_MIN),
            ("max_headers", self.max_headers, 1),
            ("max_streams", self.max_streams as usize, 1),
            ("max_control_frames_per_s", self.max_control_frames_per_s as usize, 1),
        ];
        match least.iter().find(|(_, value, least)| value < least) {
            Some((key, value, least)) => Err(ConfigError(format!("http.{key} is {value}: at least {least}"))),
            None => Ok(()),
        }
    }
}
