//! The walk of a request: match → admit → pick → forward → observe.
//!
//! One [`Worker`] per data thread; what is shared between threads is in `Workload`.

mod admission;
mod balance;
mod body;
mod deadline;
mod exchange;
mod forward;
mod headers;
mod pool;
mod ratelimit;
mod read_along;
mod serve;
mod trace_context;

pub(crate) use balance::PeakEwma;
pub(crate) use serve::{Worker, bind};
pub(crate) use trace_context::TraceContext;
