//! The contract of what weir regulates, as plain values: which service may have how many requests
//! in flight, at what rate, when a breaker sheds, and by what identity a workload is known.
//!
//! The analyzer decides a [`PolicySet`], the collector streams each replica its [`ReplicaShare`] of it, the proxy obeys it.
//! None of the three shares anything but this crate; the gRPC form lives in [`wire`] behind the feature `wire`.

pub mod identity;
pub mod limit;
pub mod replica_share;
pub mod set;
#[cfg(feature = "wire")]
pub mod wire;

pub use identity::{SpiffeId, SpiffeIdError};
pub use limit::{Breaker, ConcurrencyLimit, RateLimit, TokenRateLimit};
pub use replica_share::ReplicaShare;
pub use set::{InvalidPolicy, Policy, PolicySet};
