//! The walk of a request: match → authorize → admit → pick → forward → observe.
//!
//! One [`DataThread`] per core has the listeners; `client` serves a connection, `forward` a request of it;
//! what is shared between threads is in `Workload`.

mod address;
mod admission;
mod answers;
mod attempt;
mod body;
mod caller;
mod client;
mod client_body;
mod clock;
mod data_thread;
mod deadline;
mod exchange;
mod forward;
mod forwarded;
mod grpc;
mod handshake;
mod headers;
mod lifetime;
mod listener;
mod mirror;
mod open;
mod outcome;
mod pool;
mod ratelimit;
mod read_along;
mod replay;
mod reply;
mod sampler;
mod serve;
mod timers;
mod trace_context;
mod tunnel;
mod undone;
mod upgrade;
mod upload;
mod vet;
mod via;

pub(crate) use caller::{Believed, caller_of};
pub(crate) use data_thread::{DataThread, Order};
pub(crate) use grpc::{http_status, is_expected as expects_grpc, name as grpc_name};
pub(crate) use headers::PEER;
pub(crate) use mirror::Mirror;
pub(crate) use outcome::Outcome;
pub(crate) use sampler::Sampler;
pub(crate) use trace_context::TraceContext;
pub(crate) use via::Via;
