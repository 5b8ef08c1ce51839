//! Any text as each of the things that are parsed from text.
#![no_main]

use switchboard_core::{Address, InstanceId, RegistryUrl, ServiceName};

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(name) = ServiceName::new(text) {
        assert_eq!(name.as_str(), text);
        assert!(InstanceId::random(&name).as_str().len() <= 63);
        switchboard_mdns::fuzz::service_type(&name);
    }
    if let Ok(address) = text.parse::<Address>() {
        assert_eq!(address.to_string().parse::<Address>().as_ref(), Ok(&address));
    }
    if let Ok(url) = text.parse::<RegistryUrl>() {
        let mut params = url.params("fuzz");
        let _ = params.take_duration("wait");
        let _ = params.take_switch("flag");
        let _ = params.finish();
    }
});
