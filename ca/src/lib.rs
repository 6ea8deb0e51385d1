//! A small certificate authority for a mesh that has none: a root of its own, and short-lived
//! certificates for workloads, each naming one SPIFFE id.
//!
//! [`Authority`] creates or opens a root in a folder and issues; [`inspect()`] says what is in a
//! certificate. Keys are ECDSA P-256 in PKCS#8, readable by their owner only; every file appears whole or
//! not at all ([`files`]), and a renewal replaces key, certificate and root in one step (`together`). Nothing here revokes: a certificate lives a day and is renewed by half of it,
//! so what leaks ends soon. The clock is an argument.

pub mod files;

mod authority;
mod error;
mod inspect;
mod together;
mod workload;

pub use authority::{Authority, RootRequest};
pub use error::Error;
pub use inspect::{Description, inspect};
pub use workload::{CERTIFICATE, Issued, KEY, TRUST, WorkloadRequest, renew_at};
