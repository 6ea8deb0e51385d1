//! How the proxy behaves on the wire, byte by byte: clients and upstreams are written out here over raw
//! sockets, so that what passes is exactly what a test says. The topics follow the behaviours that mesh
//! proxies are tested for; each file is one.

#![allow(clippy::unwrap_used, reason = "tests")]

mod bodies;
mod bounds;
mod connections;
mod floods;
mod frames;
mod grpc;
mod http10;
mod http2;
mod interim;
mod lame_duck;
mod peer;
mod pressure;
mod stalls;
mod targets;
mod tcp;
mod upgrades;
