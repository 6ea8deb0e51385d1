//! The walk of a request: match → admit → pick → forward → observe.
//!
//! One [`Worker`] per data thread; what is shared between threads is in `Workload`.

mod address;
mod admission;
mod attempt;
mod body;
mod client_body;
mod clock;
mod deadline;
mod exchange;
mod forward;
mod headers;
mod mirror;
mod outcome;
mod pool;
mod ratelimit;
mod replay;
mod reply;
mod serve;
mod trace_context;

pub(crate) use headers::PEER;
pub(crate) use mirror::Mirror;
pub(crate) use outcome::Outcome;
pub(crate) use serve::{Worker, bind};
pub(crate) use trace_context::TraceContext;
