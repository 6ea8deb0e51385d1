//! SQL: one read-only statement over one pinned view, bounded in text, depth, memory, time and rows.

mod bounded;
mod catalogue;
mod checked_sum;
mod complexity;
mod dialect;
mod engine;
mod expansion;
mod footers;
mod functions;
mod give_way;
mod given;
mod guard;
mod hot_keys;
mod information_schema;
mod inspection;
mod kept;
mod late;
mod meaning;
mod newest_first;
mod null_columns;
mod postgres;
mod probe;
mod provider;
mod prune;
mod psql;
mod reader;
mod rewrite;
mod rows;
mod scratch;
mod small_steps;
mod statement;
#[cfg(test)]
mod tests;
mod text_views;
mod time_functions;
mod turns;
mod typed_maps;
mod watch;

pub(crate) use engine::{Engine, EngineParts};
pub use functions::{FunctionDoc, functions};
pub(crate) use meaning::nanos_of_text;
pub use rows::SqlAnswer;
pub(crate) use statement::Described;
pub(crate) use turns::Asker;
