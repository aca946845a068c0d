//! libFuzzer beside `budgateway_fuzz::json`, which states the invariant.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| budgateway_fuzz::json::check(data));
