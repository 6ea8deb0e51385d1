//! Queueing formulas. Every one names its assumptions and its source; `None` where there is no
//! steady state.
//!
//! Times in and out have one unit, whichever the caller takes; rates are per that unit.

pub mod ggc;
pub mod mg1;
pub mod mm1;
pub mod mmc;
pub mod mmck;
pub mod mva;
pub mod ps;
#[cfg(test)]
pub(crate) mod simulation;
#[cfg(test)]
mod simulation_tests;
pub mod usl;
