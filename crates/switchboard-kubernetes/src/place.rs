//! Where in a cluster a service of some name is.

use switchboard_core::{Invalid, ServiceName};

/// The most that a label's value may hold, and a DNS label.
const LONGEST: usize = 63;

/// A Service: its name, and its namespace unless that is the registry's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) namespace: Option<String>,
    pub(crate) service: String,
}

impl Place {
    /// `orders.shop` is `orders` in the namespace `shop`, unless there is only one. Every other name is one of the own namespace, for as long as it can be the value
    /// of a label: go-micro's `go.micro.srv.greeter` too, which no Service has and a slice that this registry wrote may.
    pub(crate) fn of(name: &ServiceName, one_namespace: bool) -> Result<Self, Invalid> {
        let text = name.as_str();
        let labels = |(service, namespace): &(&str, &str)| is_dns_label(service) && is_dns_label(namespace);
        if let Some((service, namespace)) = text.split_once('.').filter(|_| !one_namespace).filter(labels) {
            return Ok(Self { namespace: Some(namespace.into()), service: service.into() });
        }
        if text.len() > LONGEST {
            let why = format!("is {} bytes long, the limit of a label's value is {LONGEST}", text.len());
            return Err(Invalid::quoting("service name", text, why));
        }
        if !is_label_value(text) {
            let why = "is no name in Kubernetes: letters, digits, '-', '_' and '.', with a letter or digit at both ends";
            return Err(Invalid::quoting("service name", text, why));
        }
        Ok(Self { namespace: None, service: text.into() })
    }
}

/// RFC 1123's, in lower case, as names of Services and namespaces are.
pub(crate) fn is_dns_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=LONGEST).contains(&text.len())
        && text.chars().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_label_value(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let end = |c: char| c.is_ascii_alphanumeric();
    text.chars().all(inner) && text.starts_with(end) && text.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> Result<Place, Invalid> {
        Place::of(&ServiceName::new(name).unwrap(), false)
    }

    #[test]
    fn a_name_of_two_labels_is_in_another_namespace() {
        let at = |namespace: Option<&str>, service: &str| {
            Ok(Place { namespace: namespace.map(Into::into), service: service.into() })
        };
        assert_eq!(place("orders"), at(None, "orders"));
        assert_eq!(place("orders.shop"), at(Some("shop"), "orders"));
        assert_eq!(place("go.micro.srv.greeter"), at(None, "go.micro.srv.greeter"));
        assert_eq!(place("Orders.shop_1"), at(None, "Orders.shop_1"));
        let one = Place::of(&ServiceName::new("orders.shop").unwrap(), true);
        assert_eq!(one, at(None, "orders.shop"));
    }

    #[test]
    fn what_kubernetes_cannot_name_is_refused_with_the_limit() {
        for name in ["a b", "größe", "a/b", "-a", "a.", "../a"] {
            assert!(place(name).unwrap_err().why().contains("is no name in Kubernetes"), "{name}");
        }
        let why = place(&"n".repeat(64)).unwrap_err();
        assert_eq!(why.why(), "is 64 bytes long, the limit of a label's value is 63");
    }
}
