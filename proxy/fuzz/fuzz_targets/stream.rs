//! A model's answer as server-sent events.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weir_proxy::fuzz::stream(data));
