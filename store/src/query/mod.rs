//! SQL: one read-only statement over one pinned view, bounded in text, depth, memory, time and rows.

mod bounded;
mod engine;
mod functions;
mod guard;
mod postgres;
mod provider;
mod rewrite;
mod small_steps;

pub use engine::SqlAnswer;
pub(crate) use engine::{Described, Engine};
