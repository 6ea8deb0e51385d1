//! A policy set, as protobuf or JSON.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weir_proxy::fuzz::policy(data));
