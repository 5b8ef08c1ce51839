//! Files that others name, read up to a limit: a device has no end.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The most of a file that people write: a configuration, a template, a token.
pub(crate) const WRITTEN: u64 = 1 << 20;

/// The text of a file that people write.
pub(crate) fn text(path: &Path) -> io::Result<String> {
    String::from_utf8(file(path, WRITTEN)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

/// All of a file, which is `limit` bytes at most.
pub(crate) fn file(path: impl AsRef<Path>, limit: u64) -> io::Result<Vec<u8>> {
    all(File::open(path)?, limit)
}

/// All there is to read, which is `limit` bytes at most.
pub(crate) fn all(from: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let why = format!("it is longer than {}, the limit", size(limit));
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(bytes)
}

fn size(bytes: u64) -> String {
    match bytes {
        whole if whole % (1 << 20) == 0 => format!("{} MiB", whole >> 20),
        odd => format!("{odd} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_longer_than_the_limit_is_refused_and_no_more_of_it_read() {
        assert_eq!(all(&b"four"[..], 4).unwrap(), b"four");
        assert_eq!(all(&b"fiver"[..], 4).unwrap_err().to_string(), "it is longer than 4 bytes, the limit");
        let endless = all(io::repeat(0), WRITTEN).unwrap_err();
        assert_eq!(endless.kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(endless.to_string(), "it is longer than 1 MiB, the limit");
    }
}
