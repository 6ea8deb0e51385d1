//! What people and their tools talk to: the pages, the HTTP API and the webhooks.
//!
//! Handlers read an `Arc<Snapshot>` from a `watch` and ask the store by SQL; they share no lock
//! with ingestion. Every answer carries a strict content security policy.

mod api;
mod config;
mod critical_path;
mod deps;
mod error;
mod fields;
mod logs;
mod minutes;
mod names;
mod pages;
mod past;
mod red;
mod rows;
mod search;
mod security;
mod serve;
mod sql_answer;
mod trace;
pub mod webhook;
mod whatif;

pub use config::{Config, Webhook};
pub use deps::{Deps, Endpoints, ProxyView};
pub use serve::serve;
pub use trace::Trace;
