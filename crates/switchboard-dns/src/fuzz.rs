//! The decoders, for the fuzz targets.

use hickory_resolver::proto::op::Message;
use hickory_resolver::proto::rr::{Name, RecordType};
use switchboard_core::ServiceName;

use crate::record::{Glue, Host, by_priority, of_addresses, of_srv, read};
use crate::{IpVersion, names, sd};

/// Reads `data` as an answer, for the name in its question or the root.
pub fn answer(data: &[u8]) {
    let Ok(message) = Message::from_vec(data) else { return };
    let name = message.queries.first().map_or_else(Name::root, |query| query.name().clone());
    let service = ServiceName::new("fuzz").expect("a name");
    let mut glue = Glue::default();
    glue.add(&message);
    for kind in [RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::PTR, RecordType::TXT] {
        let _ = read(&message, &name, kind);
    }
    for group in by_priority(&message.answers) {
        let host =
            |target: &Name| glue.host(target, IpVersion::Any).map_or(Host::Unknown, |(ips, _)| Host::At(ips));
        let listed = of_srv(&service, &group, host);
        assert!(listed.len() <= group.len());
    }
    let _ = of_addresses(&service, crate::record::addresses(&message.answers), 80);
}

/// Reads `data` as the name of a service, and as a string of a TXT record.
pub fn name(data: &[u8]) {
    let _ = sd::heard(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(service) = ServiceName::new(text) else { return };
    let domain = names::domain("example.com").expect("a domain");
    if let Ok(found) = names::candidates(&service, Some(&domain), &[], 1) {
        assert!(found.len() == 1 && found[0].len() <= 255);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_panics(bytes in any::<Vec<u8>>(), text in any::<String>()) {
            super::answer(&bytes);
            super::name(&bytes);
            super::name(text.as_bytes());
        }
    }
}
