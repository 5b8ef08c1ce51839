//! The registry in a file: `config:///etc/switchboard.toml`.

use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;
use switchboard_core::{Invalid, RegistryUrl};

use super::RegistrySettings;

/// More than any list of registries takes.
const MAX_BYTES: u64 = 1 << 20;

/// What stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) registry: RegistrySettings,
    #[serde(default)]
    pub(crate) namespace: Option<String>,
}

/// Reads the file that `url` names.
pub(crate) fn open(url: &RegistryUrl) -> Result<File, Invalid> {
    url.params("config").finish()?;
    let path = Path::new(url.rest().strip_prefix("//").unwrap_or(url.rest()));
    let what = format!("registries in {}", path.display());
    if path.as_os_str().is_empty() {
        return Err(Invalid::new("config URL", "names no file; write config:///etc/switchboard.toml"));
    }
    let wrong = |why: String| Invalid::new(&what, why);
    let unreadable = |error: io::Error| wrong(format!("cannot be read: {error}"));
    let about = std::fs::metadata(path).map_err(unreadable)?;
    // A pipe would hold up the program, and a device may have no end.
    if !about.is_file() {
        return Err(wrong("cannot be read: it is no file".into()));
    }
    if about.len() > MAX_BYTES {
        return Err(wrong(format!("are {} bytes long, the limit is {MAX_BYTES}", about.len())));
    }
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text))
        .map_err(unreadable)?;
    // What the library would show of the line may be a credential.
    toml::from_str(&text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        wrong(format!("line {line}, column {column}: {}", error.message()))
    })
}
