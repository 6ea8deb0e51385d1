//! Mutual TLS: files → [`material`] → a configuration of rustls, swapped in whole when files change.
//!
//! A swap reaches new handshakes only. Connections that are open stay as they are, so a rotation drops
//! nothing; sessions of the configuration before cannot be resumed, so roots that were taken out are obeyed
//! from the next handshake on.

mod client;
mod identity;
mod material;
mod peer;
mod server;
mod verify;
mod watch;

pub(crate) use client::ClientTls;
pub(crate) use material::root_store;
pub(crate) use peer::Peer;
pub(crate) use server::{Accepted, ServerTls};
pub(crate) use watch::{Watched, watch, write_expiry};
