//! The contract of what weir regulates, as plain values: which service may have how many requests
//! in flight, at what rate, and when a breaker sheds.
//!
//! The analyzer decides a [`PolicySet`], the collector streams it, the proxy obeys it. None of the
//! three shares anything but this crate; the gRPC form lives in [`wire`] behind the feature `wire`.

pub mod limit;
pub mod set;
#[cfg(feature = "wire")]
pub mod wire;

pub use limit::{Breaker, ConcurrencyLimit, RateLimit, TokenRateLimit};
pub use set::{InvalidPolicy, Policy, PolicySet};
