//! Whole flows in process over loopback, pages in a real browser, and the structure itself.

mod crash;
mod otlp;
mod support;
mod tidy;
