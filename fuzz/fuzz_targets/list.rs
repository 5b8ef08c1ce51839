//! Any bytes as a list of instances: in TOML, in JSON, in a URL.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchboard_static::fuzz::list(data));
