use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Invalid;

/// The longest service name or instance id, in bytes.
const MAX_BYTES: usize = 255;

/// The rules names and ids share. They are wide on purpose: a registry may hold names that other programs chose,
/// and one that cannot be parsed cannot be listed.
fn check(what: &str, name: &str) -> Result<(), Invalid> {
    let refuse = |why: String| Err(Invalid::quoting(what, name, why));
    if name.is_empty() {
        refuse("is empty".into())
    } else if name.len() > MAX_BYTES {
        refuse(format!("is {} bytes long, the limit is {MAX_BYTES}", name.len()))
    } else if name.chars().any(char::is_control) {
        refuse("contains a control character".into())
    } else if name.trim() != name {
        refuse("begins or ends with white space".into())
    } else if name == "." || name == ".." {
        refuse("is a path segment that HTTP clients remove".into())
    } else {
        Ok(())
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            #[doc = concat!("Parses a ", $what, ".")]
            ///
            /// # Errors
            ///
            /// [`Invalid`] for an empty one, one of more than 255 bytes, one with control characters or with white
            /// space at an end, and for `.` and `..`.
            pub fn new(name: impl AsRef<str>) -> Result<Self, Invalid> {
                let name = name.as_ref();
                check($what, name)?;
                Ok(Self(name.into()))
            }

            /// The text as it was given; case is kept and significant.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(name: &str) -> Result<Self, Invalid> {
                Self::new(name)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = Invalid;

            fn try_from(name: &str) -> Result<Self, Invalid> {
                Self::new(name)
            }
        }

        impl TryFrom<&String> for $name {
            type Error = Invalid;

            fn try_from(name: &String) -> Result<Self, Invalid> {
                Self::new(name.as_str())
            }
        }

        impl TryFrom<String> for $name {
            type Error = Invalid;

            fn try_from(name: String) -> Result<Self, Invalid> {
                Self::new(name)
            }
        }

        impl TryFrom<&$name> for $name {
            type Error = Invalid;

            fn try_from(name: &$name) -> Result<Self, Invalid> {
                Ok(name.clone())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().into()
            }
        }
    };
}

name! {
    /// What a program asks for: `greeter`, `go.micro.srv.greeter`, `registry-consul.service`.
    ///
    /// Any UTF-8 of 1 to 255 bytes without control characters; backends may set a lower limit, and say so with
    /// [`Invalid`]. Letters, digits, `.`, `-` and `_` work everywhere, URLs included. On mDNS a name that
    /// starts with `_`, such as `_http._tcp`, means that DNS-SD type.
    ///
    /// ```
    /// # use switchboard_core::ServiceName;
    /// let name: ServiceName = "go.micro.srv.greeter".parse()?;
    /// assert_eq!(name.as_str(), "go.micro.srv.greeter");
    /// # Ok::<(), switchboard_core::Invalid>(())
    /// ```
    ServiceName, "service name"
}

name! {
    /// What tells one instance of a service from another.
    ///
    /// The same rules as for a [`ServiceName`]. Choose ids that are unique in the whole registry: Consul keeps one
    /// instance per id and agent, whatever its service. [`Instance::builder`](crate::Instance::builder) makes one
    /// from the service name and a random UUID unless it is told another.
    InstanceId, "instance id"
}

impl InstanceId {
    /// A new random id for an instance of `service`: its name (shortened to fit) and a version 4 UUID.
    ///
    /// At most 63 bytes, so that it is a valid DNS label everywhere.
    pub fn random(service: &ServiceName) -> Self {
        const NAME_BYTES: usize = 63 - 1 - UUID_BYTES;
        let name = service.as_str();
        let cut = (0..=NAME_BYTES.min(name.len())).rev().find(|&at| name.is_char_boundary(at)).unwrap_or(0);
        Self(format!("{}-{}", name[..cut].trim_end(), uuid()).into())
    }
}

/// How long a UUID is as text.
const UUID_BYTES: usize = 36;

/// A random UUID, version 4 (RFC 9562, section 5.4), in lower case.
fn uuid() -> String {
    let version = (0xf << 76, 0x4 << 76);
    let variant = (0x3 << 62, 0x2 << 62);
    let bits = crate::random::bits() & !version.0 & !variant.0 | version.1 | variant.1;
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn accepts_what_go_micro_and_dns_sd_use() {
        for name in
            ["greeter", "registry-consul.service", "go.micro.srv.greeter", "_http._tcp", "Größe 2", "a"]
        {
            assert_eq!(ServiceName::new(name).unwrap().as_str(), name);
        }
        assert!(ServiceName::new("x".repeat(255)).is_ok());
    }

    #[test]
    fn refuses_and_says_why() {
        let why = |name: &str| ServiceName::new(name).unwrap_err().why().to_owned();
        assert_eq!(why(""), "is empty");
        assert_eq!(why(&"x".repeat(256)), "is 256 bytes long, the limit is 255");
        assert_eq!(why("a\nb"), "contains a control character");
        assert_eq!(why(" a"), "begins or ends with white space");
        assert_eq!(why(".."), "is a path segment that HTTP clients remove");
    }

    #[test]
    fn random_ids_fit_a_dns_label_and_differ() {
        for name in ["greeter", &"ä".repeat(100), &"x y".repeat(60)] {
            let service = ServiceName::new(name).unwrap();
            let id = InstanceId::random(&service);
            assert!(id.as_str().len() <= 63, "{id}");
            assert_eq!(InstanceId::new(id.as_str()).unwrap(), id);
            assert_ne!(id, InstanceId::random(&service));
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_keeps_the_text(text in any::<String>()) {
            if let Ok(name) = ServiceName::new(&text) {
                prop_assert_eq!(name.as_str(), &text);
                prop_assert!(InstanceId::random(&name).as_str().len() <= 63);
                let json = serde_json::to_string(&name).unwrap();
                prop_assert_eq!(serde_json::from_str::<ServiceName>(&json).unwrap(), name);
            }
        }
    }
}
