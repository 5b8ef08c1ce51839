//! The name of a service as DNS names.

use hickory_resolver::proto::rr::Name;
use switchboard_core::{Invalid, ServiceName};

/// A name is at most 255 bytes on the wire (RFC 1035, section 2.3.4), which is 253 as it is written.
const MAX_NAME: usize = 253;

const MAX_LABEL: usize = 63;

/// The domain that is appended to names.
pub(crate) fn domain(text: &str) -> Result<Name, Invalid> {
    absolute("domain", text)
}

/// The names to ask for, in order, to find `service`: one if there is a domain, or if it ends in a dot.
pub(crate) fn candidates(
    service: &ServiceName,
    domain: Option<&Name>,
    search: &[Name],
    ndots: usize,
) -> Result<Vec<Name>, Invalid> {
    let text = service.as_str();
    let bare = absolute("service name", text)?;
    let within = |domain: &Name| {
        let too_long = |_| {
            let len = text.len() + 1 + domain.to_ascii().trim_end_matches('.').len();
            let why = format!("is {len} bytes long in the domain {domain}, the limit of DNS is {MAX_NAME}");
            Invalid::quoting("service name", text, why)
        };
        bare.clone().append_domain(domain).map_err(too_long)
    };
    if text.ends_with('.') {
        return Ok(vec![bare]);
    }
    if let Some(domain) = domain {
        return Ok(vec![within(domain)?]);
    }
    // As resolv.conf(5) has it. What gets too long with a domain of the list cannot be there.
    let mut names: Vec<Name> = search.iter().filter_map(|domain| within(domain).ok()).collect();
    let dots = text.bytes().filter(|byte| *byte == b'.').count();
    let at = if dots >= ndots { 0 } else { names.len() };
    names.insert(at, bare);
    Ok(names)
}

/// `text` as an absolute name, with labels as they are.
fn absolute(what: &str, text: &str) -> Result<Name, Invalid> {
    let refuse = |why: String| Err(Invalid::quoting(what, text, why));
    let labels: Vec<&str> = text.strip_suffix('.').unwrap_or(text).split('.').collect();
    if let Some(label) = labels.iter().find(|label| label.len() > MAX_LABEL) {
        return refuse(format!("has a label of {} bytes, the limit of DNS is {MAX_LABEL}", label.len()));
    }
    if labels.iter().any(|label| label.is_empty()) {
        return refuse("has an empty label".into());
    }
    let len = text.trim_end_matches('.').len();
    match Name::from_labels(labels.into_iter().map(str::as_bytes)) {
        Ok(mut name) => {
            name.set_fqdn(true);
            Ok(name)
        }
        Err(_) => refuse(format!("is {len} bytes long, the limit of DNS is {MAX_NAME}")),
    }
}

/// A name as part of an id: in lower case and without the last dot.
pub(crate) fn plain(name: &Name) -> String {
    let mut text = name.to_lowercase().to_ascii();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(
        service: &str,
        domain_: Option<&str>,
        search: &[&str],
        ndots: usize,
    ) -> Result<Vec<String>, Invalid> {
        let service = ServiceName::new(service).unwrap();
        let given = domain_.map(|text| domain(text).unwrap());
        let search: Vec<Name> = search.iter().map(|text| domain(text).unwrap()).collect();
        let names = candidates(&service, given.as_ref(), &search, ndots)?;
        Ok(names.iter().map(Name::to_ascii).collect())
    }

    #[test]
    fn a_domain_makes_one_name_and_a_search_list_several() {
        assert_eq!(names("orders", Some("service.consul"), &["a"], 1).unwrap(), ["orders.service.consul."]);
        assert_eq!(
            names("v2.orders", Some("service.consul."), &[], 1).unwrap(),
            ["v2.orders.service.consul."]
        );
        assert_eq!(names("orders.example.com.", Some("x"), &["a"], 5).unwrap(), ["orders.example.com."]);
        let search = ["ns.svc.cluster.local", "svc.cluster.local"];
        assert_eq!(
            names("orders", None, &search, 5).unwrap(),
            ["orders.ns.svc.cluster.local.", "orders.svc.cluster.local.", "orders."]
        );
        assert_eq!(
            names("a.b", None, &search, 1).unwrap(),
            ["a.b.", "a.b.ns.svc.cluster.local.", "a.b.svc.cluster.local."]
        );
        assert_eq!(names("a.b.c.d.e.f", None, &["x"], 5).unwrap()[0], "a.b.c.d.e.f.");
        assert_eq!(names("orders", None, &[], 1).unwrap(), ["orders."]);
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_limit() {
        for (service, message) in [
            ("a..b", "service name \"a..b\": has an empty label"),
            (".a", "service name \".a\": has an empty label"),
        ] {
            assert_eq!(names(service, None, &[], 1).unwrap_err().to_string(), message);
        }
        let long = names(&"x".repeat(64), None, &[], 1).unwrap_err();
        assert_eq!(long.why(), "has a label of 64 bytes, the limit of DNS is 63");
        let longest = ["x".repeat(63), "x".repeat(63), "x".repeat(63), "x".repeat(61)].join(".");
        assert_eq!(longest.len(), 253);
        assert_eq!(names(&longest, None, &["example"], 1).unwrap().len(), 1);
        let within = names(&longest, Some("example.com"), &[], 1).unwrap_err();
        assert_eq!(within.why(), "is 265 bytes long in the domain example.com., the limit of DNS is 253");
        let long = format!("{longest}x");
        let refused = names(&long, None, &[], 1).unwrap_err();
        assert_eq!(refused.why(), "is 254 bytes long, the limit of DNS is 253");
    }

    #[test]
    fn odd_names_are_labels_as_they_are() {
        for odd in ["a b", "a/b", "größe", "a\"b'c`", "a\\x", "*", "a:b@c"] {
            let service = ServiceName::new(odd).unwrap();
            let name = candidates(&service, Some(&domain("x").unwrap()), &[], 1).unwrap().remove(0);
            assert_eq!(name.iter().next().unwrap(), odd.as_bytes());
        }
    }
}
