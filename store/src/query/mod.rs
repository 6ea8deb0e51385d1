//! SQL: one read-only statement over one pinned view, bounded in text, depth, memory, time and rows.

mod engine;
mod functions;
mod guard;
mod provider;
mod rewrite;

pub use engine::SqlAnswer;
pub(crate) use engine::Engine;
