//! From spans to queues, causes and limits: pure functions over batches in event time.
//!
//! ```text
//! push(spans) ─▶ held (dedupe, pairs) ─▶ rollup ─▶ rows of operations, edges
//!                └▶ window ─▶ departures, queueing ─▶ graph ─▶ bottleneck ─▶ control ─▶ policy
//! step(now)  closes windows and says what changed
//! ```
//!
//! Time is an argument, so an incident of years ago replays as it was, and the answer does not
//! depend on the order of arrival within the stated lateness.

pub mod alert;
mod analyzer;
pub mod bottleneck;
pub mod causes;
mod closed;
pub mod config;
pub mod control;
pub mod critical_path;
pub mod departures;
mod estimate;
mod findings_rows;
pub mod graph;
mod held;
pub mod model;
mod moments;
pub mod queueing;
pub mod report;
pub mod retiming;
mod rollup;
pub mod servers;
pub mod sketch;
pub mod snapshot;
mod spans;
mod stations;
mod trend;
mod view;
pub mod whatif;
mod window;

pub use alert::{Alert, AlertState, Severity};
pub use analyzer::{Analyzer, Step};
pub use config::{Config, ControlConfig};
pub use control::Command;
pub use snapshot::Snapshot;
pub use spans::SPAN_COLUMNS;
