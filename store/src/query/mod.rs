//! SQL: one read-only statement over one pinned view, bounded in text, depth, memory, time and rows.

mod engine;
mod functions;
mod guard;
mod provider;
mod rewrite;

pub(crate) use engine::Engine;
pub use engine::SqlAnswer;
