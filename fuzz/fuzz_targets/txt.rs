//! Any bytes as the TXT record of one of our services, or of a plain DNS-SD type.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchboard_mdns::fuzz::txt(data));
