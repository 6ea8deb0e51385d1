//! A model's answer and a request, as JSON.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weir_proxy::fuzz::json(data));
