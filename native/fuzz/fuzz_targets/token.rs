//! libFuzzer beside `budgateway_fuzz::token`, which states the invariant.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| budgateway_fuzz::token::check(data));
