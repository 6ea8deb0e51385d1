//! The walk of a request: match → admit → pick → forward → observe.
//!
//! One [`Worker`] per data thread; what is shared between threads is in `Workload`.

mod balance;
mod body;
mod client;
mod exchange;
mod forward;
mod headers;
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
pub(crate) use serve::{Worker, bind};
pub(crate) use trace_context::TraceContext;
pub(crate) use via::Via;
