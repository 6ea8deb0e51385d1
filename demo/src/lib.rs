//! The language-model mesh of `weir demo`: six real HTTP servers in a chain, a sidecar beside each,
//! and what drives and watches them.
//!
//! gateway → tokenizer → tagger → parser → semantic → generator. Each has its own workers, does its
//! own work while it holds one, then calls the next through its outbound sidecar and passes the
//! answer back as it streams.

mod arrivals;
mod chain;
mod load;
mod mesh;
mod receiver;
mod service;

pub use arrivals::{Arrivals, BadArrivals};
pub use chain::{CHAIN, Pace, Spec};
pub use load::{Load, Tally};
pub use mesh::{Mesh, MeshError};
pub use receiver::Receiver;
