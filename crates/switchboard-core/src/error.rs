use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use serde::ser::{Serialize, SerializeStruct, Serializer};

/// The result of a registry operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong in a registry: which backend, doing what, why.
///
/// Displayed as `backend: operation: kind: message`, or `kind: message` for input that was refused before any backend was
/// asked. The underlying cause, if there is one, is in [`source`](StdError::source) and not repeated in the message. Cheap to
/// clone, so that one failure can be told to every watcher. Credentials never appear in it. `Debug`, which is what a `main` that
/// ends with an error shows, is as readable and has the causes.
///
/// Serialized as `{"kind", "backend", "operation", "message", "causes"}`, the causes as their texts, outermost first.
///
/// ```
/// use switchboard_core::{Error, ErrorKind};
///
/// let error = Error::new(ErrorKind::Unavailable, "consul", "lookup", "no answer from 127.0.0.1:8500 within 10s");
/// assert_eq!(error.to_string(), "consul: lookup: unavailable: no answer from 127.0.0.1:8500 within 10s");
/// assert!(error.is_transient());
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    backend: Cow<'static, str>,
    operation: Cow<'static, str>,
    message: String,
    /// Who registers in a registry that can only be read.
    registered_by: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The kinds of [`Error`] a caller can tell apart and act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller's input cannot be accepted; nothing was sent. Retrying the same call fails again.
    Invalid,
    /// The registry could not be reached, or could not answer now. Retrying may help.
    Unavailable,
    /// The registry refused: missing or wrong credentials, or too few rights.
    PermissionDenied,
    /// The registry answered with something that is not what its protocol promises.
    Protocol,
    /// This backend, or this version of its server, cannot do that.
    Unsupported,
    /// The registry handle was closed.
    Closed,
}

impl Error {
    /// An error of `kind` that `backend` met in `operation`.
    pub fn new(
        kind: ErrorKind,
        backend: impl Into<Cow<'static, str>>,
        operation: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        Self(Arc::new(Inner {
            kind,
            backend: backend.into(),
            operation: operation.into(),
            message: message.into(),
            registered_by: None,
            source: None,
        }))
    }

    /// The [`ErrorKind::Unsupported`] of a registry that can only be read; `who` registers there instead.
    ///
    /// ```
    /// use switchboard_core::{Error, ErrorKind};
    ///
    /// let error = Error::read_only("dns", "register", "whoever keeps the zone");
    /// let message = "this registry can only be read; whoever keeps the zone registers here";
    /// assert_eq!((error.kind(), error.message()), (ErrorKind::Unsupported, message));
    /// assert_eq!(error.registered_by(), Some("whoever keeps the zone"));
    /// ```
    pub fn read_only(
        backend: impl Into<Cow<'static, str>>,
        operation: impl Into<Cow<'static, str>>,
        who: impl Into<String>,
    ) -> Self {
        let who = who.into();
        Self(Arc::new(Inner {
            kind: ErrorKind::Unsupported,
            backend: backend.into(),
            operation: operation.into(),
            message: format!("this registry can only be read; {who} registers here"),
            registered_by: Some(who),
            source: None,
        }))
    }

    /// An [`ErrorKind::Invalid`] from a failed validation.
    pub fn invalid(
        backend: impl Into<Cow<'static, str>>,
        operation: impl Into<Cow<'static, str>>,
        invalid: &Invalid,
    ) -> Self {
        Self::new(ErrorKind::Invalid, backend, operation, invalid.to_string())
    }

    /// The [`ErrorKind::Closed`] that every operation on a closed handle answers.
    pub fn closed(backend: impl Into<Cow<'static, str>>, operation: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Closed, backend, operation, "this registry handle was closed")
    }

    /// The [`ErrorKind::Unsupported`] of what needs a tokio runtime and is called outside one.
    pub fn no_runtime(
        backend: impl Into<Cow<'static, str>>,
        operation: impl Into<Cow<'static, str>>,
    ) -> Self {
        let message = "called outside a tokio runtime; call it from `#[tokio::main]` or `Runtime::block_on`, or keep the guard of `Runtime::enter` meanwhile";
        Self::new(ErrorKind::Unsupported, backend, operation, message)
    }

    /// Keeps `source` as the cause.
    pub fn with_source(self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let inner = match Arc::try_unwrap(self.0) {
            Ok(inner) => inner,
            Err(shared) => Inner {
                kind: shared.kind,
                backend: shared.backend.clone(),
                operation: shared.operation.clone(),
                message: shared.message.clone(),
                registered_by: shared.registered_by.clone(),
                source: None,
            },
        };
        Self(Arc::new(Inner { source: Some(source.into()), ..inner }))
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The backend that failed, as it calls itself in URLs: `mdns`, `consul`, `memory`. Empty for input that was refused
    /// before any was asked.
    pub fn backend(&self) -> &str {
        &self.0.backend
    }

    /// The operation that failed: `register`, `lookup`, `watch`, … Empty where [`backend`](Self::backend) is.
    pub fn operation(&self) -> &str {
        &self.0.operation
    }

    /// What happened, without backend, operation and kind.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Who registers instead, when this is the answer of a registry that can only be read: see
    /// [`Registry`](crate::Registry#registries-one-can-only-read).
    pub fn registered_by(&self) -> Option<&str> {
        self.0.registered_by.as_deref()
    }

    /// Whether the same call may succeed later with nothing changed by the caller.
    pub fn is_transient(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Unavailable)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, backend, operation, message, .. } = &*self.0;
        for place in [backend, operation] {
            if !place.is_empty() {
                write!(f, "{place}: ")?;
            }
        }
        write!(f, "{kind}: {message}")
    }
}

/// As it is displayed, and the causes, since this is what `main` and `unwrap` show; `{:#?}` has the fields.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            let mut text = self.to_string();
            for cause in
                std::iter::successors(self.source(), |&cause| cause.source()).map(ToString::to_string)
            {
                if !text.ends_with(&cause) {
                    text = format!("{text}: {cause}");
                }
            }
            return f.write_str(&text);
        }
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("backend", &self.0.backend)
            .field("operation", &self.0.operation)
            .field("message", &self.0.message)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl Serialize for Error {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let causes = std::iter::successors(self.source(), |&cause| cause.source());
        let causes: Vec<String> = causes.map(ToString::to_string).collect();
        let mut fields = serializer.serialize_struct("Error", 5)?;
        fields.serialize_field("kind", &self.kind())?;
        fields.serialize_field("backend", self.backend())?;
        fields.serialize_field("operation", self.operation())?;
        fields.serialize_field("message", self.message())?;
        fields.serialize_field("causes", &causes)?;
        fields.end()
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid => "invalid input",
            Self::Unavailable => "unavailable",
            Self::PermissionDenied => "permission denied",
            Self::Protocol => "protocol error",
            Self::Unsupported => "unsupported",
            Self::Closed => "closed",
        })
    }
}

/// Input that was refused: what it was, and why.
///
/// Parsing a name or building an instance fails with this; a registry wraps it into an [`Error`] of kind
/// [`ErrorKind::Invalid`].
///
/// ```
/// use switchboard_core::ServiceName;
///
/// let refused = ServiceName::new("").unwrap_err();
/// assert_eq!(refused.to_string(), "service name \"\": is empty");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct Invalid {
    what: String,
    why: String,
}

impl Invalid {
    /// `what` was refused because of `why`, which should name the limit.
    pub fn new(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.into() }
    }

    /// The kind of input and, quoted and cut to a readable length, the input.
    pub fn quoting(what: &str, input: &str, why: impl Into<String>) -> Self {
        const SHOWN: usize = 80;
        let shown = match input.char_indices().nth(SHOWN) {
            Some((cut, _)) => format!("{:?}…", &input[..cut]),
            None => format!("{input:?}"),
        };
        Self::new(format!("{what} {shown}"), why)
    }

    /// The input that was refused.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// The reason, and the limit that was missed.
    pub fn why(&self) -> &str {
        &self.why
    }
}

impl From<std::convert::Infallible> for Invalid {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// For `?` on what a program builds itself: no backend is to blame, so none is named.
impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Self {
        Self::invalid("", "", &invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_backend_operation_kind_and_message() {
        let cause = std::io::Error::other("connection refused");
        let error =
            Error::new(ErrorKind::PermissionDenied, "consul", "register", "the token may not write \"web\"")
                .with_source(cause);
        assert_eq!(error.to_string(), "consul: register: permission denied: the token may not write \"web\"");
        assert_eq!(error.source().unwrap().to_string(), "connection refused");
        assert!(!error.is_transient());
    }

    #[test]
    fn what_main_shows_is_as_readable() {
        let cause = Error::closed("memory", "watch").with_source("a cause");
        let error = Error::new(ErrorKind::Unavailable, "consul", "connect", "no answer").with_source(cause);
        let shown = "consul: connect: unavailable: no answer: memory: watch: closed: this registry handle was closed: a cause";
        assert_eq!(format!("{error:?}"), shown);
        let said = Error::new(ErrorKind::Unavailable, "a", "b", "it is full").with_source("full");
        assert_eq!(format!("{said:?}"), "a: b: unavailable: it is full");
        assert!(format!("{error:#?}").starts_with("Error {\n    kind: Unavailable,"));
    }

    #[test]
    fn refused_input_blames_no_backend() {
        let build = || -> Result<()> {
            crate::Instance::builder("").address("127.0.0.1:80").build()?;
            Ok(())
        };
        assert_eq!(build().unwrap_err().to_string(), "invalid input: service name \"\": is empty");
    }

    #[test]
    fn a_missing_runtime_says_where_to_find_one() {
        assert_eq!(
            Error::no_runtime("registrar", "start").to_string(),
            "registrar: start: unsupported: called outside a tokio runtime; call it from `#[tokio::main]` or \
             `Runtime::block_on`, or keep the guard of `Runtime::enter` meanwhile"
        );
    }

    #[test]
    fn is_serialized_with_its_causes() {
        let error = Error::new(ErrorKind::PermissionDenied, "consul", "register", "no")
            .with_source(Error::closed("memory", "watch"));
        assert_eq!(
            serde_json::to_string(&error).unwrap(),
            r#"{"kind":"permission_denied","backend":"consul","operation":"register","message":"no","causes":["memory: watch: closed: this registry handle was closed"]}"#
        );
    }

    #[test]
    fn a_shared_error_takes_a_source_without_losing_its_words() {
        let first = Error::closed("memory", "watch");
        let second = first.clone().with_source("cause");
        assert_eq!(second.to_string(), first.to_string());
        assert_eq!(first.to_string(), "memory: watch: closed: this registry handle was closed");
        assert!(first.source().is_none());
        let shared = Error::read_only("static", "register", "the list");
        let _other = shared.clone();
        assert_eq!(shared.with_source("cause").registered_by(), Some("the list"));
        assert!(second.registered_by().is_none());
    }

    #[test]
    fn long_input_is_cut_when_quoted() {
        let invalid = Invalid::quoting("tag", &"é".repeat(500), "is longer than 255 bytes");
        assert!(invalid.what().len() < 200);
        assert!(invalid.to_string().ends_with("…: is longer than 255 bytes"));
    }
}
