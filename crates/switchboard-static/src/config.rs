use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use switchboard_core::{Error, Invalid, RegistryUrl, Result};

use crate::StaticRegistry;
use crate::file::BACKEND;

/// How often the file is looked at by default.
const POLL: Duration = Duration::from_secs(5);

/// Looking more often would be a busy loop.
const SHORTEST_POLL: Duration = Duration::from_millis(10);

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// TOML, with an array of tables `instances`.
    Toml,
    /// JSON: a list, or an object with the key `instances`.
    Json,
}

/// A registry in a file; made by [`StaticRegistry::file`].
///
/// Every option is also a URL parameter of the same name: `file:///etc/services?format=toml&poll=1s`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a registry comes into being with `open()`"]
pub struct FileBuilder {
    pub(crate) path: PathBuf,
    pub(crate) format: Option<Format>,
    pub(crate) poll: Duration,
    /// Whether the system is asked to tell of changes.
    pub(crate) events: bool,
}

impl FileBuilder {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), format: None, poll: POLL, events: true }
    }

    /// Sets how the file is written. Default: as its name ends, `.toml` or `.json`.
    pub fn format(mut self, format: Format) -> Self {
        self.format = Some(format);
        self
    }

    /// Sets how often a watched file is looked at, for where the system tells nothing of changes. Default 5 s, at least 10 ms; a
    /// fifth more or less, at random.
    pub fn poll(mut self, interval: Duration) -> Self {
        self.poll = interval;
        self
    }

    /// Opens it. Nothing is read yet: a file that is not there, or is wrong, is told of by lookups and watches, and may come.
    ///
    /// # Errors
    ///
    /// `Invalid` for an empty path, a name that ends in neither `.toml` nor `.json` where no format is given, and a poll interval under
    /// 10 ms.
    pub fn open(self) -> Result<StaticRegistry> {
        let format = self.check().map_err(|invalid| Error::invalid(BACKEND, "connect", &invalid))?;
        Ok(StaticRegistry::of_file(self, format))
    }

    fn check(&self) -> Result<Format, Invalid> {
        let path = self.path.to_string_lossy();
        if path.is_empty() {
            return Err(Invalid::new("file URL", "names no file; write file:///etc/services.toml"));
        }
        if self.poll < SHORTEST_POLL {
            let why = format!("is shorter than {SHORTEST_POLL:?}");
            return Err(Invalid::new(format!("file poll interval of {:?}", self.poll), why));
        }
        let ends_in = |extension: &str| {
            self.path.extension().is_some_and(|given| given.eq_ignore_ascii_case(extension))
        };
        match self.format {
            Some(format) => Ok(format),
            None if ends_in("toml") => Ok(Format::Toml),
            None if ends_in("json") => Ok(Format::Json),
            None => {
                let why = "ends in neither .toml nor .json; add ?format=toml or ?format=json";
                Err(Invalid::quoting("file", &path, why))
            }
        }
    }

    /// The options in `url`: `file:` with a path.
    pub(crate) fn from_url(url: &RegistryUrl) -> Result<Self, Invalid> {
        let mut builder = Self::new(path(url.rest())?);
        let mut params = url.params(BACKEND);
        builder.format = params.take("format")?;
        if let Some(poll) = params.take_duration("poll")? {
            builder.poll = poll;
        }
        params.finish()?;
        Ok(builder)
    }
}

/// The path in a file URL (RFC 8089): `///etc/x`, `//localhost/etc/x`, `/etc/x`, and for the working directory `x`.
fn path(rest: &str) -> Result<PathBuf, Invalid> {
    let local = match rest.strip_prefix("//") {
        Some(authority) => {
            let (host, path) = authority.split_at(authority.find('/').unwrap_or(authority.len()));
            if !matches!(host, "" | "localhost") {
                let why = "names a host; write file:///PATH for a file of this machine, or file:PATH from the working directory";
                return Err(Invalid::quoting("file URL", host, why));
            }
            path
        }
        None => rest,
    };
    let Ok(text) = percent_decode_str(local).decode_utf8() else {
        return Err(Invalid::quoting("file URL", rest, "is not UTF-8 when it is percent-decoded"));
    };
    // `/C:/x` is `C:/x`.
    let drive =
        |text: &str| matches!(text.as_bytes(), [b'/', letter, b':', ..] if letter.is_ascii_alphabetic());
    let text = if cfg!(windows) && drive(&text) { &text[1..] } else { &*text };
    Ok(Path::new(text).to_path_buf())
}

impl FromStr for Format {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "toml" => Ok(Self::Toml),
            "json" => Ok(Self::Json),
            _ => Err(Invalid::quoting("format", text, "is neither toml nor json")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<FileBuilder, Invalid> {
        let builder = FileBuilder::from_url(&url.parse()?)?;
        builder.check().map(|_| builder)
    }

    #[test]
    fn every_option_is_a_parameter_and_paths_are_as_rfc_8089_has_them() {
        let built = FileBuilder::new("/etc/services").format(Format::Toml).poll(Duration::from_secs(1));
        assert_eq!(parse("file:///etc/services?format=toml&poll=1s").unwrap(), built);
        for url in ["file:///etc/a%20b.json", "file:/etc/a%20b.json", "file://localhost/etc/a%20b.json"] {
            assert_eq!(parse(url).unwrap(), FileBuilder::new("/etc/a b.json"), "{url}");
        }
        assert_eq!(parse("file:lists/a.TOML").unwrap(), FileBuilder::new("lists/a.TOML"));
    }

    #[test]
    fn mistakes_are_named() {
        for (url, message) in [
            ("file:", "file URL: names no file; write file:///etc/services.toml"),
            ("file://", "file URL: names no file; write file:///etc/services.toml"),
            (
                "file://etc/services.toml",
                "file URL \"etc\": names a host; write file:///PATH for a file of this machine, or file:PATH from the working directory",
            ),
            ("file:///a", "file \"/a\": ends in neither .toml nor .json; add ?format=toml or ?format=json"),
            (
                "file:///a.toml?format=yaml",
                "file parameter \"format\": format \"yaml\": is neither toml nor json",
            ),
            ("file:///a.toml?x=1", "file parameter \"x\": is unknown; there are: format, poll"),
            ("file:///a.toml?poll=1ms", "file poll interval of 1ms: is shorter than 10ms"),
            ("file:///%ff.toml", "file URL \"///%ff.toml\": is not UTF-8 when it is percent-decoded"),
        ] {
            assert_eq!(parse(url).unwrap_err().to_string(), message);
        }
    }
}
