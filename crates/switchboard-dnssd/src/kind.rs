use switchboard_core::{Invalid, ServiceName};

/// The DNS-SD type every Switchboard service is announced under; the service's own name is in the TXT record.
pub const OWN_TYPE: &str = "_switchboard._tcp";

/// What a service name means as DNS-SD.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceType {
    /// One of ours, among all the others under [`OWN_TYPE`].
    Own,
    /// A plain DNS-SD type such as `_http._tcp`, which is the service name.
    Plain(ServiceName),
}

impl ServiceType {
    /// The type that `service` is announced under and browsed by.
    ///
    /// # Errors
    ///
    /// `Invalid` for a name that begins with `_` and is no DNS-SD type.
    pub fn of(service: &ServiceName) -> Result<Self, Invalid> {
        if service.as_str().starts_with('_') {
            check_plain(service)?;
            Ok(Self::Plain(service.clone()))
        } else {
            Ok(Self::Own)
        }
    }

    /// The type without its domain: `_switchboard._tcp`, `_http._tcp`.
    pub fn name(&self) -> &str {
        match self {
            Self::Own => OWN_TYPE,
            Self::Plain(service) => service.as_str(),
        }
    }
}

/// RFC 6763 §7 and RFC 6335 §5.1: `_name._tcp` or `_name._udp`, where the name has 1 to 15 letters, digits and inner single
/// hyphens, at least one of them a letter.
fn check_plain(service: &ServiceName) -> Result<(), Invalid> {
    let refuse = |why| Err(Invalid::quoting("DNS-SD type", service.as_str(), why));
    let Some((name, "_tcp" | "_udp")) = service.as_str()[1..].split_once('.') else {
        return refuse("starts with '_', so it must have the form _name._tcp or _name._udp");
    };
    if name.is_empty() || name.len() > 15 {
        refuse("has a name that is not 1 to 15 characters long")
    } else if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        refuse("has a name with something other than letters, digits and hyphens")
    } else if name.starts_with('-') || name.ends_with('-') || name.contains("--") {
        refuse("has a name with a hyphen at an end or two in a row")
    } else if !name.bytes().any(|byte| byte.is_ascii_alphabetic()) {
        refuse("has a name without a letter")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_ours_or_plain() {
        let kind = |name: &str| ServiceType::of(&ServiceName::new(name).unwrap());
        assert_eq!(kind("greeter").unwrap().name(), "_switchboard._tcp");
        assert_eq!(kind("_http._tcp").unwrap().name(), "_http._tcp");
        for bad in [
            "_http",
            "_http._sctp",
            "_._tcp",
            "_a_b._tcp",
            "_-a._tcp",
            "_a--b._tcp",
            "_1._tcp",
            "_abcdefghijklmnop._tcp",
        ] {
            assert!(kind(bad).is_err(), "{bad}");
        }
    }
}
