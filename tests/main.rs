//! Whole flows in process over loopback, pages in a real browser, and the structure itself.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test stops where it fails

mod analyze;
mod api;
mod cors;
mod crash;
mod critical_path;
mod demo;
mod disk_full;
mod docs;
mod grpc;
mod hostile;
mod logs_and_metrics;
mod otlp;
mod overload;
mod pages;
mod postgres;
mod prompt;
mod proxy;
mod queues;
mod readers;
mod restart;
mod rollups;
mod sdk;
mod search;
mod sql;
mod sql_examples;
mod streams;
mod support;
mod tidy;
