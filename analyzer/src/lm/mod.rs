//! LM services: prefill and decode fitted apart, the batch, its slots, what they can do and what more load would do.
//!
//! ```text
//! spans ─▶ recent (a ring a service) ─▶ overlap ─▶ prefill, decode, slots ─▶ fit (replay) ─▶ LmEstimate ─▶ predict
//!                                └▶ arrivals (ca2 over time)
//! ```
//!
//! A server that batches continuously (G.-I. Yu et al., "Orca", OSDI 2022) makes one token of every running sequence a
//! step. From spans alone, that is from arrival, time to first token, duration and token counts, a line each is fitted
//! to the time of a prompt and to the time of a step; how the two share the machine is not seen in any single span, so
//! each way they can ([`server::Sharing`]) is replayed with the arrivals that were seen, and the one that gives the
//! times that were seen is taken. Predictions are replays too, with the arrivals closer together.
//!
//! Everything here is a pure function of the requests, apart from `recent::LmServices`, which keeps them.

mod arrivals;
mod decode;
mod engine;
mod fit;
mod overlap;
mod predict;
mod prefill;
mod recent;
mod regression;
mod replay;
mod requests;
mod search;
mod server;
mod slots;
#[cfg(test)]
mod tests;
mod view;

pub use arrivals::LmArrivals;
pub use engine::{Arrival, Served, serve};
pub use fit::{LmEstimate, LmUnidentifiable, estimate};
pub use predict::{LmPrediction, LmTimes, predict, predict_on};
pub use recent::LmRequest;
pub(crate) use recent::{LmServices, SavedLm};
pub use server::{Balance, LmServer, Sharing, Slots};
pub use view::{LmLine, LmObserved, LmView};
