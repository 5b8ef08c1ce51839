//! The decoders, for the fuzz targets.

use mdns_sd::TxtProperties;
use switchboard_core::{Instance, ServiceName};

use crate::record::{ServiceType, domain};
use switchboard_dnssd::txt::{self, Heard};

/// Decodes `data` as a TXT record, and checks that what comes out can be announced again and reads the same.
pub fn txt(data: &[u8]) {
    let properties = TxtProperties::from(data);
    let record: Vec<Heard<'_>> = properties.iter().map(|property| (property.key(), property.val())).collect();
    let plain = Instance::builder("_http._tcp").id("fuzz").address("127.0.0.1:1");
    let _ = txt::decode_plain(&record, plain).build_lossy();

    let Some((builder, _)) = txt::decode(&record, "fuzz") else { return };
    let Ok(instance) = builder.address("127.0.0.1:1").build_lossy() else { return };
    let Ok(encoded) = txt::encode(&instance, false) else { return };
    let record: Vec<Heard<'_>> =
        encoded.iter().map(|(key, value)| (key.as_str(), Some(value.as_slice()))).collect();
    let (builder, _) = txt::decode(&record, "other").expect("it names its service");
    assert_eq!(builder.address("127.0.0.1:1").build_lossy().as_ref(), Ok(&instance));
}

/// Parses `name` as a DNS-SD type.
pub fn service_type(name: &ServiceName) {
    if let Ok(kind) = ServiceType::of(name) {
        assert!(domain(&kind).ends_with(".local."));
    }
}
