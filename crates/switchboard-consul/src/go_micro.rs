//! go-micro's encoding of version, metadata and endpoints in Consul tags.
//!
//! `v-`, `t-` and `e-` followed by hex(zlib(…)) of the version, of one metadata pair as JSON, of one endpoint as JSON.
//! The old forms `v=`, `t=` and `e=` hold the same in plain text. Tags of other programs that happen to begin alike
//! (`traefik.enable=true`, `v-next`) do not decode and stay tags.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use serde::{Deserialize, Serialize};
use switchboard_core::{Endpoint, Instance, Invalid, Value};

/// How far one tag may inflate; go-micro's largest endpoints are a few kilobytes.
const MAX_INFLATED: u64 = 64 * 1024;
/// How far all the tags of one instance may inflate.
const MAX_INFLATED_TOTAL: usize = 1024 * 1024;

/// What one instance's tags hold in go-micro's encoding.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Decoded {
    pub(crate) version: Option<String>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) endpoints: Vec<Endpoint>,
    /// Whether there was any such tag.
    pub(crate) found: bool,
    inflated: usize,
}

impl Decoded {
    /// Takes `tag` if it is go-micro's; whether it was.
    pub(crate) fn take(&mut self, tag: &str) -> bool {
        let bytes = tag.as_bytes();
        if bytes.len() < 2 || self.inflated >= MAX_INFLATED_TOTAL {
            return false;
        }
        let text = match (bytes[0], bytes[1]) {
            (b'v' | b't' | b'e', b'=') => tag[2..].to_owned(),
            (b'v' | b't' | b'e', b'-') => match inflate(&bytes[2..]) {
                Some(text) => text,
                None => return false,
            },
            _ => return false,
        };
        self.inflated += text.len();
        let taken = match bytes[0] {
            b'v' => {
                self.version = Some(text);
                true
            }
            b't' => match serde_json::from_str::<BTreeMap<String, String>>(&text) {
                Ok(pairs) => {
                    self.metadata.extend(pairs);
                    true
                }
                Err(_) => false,
            },
            _ => match serde_json::from_str::<WireEndpoint>(&text) {
                Ok(endpoint) => {
                    self.endpoints.push(endpoint.into());
                    true
                }
                Err(_) => false,
            },
        };
        self.found |= taken;
        taken
    }
}

/// Whether a reader could take `tag` for go-micro's.
pub(crate) fn looks_encoded(tag: &str) -> bool {
    matches!(tag.as_bytes(), [b'v' | b't' | b'e', b'-' | b'=', ..])
}

/// The tags of `instance` as a go-micro program would write them: its encoding first, then the plain tags.
///
/// First, because go-micro's reader loses the metadata that comes after a foreign tag beginning with `t`.
pub(crate) fn tags(instance: &Instance) -> Result<Vec<String>, Invalid> {
    let metadata = instance.metadata().iter().map(|pair| ('t', json(&BTreeMap::from([pair]))));
    let endpoints = instance.endpoints().iter().map(|endpoint| ('e', json(&WireEndpoint::from(endpoint))));
    // Also when there is none: go-micro always writes it, and it marks the encoding.
    let version = ('v', instance.version().unwrap_or_default().to_owned());
    let (mut tags, mut total) = (Vec::new(), 0);
    for (prefix, text) in metadata.chain(endpoints).chain([version]) {
        total += text.len();
        if text.len() as u64 > MAX_INFLATED || total >= MAX_INFLATED_TOTAL {
            let what = format!("metadata and endpoints of {:?}", instance.id());
            let why = format!(
                "are too long for go-micro's tags; the limit is {MAX_INFLATED} bytes of JSON each, \
                 {MAX_INFLATED_TOTAL} in all"
            );
            return Err(Invalid::new(what, why));
        }
        tags.push(encode(prefix, &text));
    }
    for tag in instance.tags() {
        if matches!(tag.as_str(), "v" | "t" | "e") {
            return Err(Invalid::quoting("tag", tag, "crashes go-micro's readers; write a longer one"));
        }
        if Decoded::default().take(tag) {
            return Err(Invalid::quoting("tag", tag, "would be read as part of go-micro's encoding"));
        }
        tags.push(tag.clone());
    }
    Ok(tags)
}

fn json(value: &impl Serialize) -> String {
    // Maps with text keys and plain structs always serialize.
    serde_json::to_string(value).unwrap_or_default()
}

fn encode(prefix: char, text: &str) -> String {
    let mut deflate = ZlibEncoder::new(Vec::new(), Compression::default());
    // Writing into a Vec does not fail.
    let _ = deflate.write_all(text.as_bytes());
    let bytes = deflate.finish().unwrap_or_default();
    let mut tag = format!("{prefix}-");
    for byte in bytes {
        tag.push(char::from(b"0123456789abcdef"[usize::from(byte >> 4)]));
        tag.push(char::from(b"0123456789abcdef"[usize::from(byte & 15)]));
    }
    tag
}

fn inflate(hex: &[u8]) -> Option<String> {
    if hex.is_empty() || hex.len() % 2 != 0 {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let bytes: Vec<u8> = hex
        .chunks_exact(2)
        .map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?))
        .collect::<Option<_>>()?;
    let mut text = String::new();
    let mut limited = ZlibDecoder::new(bytes.as_slice()).take(MAX_INFLATED + 1);
    limited.read_to_string(&mut text).ok()?;
    (text.len() as u64 <= MAX_INFLATED).then_some(text)
}

/// An endpoint in the field order of go-micro's struct, with its `null`s.
#[derive(Serialize, Deserialize)]
struct WireEndpoint {
    #[serde(default)]
    request: Option<WireValue>,
    #[serde(default)]
    response: Option<WireValue>,
    #[serde(default)]
    metadata: Option<BTreeMap<String, String>>,
    #[serde(default)]
    name: String,
}

#[derive(Serialize, Deserialize)]
struct WireValue {
    #[serde(default)]
    name: String,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    values: Option<Vec<WireValue>>,
}

impl From<&Endpoint> for WireEndpoint {
    fn from(endpoint: &Endpoint) -> Self {
        Self {
            request: endpoint.request.as_ref().map(Into::into),
            response: endpoint.response.as_ref().map(Into::into),
            metadata: (!endpoint.metadata.is_empty()).then(|| endpoint.metadata.clone()),
            name: endpoint.name.clone(),
        }
    }
}

impl From<WireEndpoint> for Endpoint {
    fn from(wire: WireEndpoint) -> Self {
        let mut endpoint = Endpoint::new(wire.name);
        endpoint.metadata = wire.metadata.unwrap_or_default();
        endpoint.request = wire.request.map(Into::into);
        endpoint.response = wire.response.map(Into::into);
        endpoint
    }
}

impl From<&Value> for WireValue {
    fn from(value: &Value) -> Self {
        let values = (!value.values.is_empty()).then(|| value.values.iter().map(Into::into).collect());
        Self { name: value.name.clone(), kind: value.kind.clone(), values }
    }
}

impl From<WireValue> for Value {
    fn from(wire: WireValue) -> Self {
        let values = wire.values.unwrap_or_default();
        Value::new(wire.name, wire.kind).with_values(values.into_iter().map(Into::into))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode<'a>(tags: impl IntoIterator<Item = &'a str>) -> (Decoded, Vec<String>) {
        let mut decoded = Decoded::default();
        let left = tags.into_iter().filter(|tag| !decoded.take(tag)).map(str::to_owned).collect();
        (decoded, left)
    }

    #[test]
    fn what_is_written_reads_back() {
        let request = Value::new("Request", "Request").with_values([Value::new("name", "string")]);
        let endpoint = Endpoint::new("Greeter.Hello").with_metadata("stream", "true").with_request(request);
        let instance = Instance::builder("a")
            .address("h:1")
            .version("1.2")
            .metadata("a.b", "c=d")
            .endpoint(endpoint)
            .tag("plain")
            .build()
            .unwrap();
        let tags = tags(&instance).unwrap();
        assert_eq!(tags.last().unwrap(), "plain");
        let (decoded, left) = decode(tags.iter().map(String::as_str));
        assert_eq!(left, ["plain"]);
        assert_eq!(decoded.version.as_deref(), Some("1.2"));
        assert_eq!(&decoded.metadata, instance.metadata());
        assert_eq!(decoded.endpoints, instance.endpoints());
    }

    #[test]
    fn an_endpoint_is_written_in_go_micros_order_with_its_nulls() {
        let endpoint = Endpoint::new("A.B").with_request(Value::new("Req", "T"));
        assert_eq!(
            json(&WireEndpoint::from(&endpoint)),
            r#"{"request":{"name":"Req","type":"T","values":null},"response":null,"metadata":null,"name":"A.B"}"#
        );
    }

    #[test]
    fn reads_the_old_plain_forms() {
        let (decoded, left) = decode(["v=1.0", r#"t={"k":"v"}"#, r#"e={"name":"A.B","request":null}"#]);
        assert!(left.is_empty());
        assert_eq!(decoded.version.as_deref(), Some("1.0"));
        assert_eq!(decoded.metadata["k"], "v");
        assert_eq!(decoded.endpoints, [Endpoint::new("A.B")]);
    }

    #[test]
    fn foreign_and_hostile_tags_stay_tags_and_hide_nothing() {
        // A foreign tag that begins with `t`, before go-micro's.
        let real = encode('t', r#"{"k":"v"}"#);
        let foreign = ["traefik.enable=true", "t", "v", "", "v-next", "t-zz", "e-00", "e=mc2", "t-é"];
        let (decoded, left) = decode(foreign.into_iter().chain([real.as_str()]));
        assert_eq!(left, foreign);
        assert_eq!(decoded.metadata["k"], "v");
    }

    #[test]
    fn a_bomb_is_bounded() {
        let bomb = encode('v', &"x".repeat(1 << 20));
        assert!(bomb.len() < 5000);
        assert_eq!(decode([bomb.as_str()]).1.len(), 1);
        // Many tags, each within its limit.
        let large = encode('v', &"x".repeat(60_000));
        let (_, left) = decode(std::iter::repeat_n(large.as_str(), 1000));
        assert!(left.len() > 980, "{} left", left.len());
    }

    #[test]
    fn refuses_tags_that_would_not_read_back() {
        let refused = |tag: &str| {
            let instance = Instance::builder("a").address("h:1").tag(tag).build().unwrap();
            tags(&instance).unwrap_err().why().to_owned()
        };
        assert_eq!(refused("t"), "crashes go-micro's readers; write a longer one");
        assert_eq!(refused("v=1"), "would be read as part of go-micro's encoding");
    }

    proptest! {
        #[test]
        fn decoding_never_panics(tags in proptest::collection::vec("[vte]?[-=]?.{0,40}|[vte]-[0-9a-f]{0,60}", 0..8)) {
            decode(tags.iter().map(String::as_str));
        }
    }
}
