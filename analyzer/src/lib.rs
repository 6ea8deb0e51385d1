//! From spans to queues, causes and limits: pure functions over batches in event time.
//!
//! ```text
//! push(spans) ─▶ names, held (dedupe, pairs, trees) ─▶ rollup ─▶ rows of operations, edges
//!                ├▶ window ─▶ departures, queueing ─▶ graph ─▶ findings ─▶ control ─▶ policy
//!                └▶ traces ─▶ facts, causes ──────────────────┘
//! push_beside(logs, metrics) ───▲
//! step(now)  closes windows and says what changed
//! ```
//!
//! Time is an argument, so an incident of years ago replays as it was, and the answer does not
//! depend on the order of arrival within the stated lateness.

// files of compare/ that tests share with the examples name the crate as those do
#[cfg(test)]
extern crate self as weir_analyzer;

pub mod alert;
mod analyzer;
mod calls;
pub mod causes;
pub mod checkpoint;
mod closed;
pub mod config;
pub mod control;
pub mod critical_path;
pub mod departures;
mod entry;
mod estimate;
mod findings;
mod findings_rows;
pub mod flame;
pub mod graph;
mod held;
mod literal;
pub mod lm;
pub mod model;
mod moments;
mod names;
pub mod queueing;
mod reach;
pub mod report;
pub mod retiming;
mod robust;
mod rollup;
pub mod servers;
pub mod sketch;
pub mod snapshot;
mod spans;
mod stations;
mod trend;
mod view;
mod weights;
pub mod whatif;
mod window;
mod windows;

pub use alert::{Alert, AlertState, Severity};
pub use analyzer::{Analyzer, Step};
pub use checkpoint::Foreign;
pub use config::{Config, ControlConfig};
pub use control::Command;
pub use snapshot::Snapshot;
pub use spans::SPAN_COLUMNS;
