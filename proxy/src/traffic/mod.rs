//! The walk of a request: match → admit → pick → forward → observe.
//!
//! One [`DataThread`] per data thread, with one `Worker` per configuration; what is shared between threads is
//! in `Workload`.

mod balance;
mod body;
mod client;
mod data_thread;
mod exchange;
mod forward;
mod headers;
mod listener;
mod lm;
mod pool;
mod request_body;
mod serve;
mod trace_context;
mod tunnel;
mod upgrade;
mod vet;
mod via;

pub(crate) use balance::PeakEwma;
pub(crate) use data_thread::{DataThread, Order};
pub(crate) use trace_context::TraceContext;
pub(crate) use via::Via;
