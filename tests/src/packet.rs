//! DNS packets written by hand, to say what no library would let one say (RFC 1035 §4).

/// A packet under construction; the default one has not even a header.
#[derive(Clone, Debug, Default)]
pub struct Packet {
    bytes: Vec<u8>,
}

/// The types of records used here (RFC 1035 §3.2.2, RFC 2782).
#[derive(Clone, Copy, Debug)]
pub enum RecordType {
    /// An IPv4 address.
    A = 1,
    /// Another name.
    Ptr = 12,
    /// Strings.
    Txt = 16,
    /// Host and port.
    Srv = 33,
}

impl Packet {
    /// A response, with a header that claims `answers` answers, however many follow.
    pub fn response(answers: u16) -> Self {
        let mut bytes = vec![0, 0, 0x84, 0, 0, 0];
        bytes.extend(answers.to_be_bytes());
        bytes.extend([0; 4]);
        Self { bytes }
    }

    /// A query, with a header that claims `questions` questions.
    pub fn query(questions: u16) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(questions.to_be_bytes());
        bytes.extend([0; 6]);
        Self { bytes }
    }

    /// Adds a question for a record of class IN.
    pub fn question(self, asked: &[u8], kind: RecordType) -> Self {
        self.raw(asked).raw(&(kind as u16).to_be_bytes()).raw(&[0, 1])
    }

    /// Adds a record of class IN.
    pub fn record(self, owner: &[u8], kind: RecordType, ttl: u32, data: &[u8]) -> Self {
        let len = u16::try_from(data.len()).unwrap_or(u16::MAX);
        self.raw(owner)
            .raw(&(kind as u16).to_be_bytes())
            .raw(&[0, 1])
            .raw(&ttl.to_be_bytes())
            .raw(&len.to_be_bytes())
            .raw(data)
    }

    /// Adds bytes as they are.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// A name on the wire. Labels above 63 bytes are cut to what their length byte can say.
pub fn name<'a>(labels: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    let labels = labels.into_iter().flat_map(|label| string(label.as_bytes()));
    labels.chain([0]).collect()
}

/// One length-prefixed string, as in TXT records; at most 255 bytes of it.
pub fn string(bytes: &[u8]) -> Vec<u8> {
    let len = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    std::iter::once(len).chain(bytes.iter().copied().take(len.into())).collect()
}

/// The data of an SRV record.
pub fn srv(port: u16, target: &[u8]) -> Vec<u8> {
    [&[0, 0, 0, 0], &port.to_be_bytes()[..], target].concat()
}
