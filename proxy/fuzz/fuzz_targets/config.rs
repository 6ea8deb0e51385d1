//! A file of the proxy's.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weir_proxy::fuzz::config(data));
