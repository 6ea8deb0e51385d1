//! Queueing formulas. Every one names its assumptions and its source; `None` where there is no
//! steady state.

pub mod mm1;
pub mod mmc;
