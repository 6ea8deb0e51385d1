//! weir as a library: the subcommands and what joins the crates, for `main.rs` and the tests.
//!
//! No domain logic lives here. [`server`] is the wiring: store, collector, analyzer, controller,
//! alerts and web, started in order and drained in the opposite one.

pub mod analyze;
pub mod backup;
pub mod ca;
pub mod cli;
pub mod config;
pub mod demo;
pub mod doctor;
pub mod exit;
pub mod import;
pub mod log;
pub mod output;
pub mod serve;
pub mod server;
pub mod sql;
pub mod trace;
pub mod whatif;

mod door;
mod memory;
mod scan;
mod target;
