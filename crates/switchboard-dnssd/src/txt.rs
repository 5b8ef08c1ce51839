//! The TXT record of our own service type: an [`Instance`] as `key=value` strings, and back.
//!
//! | key | value |
//! |---|---|
//! | `service` | the service name |
//! | `id` | the instance id |
//! | `version` | the version, if there is one |
//! | `weight`, `warning-weight` | decimal; left out when 1, and when not set |
//! | `tags`, `tags.2`, … | tags, separated by commas |
//! | `endpoints`, `endpoints.2`, … | endpoint names, separated by commas |
//! | `addresses`, `addresses.2`, … | `host:port`, separated by commas; only when SRV and address records cannot say it |
//! | `m.<key>` | one metadata pair |
//!
//! In lists a comma is written `%2C` and a percent sign `%25`. A list that does not fit one string goes on under the
//! next number. Strings follow RFC 6763 §6: at most 255 bytes each, keys compared without case, the first of equal keys
//! counts.

use switchboard_core::{Address, Instance, InstanceBuilder, Invalid};

/// One string of a TXT record: a key, and the bytes after the `=`.
pub type Property = (String, Vec<u8>);

/// The same as it was heard: without an `=` there is no value.
pub type Heard<'a> = (&'a str, Option<&'a [u8]>);

/// The longest TXT string (RFC 6763 §6.1).
const MAX_STRING: usize = 255;

/// The longest TXT record that reaches a reader. It travels alone in one packet, and RFC 6762 §17 ends those at 9,000
/// bytes.
const MAX_RECORD: usize = 8_000;

/// The length above which a record no longer fits one Ethernet frame (RFC 6763 §6.2).
pub const ONE_FRAME: usize = 1_300;

const METADATA_PREFIX: &str = "m.";

/// The TXT record of `instance`, with its addresses spelled out if `spell_addresses`.
///
/// # Errors
///
/// `Invalid` with size and limit for what does not fit, and for metadata keys that differ only in case.
pub fn encode(instance: &Instance, spell_addresses: bool) -> Result<Vec<Property>, Invalid> {
    let mut record = Vec::new();
    let mut put = |key: &str, value: &str| record.push((key.to_owned(), value.as_bytes().to_vec()));
    put("service", instance.service().as_str());
    put("id", instance.id().as_str());
    if let Some(version) = instance.version() {
        put("version", version);
    }
    if instance.weight().get() != 1 {
        put("weight", &instance.weight().to_string());
    }
    if let Some(weight) = instance.warning_weight() {
        put("warning-weight", &weight.to_string());
    }
    record.extend(encode_list("tags", instance.tags().iter().map(String::as_str)));
    record
        .extend(encode_list("endpoints", instance.endpoints().iter().map(|endpoint| endpoint.name.as_str())));
    if spell_addresses {
        let addresses: Vec<String> = instance.addresses().iter().map(Address::to_string).collect();
        record.extend(encode_list("addresses", addresses.iter().map(String::as_str)));
    }
    record.extend(encode_metadata(instance, METADATA_PREFIX));
    check(&record)?;
    Ok(record)
}

/// The TXT record of an instance announced under a plain DNS-SD type: its metadata and nothing else.
///
/// # Errors
///
/// `Invalid` for an instance that has more, and as [`encode`] has it.
pub fn encode_plain(instance: &Instance) -> Result<Vec<Property>, Invalid> {
    let refuse = |what: &str| {
        let why =
            format!("cannot be announced as {}: a plain DNS-SD type has only metadata", instance.service());
        Err(Invalid::new(what, why))
    };
    if instance.version().is_some() {
        return refuse("a version");
    }
    if !instance.tags().is_empty() {
        return refuse("a tag");
    }
    if !instance.endpoints().is_empty() {
        return refuse("an endpoint");
    }
    if instance.weight().get() != 1 || instance.warning_weight().is_some() {
        return refuse("a weight");
    }
    let record: Vec<_> = encode_metadata(instance, "").collect();
    check(&record)?;
    Ok(record)
}

/// The bytes the record takes on the wire.
pub fn wire_len(record: &[Property]) -> usize {
    record.iter().map(|property| 1 + string_len(property)).sum()
}

fn encode_metadata<'a>(instance: &'a Instance, prefix: &'a str) -> impl Iterator<Item = Property> + 'a {
    instance.metadata().iter().map(move |(key, value)| (format!("{prefix}{key}"), value.as_bytes().to_vec()))
}

fn encode_list<'a>(key: &str, items: impl Iterator<Item = &'a str>) -> Vec<Property> {
    let mut strings: Vec<Property> = Vec::new();
    for item in items {
        let item = item.replace('%', "%25").replace(',', "%2C");
        match strings.last_mut() {
            Some((key, list)) if key.len() + 1 + list.len() + 1 + item.len() <= MAX_STRING => {
                list.push(b',');
                list.extend(item.bytes());
            }
            _ => {
                let number = strings.len() + 1;
                let key = if number == 1 { key.to_owned() } else { format!("{key}.{number}") };
                strings.push((key, item.into_bytes()));
            }
        }
    }
    strings
}

fn string_len((key, value): &Property) -> usize {
    key.len() + 1 + value.len()
}

fn check(record: &[Property]) -> Result<(), Invalid> {
    for property in record {
        let len = string_len(property);
        if len > MAX_STRING {
            let why = format!("takes {len} bytes as \"key=value\", the limit of DNS-SD is {MAX_STRING}");
            return Err(Invalid::quoting("TXT string", &property.0, why));
        }
    }
    let mut keys: Vec<String> = record.iter().map(|(key, _)| key.to_ascii_lowercase()).collect();
    keys.sort_unstable();
    if let Some([key, _]) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Invalid::quoting("TXT key", key, "is there twice; DNS-SD compares keys without case"));
    }
    let len = wire_len(record);
    if len > MAX_RECORD {
        return Err(Invalid::new("TXT record", format!("takes {len} bytes, the limit is {MAX_RECORD}")));
    }
    Ok(())
}

/// What a TXT record of our own type says: a builder with everything but the addresses, and the addresses it spells
/// out. `None` if it names no service. Takes any input; what makes no sense is left out.
pub fn decode(record: &[Heard<'_>], label: &str) -> Option<(InstanceBuilder, Vec<Address>)> {
    let text = |wanted: &str| {
        let (_, value) = record.iter().find(|(key, _)| key.eq_ignore_ascii_case(wanted))?;
        value.and_then(|value| std::str::from_utf8(value).ok())
    };
    // With an underscore it would be a DNS-SD type, whose instances are announced as what they are.
    let service = text("service").filter(|service| !service.starts_with('_'))?;
    let mut builder = Instance::builder(service).id(text("id").unwrap_or(label));
    if let Some(version) = text("version") {
        builder = builder.version(version);
    }
    if let Some(weight) = text("weight").and_then(|weight| weight.parse().ok()) {
        builder = builder.weight(weight);
    }
    if let Some(weight) = text("warning-weight").and_then(|weight| weight.parse().ok()) {
        builder = builder.warning_weight(weight);
    }
    for tag in decode_list("tags", text) {
        builder = builder.tag(tag);
    }
    for name in decode_list("endpoints", text) {
        builder = builder.endpoint(name.as_str());
    }
    let addresses = decode_list("addresses", text).filter_map(|address| address.parse().ok()).collect();
    for &(key, value) in record {
        let Some((prefix, key)) = key.split_at_checked(METADATA_PREFIX.len()) else { continue };
        if prefix.eq_ignore_ascii_case(METADATA_PREFIX) {
            builder = builder.metadata(key, String::from_utf8_lossy(value.unwrap_or_default()));
        }
    }
    Some((builder, addresses))
}

/// What a TXT record of a plain DNS-SD type says: metadata. Bytes that are no UTF-8 are replaced, and a key without `=`
/// reads as an empty value.
pub fn decode_plain(record: &[Heard<'_>], builder: InstanceBuilder) -> InstanceBuilder {
    record.iter().fold(builder, |builder, (key, value)| {
        builder.metadata(*key, String::from_utf8_lossy(value.unwrap_or_default()))
    })
}

fn decode_list<'a>(key: &str, text: impl Fn(&str) -> Option<&'a str>) -> impl Iterator<Item = String> {
    let numbered = (1..).map_while(|number| match number {
        1 => text(key),
        _ => text(&format!("{key}.{number}")),
    });
    let items = numbered.flat_map(|list| list.split(',')).filter(|item| !item.is_empty());
    let items: Vec<String> = items.map(|item| item.replace("%2C", ",").replace("%25", "%")).collect();
    items.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use switchboard_core::{Instance, InstanceBuilder};

    fn base() -> InstanceBuilder {
        Instance::builder("go.micro.srv.Greeter").id("Greeter-1").address("127.0.0.1:80")
    }

    fn through(instance: &Instance) -> Instance {
        let record = encode(instance, true).unwrap();
        let heard: Vec<Heard<'_>> =
            record.iter().map(|(key, value)| (key.as_str(), Some(value.as_slice()))).collect();
        let (builder, addresses) = decode(&heard, "label").unwrap();
        addresses.into_iter().fold(builder, InstanceBuilder::address).build_lossy().unwrap()
    }

    #[test]
    fn everything_survives_and_stays_readable() {
        let instance = base()
            .version("1.2.0")
            .weight(5)
            .warning_weight(0)
            .tag("a,b")
            .tag("50%")
            .tag("%2C")
            .metadata("empty", "")
            .metadata("sign", "a=b\nc")
            .metadata("utf8", "größe")
            .address("db.example:5432")
            .endpoint("Greeter.Hello")
            .build()
            .unwrap();
        assert_eq!(through(&instance), instance);
        let record = encode(&instance, false).unwrap();
        let shown: Vec<_> =
            record.iter().map(|(key, value)| format!("{key}={}", String::from_utf8_lossy(value))).collect();
        assert_eq!(
            shown,
            [
                "service=go.micro.srv.Greeter",
                "id=Greeter-1",
                "version=1.2.0",
                "weight=5",
                "warning-weight=0",
                "tags=%252C,50%25,a%2Cb",
                "endpoints=Greeter.Hello",
                "m.empty=",
                "m.sign=a=b\nc",
                "m.utf8=größe",
            ]
        );
    }

    #[test]
    fn long_lists_go_on_in_numbered_strings() {
        let names: Vec<String> = (0..100).map(|n| format!("Greeter.Method{n:03}")).collect();
        let instance =
            names.iter().fold(base(), |builder, name| builder.endpoint(name.as_str())).build().unwrap();
        assert_eq!(through(&instance), instance);
        assert!(encode(&instance, false).unwrap().iter().any(|(key, _)| key == "endpoints.2"));
    }

    #[test]
    fn refuses_what_does_not_fit_and_says_the_limit() {
        let message =
            |builder: InstanceBuilder| encode(&builder.build().unwrap(), false).unwrap_err().to_string();
        assert_eq!(
            message(base().metadata("k", "x".repeat(300))),
            "TXT string \"m.k\": takes 304 bytes as \"key=value\", the limit of DNS-SD is 255"
        );
        assert_eq!(
            message(base().metadata("Zone", "a").metadata("zone", "b")),
            "TXT key \"m.zone\": is there twice; DNS-SD compares keys without case"
        );
        let many = (0..50).fold(base(), |builder, n| builder.metadata(format!("k{n}"), "x".repeat(200)));
        assert_eq!(message(many), "TXT record: takes 10382 bytes, the limit is 8000");
    }

    #[test]
    fn a_plain_type_carries_metadata_only() {
        let refused = encode_plain(&base().tag("t").build().unwrap()).unwrap_err().to_string();
        assert!(refused.contains("a tag: cannot be announced as go.micro.srv.Greeter"), "{refused}");
        let plain = encode_plain(&base().metadata("path", "/x").build().unwrap()).unwrap();
        assert_eq!(plain, [("path".to_owned(), b"/x".to_vec())]);
    }

    proptest! {
        #[test]
        fn any_instance_that_encodes_survives(
            tags in vec("\\PC{1,20}", 0..6),
            metadata in vec(("[ -<>-~]{1,20}", ".{0,60}"), 0..10),
            weight in 1u16..,
        ) {
            let builder = tags.into_iter().fold(base().weight(weight), InstanceBuilder::tag);
            let builder = metadata.into_iter().fold(builder, |builder, (key, value)| builder.metadata(key, value));
            let instance = builder.build().unwrap();
            if encode(&instance, true).is_ok() {
                prop_assert_eq!(through(&instance), instance);
            }
        }

        #[test]
        fn decoding_never_panics(record in vec((any::<String>(), proptest::option::of(vec(any::<u8>(), 0..40))), 0..20)) {
            let heard: Vec<Heard<'_>> = record.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
            if let Some((builder, _)) = decode(&heard, "label") {
                let _ = builder.address("h:1").build_lossy();
            }
        }
    }
}
