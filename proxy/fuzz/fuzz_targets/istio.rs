//! Files of Istio's.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weir_proxy::fuzz::istio(data));
