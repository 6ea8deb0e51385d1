//! SQL: one read-only statement over one pinned view, bounded in text, depth, memory, time and rows.

mod bounded;
mod checked_sum;
mod engine;
mod footers;
mod functions;
mod guard;
mod hot_keys;
mod inspection;
mod late;
mod meaning;
mod newest_first;
mod null_columns;
mod postgres;
mod provider;
mod prune;
mod reader;
mod rewrite;
mod small_steps;
#[cfg(test)]
mod tests;
mod text_views;
mod time_functions;
mod typed_maps;

pub use engine::SqlAnswer;
pub(crate) use engine::{Described, Engine};
pub use functions::{FunctionDoc, functions};
pub(crate) use meaning::nanos_of_text;
