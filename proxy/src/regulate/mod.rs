//! What holds a request back: pure state and a moment in time in, a decision out.

mod breaker;
mod gate;
mod limiter;
mod rate;

pub(crate) use breaker::Circuit;
pub(crate) use gate::{Admission, Gate, Refusal};
pub(crate) use limiter::Permit;
