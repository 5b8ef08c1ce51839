//! Names for registries, in a configuration file.
//!
//! ```toml
//! current = "prod"
//!
//! [contexts.prod]
//! registry = "consul://consul.example.com:8501?tls&token_file=/run/secrets/consul"
//! ```

use std::ffi::OsString;
use std::path::PathBuf;
use std::{env, fs, io};

use switchboard::consul::ConsulRegistry;
use switchboard::etcd::EtcdBuilder;
use switchboard::mdns::MdnsBuilder;
use switchboard::{Error, Invalid, MemoryRegistry, RegistryUrl};
use toml_edit::{DocumentMut, Item, Table, value};

use crate::bounded;
use crate::failure::Failure;
use crate::replace::{Mode, replace};
use crate::session::connector;

/// Names the file, where it is not to be in its usual place.
pub(crate) const VARIABLE: &str = "SWITCHBOARD_CONFIG";

/// The configuration file as it is, with comments and all that others may have put there.
#[derive(Debug)]
pub(crate) struct Contexts {
    path: PathBuf,
    file: DocumentMut,
}

impl Contexts {
    /// Reads the file; no file is one without contexts.
    pub(crate) fn load() -> Result<Self, Failure> {
        let Some(path) = path(|name| env::var_os(name)) else {
            // Without a home there is no file, and nowhere to write one.
            return Ok(Self { path: PathBuf::new(), file: DocumentMut::new() });
        };
        let text = match bounded::text(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                return Err(Failure::failed(format!("cannot read {}", path.display())).because(&error));
            }
        };
        let file = text.parse::<DocumentMut>().map_err(|error| {
            // What toml_edit would show of the line may be a credential.
            let at = error.span().and_then(|span| text.get(..span.start));
            let line = at.map_or(1, |before| before.lines().count().max(1));
            Failure::usage(format!("{}: line {line}: {}", path.display(), error.message()))
        })?;
        Ok(Self { path, file })
    }

    /// The names, and the URL of each if it has one.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let contexts = self.file.get("contexts").and_then(Item::as_table_like);
        let contexts = contexts.into_iter().flat_map(toml_edit::TableLike::iter);
        contexts.map(|(name, context)| (name, context.get("registry").and_then(Item::as_str)))
    }

    /// The name of the current one.
    pub(crate) fn current(&self) -> Option<&str> {
        self.file.get("current").and_then(Item::as_str)
    }

    /// The URL of the current one.
    pub(crate) fn current_registry(&self) -> Result<Option<String>, Failure> {
        self.current().map(|name| self.registry(name)).transpose()
    }

    pub(crate) fn registry(&self, name: &str) -> Result<String, Failure> {
        match self.all().find(|(known, _)| *known == name) {
            Some((_, Some(url))) if !url.is_empty() => Ok(url.into()),
            Some(_) => {
                let path = self.path.display();
                Err(Failure::usage(format!("context {name:?} in {path} has no registry = \"URL\"")))
            }
            None => Err(self.unknown(name)),
        }
    }

    pub(crate) fn make_current(&mut self, name: &str) -> Result<(), Failure> {
        self.registry(name)?;
        put(&mut self.file["current"], name);
        self.save()
    }

    pub(crate) fn set(&mut self, name: &str, url: &str) -> Result<(), Failure> {
        let mut contexts = Table::new();
        // Else it would have a heading of its own, with nothing below it.
        contexts.set_implicit(true);
        let contexts = self.file.entry("contexts").or_insert(Item::Table(contexts));
        let wrong = || Failure::usage(format!("contexts in {} are no table", self.path.display()));
        let contexts = contexts.as_table_like_mut().ok_or_else(wrong)?;
        let context = contexts.entry(name).or_insert(Item::Table(Table::new()));
        put(context.as_table_like_mut().ok_or_else(wrong)?.entry("registry").or_insert(Item::None), url);
        self.save()
    }

    /// Gives it another name, which no other has.
    pub(crate) fn rename(&mut self, old: &str, new: &str) -> Result<(), Failure> {
        if self.all().any(|(known, _)| known == new) {
            let path = self.path.display();
            return Err(Failure::usage(format!("there is a context {new:?} in {path} already")));
        }
        let contexts = self.file.get_mut("contexts").and_then(Item::as_table_like_mut);
        let renamed = contexts.and_then(|contexts| {
            let context = contexts.remove(old)?;
            contexts.insert(new, context);
            Some(())
        });
        if renamed.is_none() {
            return Err(self.unknown(old));
        }
        if self.current() == Some(old) {
            put(&mut self.file["current"], new);
        }
        self.save()
    }

    /// Forgets it; if it was the current one, there is none any more.
    pub(crate) fn delete(&mut self, name: &str) -> Result<(), Failure> {
        let contexts = self.file.get_mut("contexts").and_then(Item::as_table_like_mut);
        if contexts.and_then(|contexts| contexts.remove(name)).is_none() {
            return Err(self.unknown(name));
        }
        if self.current() == Some(name) {
            self.file.remove("current");
        }
        self.save()
    }

    fn save(&self) -> Result<(), Failure> {
        let failed = |error| Failure::failed(format!("cannot write {}", self.path.display())).because(&error);
        if self.path.as_os_str().is_empty() {
            return Err(Failure::failed(format!("there is no home directory; {VARIABLE} names a file")));
        }
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        replace(&self.path, self.file.to_string().as_bytes(), Mode::Private).map_err(failed)?;
        Ok(())
    }

    fn unknown(&self, name: &str) -> Failure {
        let known: Vec<&str> = self.all().map(|(name, _)| name).collect();
        let known = if known.is_empty() { "none".into() } else { known.join(", ") };
        Failure::usage(format!("no context {name:?} in {}; there are: {known}", self.path.display()))
    }
}

/// Puts another text in a place, beside the comment that is there.
fn put(place: &mut Item, text: &str) {
    let beside = place.as_value().map(|old| old.decor().clone());
    *place = value(text);
    if let (Some(beside), Some(new)) = (beside, place.as_value_mut()) {
        *new.decor_mut() = beside;
    }
}

/// Where the file is: `$XDG_CONFIG_HOME/switchboard/config.toml`, and on Windows in `%APPDATA%`.
fn path(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let variable = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = variable(VARIABLE) {
        return Some(path);
    }
    let directory = if cfg!(windows) {
        variable("APPDATA")
    } else {
        // A relative one is to be ignored, says the XDG Base Directory Specification.
        let given = variable("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
        given.or_else(|| Some(variable("HOME")?.join(".config")))
    };
    Some(directory?.join("switchboard").join("config.toml"))
}

/// A part of what names a registry, or several as in `consul: | mdns:`.
#[derive(Clone, Copy, Debug)]
enum Part<'a> {
    Url(&'a str),
    /// What stands between URLs, or before an arrow.
    Other(&'a str),
}

fn parts<'a>(text: &'a str) -> Vec<Part<'a>> {
    let is_operator = |word: &str| [";", "|", "+", ">", "->"].contains(&word);
    let words: Vec<&str> = text.split_whitespace().collect();
    if !words.iter().any(|word| is_operator(word)) {
        return vec![Part::Url(text)];
    }
    let before_arrow = |at: usize| words.get(at + 1) == Some(&"->");
    let part = |(at, word): (usize, &&'a str)| {
        if is_operator(word) || before_arrow(at) { Part::Other(word) } else { Part::Url(word) }
    };
    words.iter().enumerate().map(part).collect()
}

/// Parameters that name files. Those may be on another machine, or come later.
const FILES: [&str; 4] = ["token_file", "ca_cert", "client_cert", "client_key"];

/// Whether a registry can be opened by this, as far as that shows without a network and without files.
pub(crate) async fn check(text: &str) -> Result<(), Error> {
    fn refused(scheme: &'static str, invalid: &Invalid) -> Error {
        Error::invalid(scheme, "connect", invalid)
    }
    // Opening these does more than reading the URL; opening the others does not.
    let connector = connector()
        .scheme("mdns", |url| async move {
            let _ = MdnsBuilder::from_url(&url).map_err(|invalid| refused("mdns", &invalid))?;
            Ok(MemoryRegistry::new())
        })
        .scheme("etcd", |url| async move {
            let _ = EtcdBuilder::from_url(&url).map_err(|invalid| refused("etcd", &invalid))?;
            Ok(MemoryRegistry::new())
        })
        .scheme("consul", |mut url| async move {
            for name in FILES {
                url.take(name).map_err(|invalid| refused("consul", &invalid))?;
            }
            ConsulRegistry::builder().ignore_env().url(&url).build()
        });
    connector.connect(text).await.map(drop)
}

/// What names a registry, or several, without what may be a credential.
pub(crate) fn without_credentials(text: &str) -> String {
    let shown = parts(text).into_iter().map(|part| match part {
        Part::Url(url) => shown(url),
        Part::Other(word) => word.into(),
    });
    shown.collect::<Vec<_>>().join(" ")
}

fn shown(url: &str) -> String {
    let Ok(parsed) = url.parse::<RegistryUrl>() else { return "(no registry URL)".into() };
    // In a list of addresses each may have its own.
    let addresses = parsed.rest().split(',').map(|address| match address.rsplit_once('@') {
        Some((before, host)) => format!("{}{host}", if before.starts_with("//") { "//" } else { "" }),
        None => address.into(),
    });
    let addresses = addresses.collect::<Vec<_>>().join(",");
    let params = url.split_once('?').map(|(_, params)| params).unwrap_or_default();
    let params =
        params.split('&').filter(|param| !param.is_empty()).map(|param| match param.split_once('=') {
            Some((name, _)) if is_secret(name) => format!("{name}=…"),
            _ => param.into(),
        });
    let params = params.collect::<Vec<_>>().join("&");
    let mark = if params.is_empty() { "" } else { "?" };
    format!("{}:{addresses}{mark}{params}", parsed.scheme())
}

/// Whether the value of a parameter may be a credential. The name of a file is none.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let secret = ["token", "pass", "secret", "auth", "cred", "key", "user", "%"];
    secret.iter().any(|word| name.contains(word)) && !name.ends_with("_file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_where_the_system_has_such_files() {
        let with = |known: &[(&str, &str)]| {
            let known = known.to_vec();
            path(move |name| known.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
        };
        assert_eq!(with(&[]), None);
        assert_eq!(with(&[(VARIABLE, "a.toml")]), Some("a.toml".into()));
        #[cfg(unix)]
        for (known, expected) in [
            (&[("XDG_CONFIG_HOME", "/x"), ("HOME", "/h")][..], "/x/switchboard/config.toml"),
            (&[("XDG_CONFIG_HOME", "x"), ("HOME", "/h")], "/h/.config/switchboard/config.toml"),
            (&[("XDG_CONFIG_HOME", ""), ("HOME", "/h")], "/h/.config/switchboard/config.toml"),
        ] {
            assert_eq!(with(known), Some(expected.into()));
        }
    }

    #[test]
    fn no_credential_is_left_in_a_url() {
        for (url, shown) in [
            ("mdns:?interface=lo", "mdns:?interface=lo"),
            ("consul://u:pw@h:1?dc=a&token=pw&token_file=/t", "consul://h:1?dc=a&token=…&token_file=/t"),
            ("consul://a:pw@h,b:pw@i?TOKEN=pw&client_key=/k&tls", "consul://h,i?TOKEN=…&client_key=…&tls"),
            ("consul://u:p@w@h?to%6ben=pw", "consul://h?to%6ben=…"),
            ("pw", "(no registry URL)"),
            ("mdns:?interface=lo + consul://u:pw@h?token=pw", "mdns:?interface=lo + consul://h?token=…"),
            ("web-* -> consul://u:pw@h ; * -> a: | pw", "web-* -> consul://h ; * -> a: | (no registry URL)"),
        ] {
            assert_eq!(without_credentials(url), shown);
        }
    }
}
