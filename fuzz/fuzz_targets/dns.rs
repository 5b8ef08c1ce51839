//! Any bytes as an answer of a name server, as a string of a TXT record, and as the name of a service.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    switchboard_dns::fuzz::answer(data);
    switchboard_dns::fuzz::name(data);
});
