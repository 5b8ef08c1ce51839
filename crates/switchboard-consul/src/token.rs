//! ACL tokens: kept out of sight, and read again when their file changes.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::header::HeaderValue;
use switchboard_core::Invalid;
use tokio::time::Instant;

/// How often at most the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Consul's own tokens are UUIDs of 36 bytes; a JWT is a few kilobytes.
const MAX_BYTES: u64 = 64 * 1024;

/// Text that no `Debug` output shows.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    fn header(&self) -> Result<HeaderValue, Invalid> {
        let mut value = HeaderValue::from_str(&self.0).map_err(|_| {
            Invalid::new(
                "Consul token",
                "contains a character that no HTTP header can carry; it is not shown",
            )
        })?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Where the token comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TokenSource {
    Value(Secret),
    File(PathBuf),
}

/// The token to send now.
#[derive(Debug)]
pub(crate) enum Token {
    Fixed(HeaderValue),
    File { path: PathBuf, current: Mutex<Current> },
}

#[derive(Debug)]
pub(crate) struct Current {
    value: HeaderValue,
    looked: Instant,
}

impl Token {
    pub(crate) fn open(source: TokenSource) -> Result<Self, Invalid> {
        match source {
            TokenSource::Value(secret) => secret.header().map(Self::Fixed),
            TokenSource::File(path) => {
                let current = Current { value: read(&path)?, looked: Instant::now() };
                Ok(Self::File { path, current: Mutex::new(current) })
            }
        }
    }

    /// The token; a file that has changed is read again, one that cannot be read leaves the last token in force.
    pub(crate) fn header(&self) -> HeaderValue {
        match self {
            Self::Fixed(value) => value.clone(),
            Self::File { path, current } => {
                let mut current = lock(current);
                if current.looked.elapsed() >= LOOK_EVERY {
                    current.look(path);
                }
                current.value.clone()
            }
        }
    }

    /// Looks at the file now; whether the token is another than `refused`.
    pub(crate) fn replaced(&self, refused: &HeaderValue) -> bool {
        match self {
            Self::Fixed(_) => false,
            Self::File { path, current } => {
                let mut current = lock(current);
                current.look(path);
                current.value != *refused
            }
        }
    }
}

impl Current {
    // A few bytes of a local file, once a second at most: not worth a thread of its own.
    fn look(&mut self, path: &Path) {
        self.looked = Instant::now();
        match read(path) {
            Ok(value) => self.value = value,
            Err(invalid) => tracing::warn!(%invalid, "keeping the last Consul token"),
        }
    }
}

fn lock(current: &Mutex<Current>) -> MutexGuard<'_, Current> {
    // Nothing panics while holding it, and the token is whole even if something did.
    current.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(path: &Path) -> Result<HeaderValue, Invalid> {
    let what = || format!("Consul token file {}", path.display());
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text))
        .map_err(|error| Invalid::new(what(), format!("cannot be read: {error}")))?;
    match text.trim() {
        "" => Err(Invalid::new(what(), "is empty")),
        token => Secret::new(token).header(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_read_again_and_a_missing_one_keeps_the_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "one\n").unwrap();
        let token = Token::open(TokenSource::File(path.clone())).unwrap();
        assert_eq!(token.header(), "one");

        std::fs::write(&path, "two\n").unwrap();
        assert_eq!(token.header(), "one", "not looked at again within a second");
        assert!(token.replaced(&token.header()));
        assert_eq!(token.header(), "two");

        std::fs::write(&path, "three").unwrap();
        tokio::time::advance(LOOK_EVERY).await;
        assert_eq!(token.header(), "three");
        std::fs::remove_file(&path).unwrap();
        tokio::time::advance(LOOK_EVERY).await;
        assert_eq!(token.header(), "three");
    }

    #[test]
    fn nothing_shows_the_token() {
        let source = TokenSource::Value(Secret::new("hunter2"));
        assert!(!format!("{source:?}").contains("hunter2"));
        assert!(!format!("{:?}", Token::open(source).unwrap()).contains("hunter2"));
        let refused = Token::open(TokenSource::Value(Secret::new("hunter2\n"))).unwrap_err();
        assert!(!refused.to_string().contains("hunter2"));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let refused = Token::open(TokenSource::File("no/such/file".into())).unwrap_err();
        assert!(
            refused.to_string().starts_with("Consul token file no/such/file: cannot be read"),
            "{refused}"
        );
    }
}
