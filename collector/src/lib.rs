//! The one door proxies and SDKs talk to: OTLP in by gRPC and HTTP, policy out.
//!
//! A request reserves its part of the bound on bytes in flight before it is read, or waits in a queue for it unread, and again for what it
//! grows by; it is inflated within its
//! limit, decoded to a `Batch`, and handed to [`Ingest`]; the ack goes out when that returns. What is
//! behind `Ingest` is not this crate's business.

mod admission;
mod body;
mod collector;
mod config;
mod cors;
mod doors;
mod ending;
mod grpc;
mod http;
mod inflate;
mod ingest;
mod patience;
mod policy_stream;
mod proxies;
mod queue;
mod reservation;
mod stats;

pub use collector::Collector;
pub use config::Config;
pub use ingest::{Ingest, Received, Refused, Stored};
pub use proxies::{Proxies, ProxyState};
pub use stats::Stats;
