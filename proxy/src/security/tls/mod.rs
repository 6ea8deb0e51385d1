//! Mutual TLS: files → [`material`] → a configuration of rustls, swapped in whole when files change.
//!
//! A swap reaches new handshakes only, and connections that are open stay as they are, so a rotation drops
//! nothing; sessions of the configuration before cannot be resumed. Where a root was taken out, an [`era`] ends: whoever
//! was let in before is told to go, after the requests under way, and [`trusted`] connections break.

mod client;
mod era;
mod identity;
mod material;
mod peer;
mod server;
mod trusted;
mod verify;
mod watch;

pub(crate) use client::ClientTls;
pub(crate) use material::{root_store, system_roots};
pub(crate) use peer::Peer;
pub(crate) use server::{Accepted, ServerTls};
pub(crate) use trusted::Trusted;
pub(crate) use watch::{Watched, watch};
