//! Whole flows in process over loopback, pages in a real browser, and the structure itself.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test stops where it fails

mod api;
mod crash;
mod demo;
mod disk_full;
mod docs;
mod grpc;
mod hostile;
mod otlp;
mod pages;
mod postgres;
mod proxy;
mod readers;
mod sdk;
mod sql;
mod support;
mod tidy;
