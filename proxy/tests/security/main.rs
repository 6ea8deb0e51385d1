//! Security in whole flows: certificates from `weir-ca`, the proxy between a client and an application.

#![allow(clippy::unwrap_used)] // a test stops where it fails

mod mesh;
mod registry;
mod remote;
mod rotation;
mod rules;
mod sink;
mod tls;
mod together;
mod tokens;
