//! The one door proxies and SDKs talk to: OTLP in by gRPC and HTTP, policy out.
//!
//! A request is inflated within its limit, decoded to a `Batch`, and handed to [`Ingest`]; the ack
//! goes out when that returns. What is behind `Ingest` is not this crate's business.

mod admission;
mod collector;
mod config;
mod grpc;
mod http;
mod inflate;
mod ingest;
mod policy_stream;
mod proxies;
mod stats;

pub use collector::Collector;
pub use config::Config;
pub use ingest::{Ingest, Received, Refused, Stored};
pub use proxies::{Proxies, ProxyState};
pub use stats::Stats;
