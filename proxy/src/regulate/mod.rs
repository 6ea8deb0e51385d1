//! What holds a request back: pure state and a moment in time in, a decision out.

mod ages;
mod base;
mod breaker;
mod chance;
mod gate;
mod latencies;
mod limiter;
mod line;
mod local;
mod priority;
mod rate;
mod tokens;
mod wait;

pub(crate) use ages::Age;
pub(crate) use breaker::Circuit;
pub(crate) use gate::{Admission, Gate, Refusal};
pub(crate) use latencies::Latencies;
pub(crate) use limiter::{Ask, Permit};
pub(crate) use local::{Load, LocalLimiter, STEP};
pub use priority::Priority;
pub(crate) use rate::RateLimiter;
pub(crate) use tokens::{Budget, Reservation, TokenEstimate};
