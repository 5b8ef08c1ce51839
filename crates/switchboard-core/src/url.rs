use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::{Invalid, time};

/// Where a registry is and how to use it: `mdns:`, `consul://127.0.0.1:8500?dc=dc1&tag=v2`, `memory:test`.
///
/// `scheme:rest?parameter=value&…`. The scheme names the backend; what `rest` means is the backend's own affair.
/// Parameters are percent-decoded.
///
/// For those who write a backend: [`params`](Self::params) hands the parameters out one by one and in the end refuses
/// the ones nobody asked for.
///
/// ```
/// use switchboard_core::RegistryUrl;
///
/// let url: RegistryUrl = "etcd://127.0.0.1:2379?prefix=svc&timeout=5s".parse()?;
/// let mut params = url.params("etcd");
/// let prefix: Option<String> = params.take("prefix")?;
/// let timeout = params.take_duration("timeout")?;
/// params.finish()?;
/// assert_eq!((url.scheme(), url.rest()), ("etcd", "//127.0.0.1:2379"));
/// assert_eq!(timeout, Some(std::time::Duration::from_secs(5)));
/// # assert_eq!(prefix.as_deref(), Some("svc"));
/// # Ok::<(), switchboard_core::Invalid>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct RegistryUrl {
    scheme: String,
    rest: String,
    params: Vec<(String, String)>,
}

impl RegistryUrl {
    /// The scheme, in lower case.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// What stands between the scheme's colon and the question mark, as written.
    pub fn rest(&self) -> &str {
        &self.rest
    }

    /// Takes out the parameter `name`, for what is done around a backend; `None` if it is not given.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if it is given more than once.
    pub fn take(&mut self, name: &'static str) -> Result<Option<String>, Invalid> {
        let (mut taken, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.params).into_iter().partition(|(given, _)| given == name);
        self.params = left;
        match (taken.pop(), taken.is_empty()) {
            (value, true) => Ok(value.map(|(_, value)| value)),
            _ => Err(Invalid::new(format!("parameter {name:?}"), "is given more than once")),
        }
    }

    /// With this between the scheme's colon and the question mark.
    #[must_use]
    pub fn with_rest(self, rest: impl Into<String>) -> Self {
        Self { rest: rest.into(), ..self }
    }

    /// With this parameter, too.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.params.push((name.into(), value.into()));
        self
    }

    /// The parameters, to be taken one by one by `backend`.
    pub fn params(&self, backend: &'static str) -> Params {
        Params { backend, given: self.params.clone(), known: Vec::new() }
    }
}

impl FromStr for RegistryUrl {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        // The text may hold a password, so no error repeats more than the scheme.
        let (scheme, rest) = text.split_once(':').ok_or_else(|| {
            Invalid::new("registry URL", "has no scheme; write one such as mdns: or consul://127.0.0.1:8500")
        })?;
        let starts_well = scheme.starts_with(|c: char| c.is_ascii_alphabetic());
        if !starts_well || !scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
        {
            let why = if scheme.starts_with(['"', '\'', ' ']) {
                "begins with a quote or blank, which a file of variables may have kept; take it out"
            } else {
                "is not a letter followed by letters, digits, '+', '-' and '.'"
            };
            return Err(Invalid::quoting("registry URL scheme", scheme, why));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let params = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        Ok(Self { scheme: scheme.to_ascii_lowercase(), rest: rest.into(), params })
    }
}

/// Shows the scheme and the names of the parameters only: the rest may hold credentials.
impl fmt::Debug for RegistryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.params.iter().map(|(name, _)| name).collect();
        f.debug_struct("RegistryUrl")
            .field("scheme", &self.scheme)
            .field("params", &names)
            .finish_non_exhaustive()
    }
}

/// The parameters of a [`RegistryUrl`] that have not been taken yet.
pub struct Params {
    backend: &'static str,
    given: Vec<(String, String)>,
    known: Vec<&'static str>,
}

impl Params {
    /// Takes the parameter `name`; `None` if it is not given.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if its value does not parse, or it is given more than once.
    pub fn take<T>(&mut self, name: &'static str) -> Result<Option<T>, Invalid>
    where
        T: FromStr<Err: fmt::Display>,
    {
        self.take_with(name, |value| value.parse().map_err(|error: T::Err| error.to_string()))
    }

    /// Takes the parameter `name`, with `parse` saying what is wrong with a value.
    ///
    /// # Errors
    ///
    /// As for [`take`](Self::take).
    pub fn take_with<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Invalid> {
        let mut values = self.take_all(name);
        let what = || format!("{} parameter {name:?}", self.backend);
        match (values.pop(), values.is_empty()) {
            (None, _) => Ok(None),
            (Some(value), true) => parse(&value).map(Some).map_err(|why| Invalid::new(what(), why)),
            (Some(_), false) => Err(Invalid::new(what(), "is given more than once")),
        }
    }

    /// Takes every value of the parameter `name`, in order.
    pub fn take_all(&mut self, name: &'static str) -> Vec<String> {
        self.known.push(name);
        let (taken, left) = std::mem::take(&mut self.given).into_iter().partition(|(given, _)| given == name);
        self.given = left;
        let taken: Vec<(String, String)> = taken;
        taken.into_iter().map(|(_, value)| value).collect()
    }

    /// Takes a duration such as `150ms`, `10s`, `5m` or `1h`.
    ///
    /// # Errors
    ///
    /// As for [`take`](Self::take).
    pub fn take_duration(&mut self, name: &'static str) -> Result<Option<Duration>, Invalid> {
        self.take_with(name, time::parse)
    }

    /// Takes a switch: `true` or `false`, or the name alone for `true`.
    ///
    /// # Errors
    ///
    /// As for [`take`](Self::take).
    pub fn take_switch(&mut self, name: &'static str) -> Result<Option<bool>, Invalid> {
        self.take_with(name, |value| match value {
            "" | "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(format!("{value:?} is neither true nor false")),
        })
    }

    /// Ends the taking.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if a parameter is left that nobody took; it lists the ones that exist.
    pub fn finish(self) -> Result<(), Invalid> {
        let Some((unknown, _)) = self.given.first() else { return Ok(()) };
        let mut known = self.known;
        known.sort_unstable();
        let exist = if known.is_empty() { "none".into() } else { known.join(", ") };
        Err(Invalid::new(
            format!("{} parameter {unknown:?}", self.backend),
            format!("is unknown; there are: {exist}"),
        ))
    }
}

impl fmt::Debug for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.given.iter().map(|(name, _)| name).collect();
        f.debug_struct("Params")
            .field("backend", &self.backend)
            .field("given", &names)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn url(text: &str) -> RegistryUrl {
        text.parse().unwrap()
    }

    #[test]
    fn takes_parameters_and_refuses_the_rest() {
        let mut params = url("x:?a=1&b=two%20words&c").params("x");
        assert_eq!(params.take::<u8>("a").unwrap(), Some(1));
        assert_eq!(params.take::<String>("b").unwrap().as_deref(), Some("two words"));
        assert_eq!(params.take_switch("c").unwrap(), Some(true));
        assert_eq!(params.take::<u8>("d").unwrap(), None);
        params.finish().unwrap();

        let mut params = url("x:?a=1&zz=2").params("x");
        params.take::<u8>("b").unwrap();
        params.take::<u8>("a").unwrap();
        let unknown = params.finish().unwrap_err();
        assert_eq!(unknown.to_string(), "x parameter \"zz\": is unknown; there are: a, b");
    }

    #[test]
    fn says_what_is_wrong_with_a_value() {
        let message = |text: &str| url(text).params("x").take_duration("t").unwrap_err().to_string();
        assert_eq!(
            message("x:?t=5"),
            "x parameter \"t\": \"5\" is no duration; write a whole number and ms, s, m or h"
        );
        assert_eq!(message("x:?t=1s&t=2s"), "x parameter \"t\": is given more than once");
    }

    #[test]
    fn says_that_quotes_were_kept() {
        for text in ["\"mdns:\"", "'mdns:'", " mdns:"] {
            let why = text.parse::<RegistryUrl>().unwrap_err();
            assert!(why.why().starts_with("begins with a quote or blank"), "{text}: {why}");
        }
    }

    #[test]
    fn errors_and_debug_show_no_secret() {
        let secret = url("consul://user:hunter2@host?token=hunter2");
        assert!(!format!("{secret:?} {:?}", secret.params("consul")).contains("hunter2"));
        let invalid = "hunter2".parse::<RegistryUrl>().unwrap_err();
        assert!(!invalid.to_string().contains("hunter2"));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in any::<String>()) {
            if let Ok(url) = text.parse::<RegistryUrl>() {
                let mut params = url.params("x");
                let _ = params.take_duration("a");
                let _ = params.finish();
            }
        }
    }
}
