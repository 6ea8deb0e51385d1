//! [`CHAIN`]: the services of the demo and how they are sized.
//!
//! At 80 requests/s every service is well below its capacity (ρ ≤ 0.4); tagger made four times slower
//! has ρ = 80 · 0.08 / 4 = 1.6 and cannot keep up.

use std::time::Duration;

/// One service.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Its name.
    pub service: &'static str,
    /// c: requests it works on at once.
    pub servers: u32,
    /// S: mean time of its own work; the generator's is until its first token, per request.
    pub service_time: Duration,
}

/// In the order a request meets them.
pub const CHAIN: [Spec; 6] = [
    Spec { service: "gateway", servers: 16, service_time: Duration::from_millis(4) },
    Spec { service: "tokenizer", servers: 4, service_time: Duration::from_millis(8) },
    Spec { service: "tagger", servers: 4, service_time: Duration::from_millis(20) },
    Spec { service: "parser", servers: 8, service_time: Duration::from_millis(30) },
    Spec { service: "semantic", servers: 8, service_time: Duration::from_millis(25) },
    Spec { service: "generator", servers: 32, service_time: Duration::from_millis(15) },
];

/// Time per output token of the generator.
pub(crate) const TIME_PER_OUTPUT_TOKEN: Duration = Duration::from_millis(3);

/// Time the generator needs for each token of context before its first token.
pub(crate) const PREFILL_PER_TOKEN: Duration = Duration::from_micros(20);

/// Tokens the generator sends in one event, as model servers do that coalesce.
pub(crate) const TOKENS_PER_EVENT: u32 = 4;
