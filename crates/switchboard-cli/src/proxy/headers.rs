//! Header fields on their way through a proxy.

use std::net::SocketAddr;

use hyper::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, Entry, FORWARDED, HOST, HeaderName, HeaderValue,
    MAX_FORWARDS, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE, VIA,
};
use hyper::http::uri::Authority;
use hyper::{HeaderMap, Method, StatusCode, Version};
use switchboard::InstanceId;

use super::problem::Problem;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
/// No field of HTTP's; as a CGI variable it would be the `HTTP_PROXY` of the program behind.
const PROXY: HeaderName = HeaderName::from_static("proxy");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// More has no request: Envoy's `max_headers_count`. hyper counts those of HTTP/1.1.
const FIELDS: usize = 100;

/// Says which instance has answered.
const INSTANCE: HeaderName = HeaderName::from_static("switchboard-instance");

/// Of one connection only (RFC 9110, section 7.6.1), and what is for this proxy (section 11.7).
const OWN: [HeaderName; 9] = [
    CONNECTION,
    PROXY_CONNECTION,
    KEEP_ALIVE,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HTTP2_SETTINGS,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
];

/// How a request came.
#[derive(Clone, Debug)]
pub(crate) struct Came {
    pub(crate) peer: SocketAddr,
    pub(crate) host: Authority,
    pub(crate) version: Version,
}

/// What a request wants of its connection, which is asked of the next one too.
#[derive(Debug, Default)]
pub(crate) struct Wants {
    /// Another protocol.
    pub(crate) upgrade: Option<HeaderValue>,
    trailers: bool,
}

/// Refuses what only the next server would decode. A body whose length could be seen differently does not come here: hyper refuses
/// two lengths that differ, and of a length with a transfer coding keeps the coding and ends the connection after it (RFC 9112,
/// section 6.3).
pub(crate) fn check(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.len() > FIELDS {
        return Err(Problem::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "http_request_error",
            format!("the request has {} header fields", headers.len()),
            format!("send no more than {FIELDS}"),
        ));
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Problem::new(
            StatusCode::NOT_IMPLEMENTED,
            "http_request_error",
            "the request has a transfer coding other than chunked",
            "send the body in chunks, or with its length",
        )),
    }
}

/// Counts a `TRACE` or `OPTIONS` down (RFC 9110, section 7.6.2); false when it goes no further.
pub(crate) fn may_go_on(method: &Method, headers: &mut HeaderMap) -> bool {
    if *method != Method::TRACE && *method != Method::OPTIONS {
        return true;
    }
    let left = headers.get(MAX_FORWARDS).and_then(|left| left.to_str().ok()?.trim().parse::<u32>().ok());
    match left {
        None => true,
        Some(0) => false,
        Some(left) => {
            headers.insert(MAX_FORWARDS, HeaderValue::from(left - 1));
            true
        }
    }
}

/// Makes the headers of a request those to send on.
pub(crate) fn onward(headers: &mut HeaderMap, came: &Came, name: &str) -> Result<Wants, Problem> {
    if has_token(headers, &VIA, |via| via.split_whitespace().nth(1) == Some(name)) {
        return Err(Problem::new(
            StatusCode::LOOP_DETECTED,
            "proxy_loop_detected",
            "the request has come through this proxy before: an instance leads back to it",
            "deregister the instance that is the proxy itself",
        ));
    }
    let wants = Wants {
        upgrade: upgrade(headers, came.version),
        trailers: has_token(headers, &TE, |te| te.eq_ignore_ascii_case("trailers")),
    };
    strip(headers);
    // It is answered here, when the body is wanted.
    headers.remove(EXPECT);
    headers.remove(PROXY);
    join_cookies(headers);
    if let Ok(host) = HeaderValue::from_str(came.host.as_str()) {
        headers.insert(HOST, host);
    }
    forwarded(headers, came);
    via(headers, came.version, name);
    Ok(wants)
}

/// HTTP/2 may carry cookies one by one, which HTTP/1.1 has in one field (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1
        && let Ok(all) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(COOKIE, all);
    }
}

/// Says to the next server what a request wants of the connection, which speaks `version`.
pub(crate) fn want(headers: &mut HeaderMap, wants: &Wants, version: Version) {
    if wants.trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        if version == Version::HTTP_11 {
            headers.append(CONNECTION, HeaderValue::from_static("te"));
        }
    }
    if let Some(protocol) = &wants.upgrade {
        headers.append(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.clone());
    }
    if version == Version::HTTP_2 {
        // It is in `:authority`.
        headers.remove(HOST);
    }
}

/// Makes the headers of a response those to send back.
pub(crate) fn back(headers: &mut HeaderMap, version: Version, name: &str, instance: &InstanceId) {
    if headers.contains_key(TRANSFER_ENCODING) {
        // It says how long the body is (RFC 9112, section 6.3).
        headers.remove(CONTENT_LENGTH);
    }
    if let Some(length) = one_length(headers) {
        headers.insert(CONTENT_LENGTH, length);
    }
    strip(headers);
    via(headers, version, name);
    say_instance(headers, instance);
}

/// The length that is said more than once, in lines or in a list (RFC 9110, section 8.6). hyper has seen that it is the same.
fn one_length(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut lines = headers.get_all(CONTENT_LENGTH).iter();
    let first = lines.next()?.to_str().ok()?;
    let once = lines.next().is_none() && !first.contains(',');
    let length = first.split(',').next().filter(|_| !once)?;
    HeaderValue::from_str(length.trim()).ok()
}

/// Says which instance was called.
pub(crate) fn say_instance(headers: &mut HeaderMap, instance: &InstanceId) {
    match HeaderValue::from_bytes(instance.as_str().as_bytes()) {
        Ok(id) => drop(headers.insert(INSTANCE, id)),
        // Nobody else's word for it.
        Err(_) => drop(headers.remove(INSTANCE)),
    }
}

/// The protocol that is asked for instead of HTTP/1.1.
fn upgrade(headers: &HeaderMap, version: Version) -> Option<HeaderValue> {
    let asked = version == Version::HTTP_11
        && has_token(headers, &CONNECTION, |option| option.eq_ignore_ascii_case("upgrade"));
    // HTTP/2 by this way would be requests that nobody looks at; it is obsolete (RFC 9113, section 3.1).
    let refused = has_token(headers, &UPGRADE, |protocol| {
        protocol.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("h2"))
    });
    headers.get(UPGRADE).filter(|_| asked && !refused).cloned()
}

fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let mut named = Vec::new();
        let _ = has_token(headers, &CONNECTION, |option| {
            named.extend(HeaderName::from_bytes(option.as_bytes()));
            false
        });
        for name in named {
            headers.remove(name);
        }
    }
    for name in &OWN {
        headers.remove(name);
    }
}

/// RFC 7239, and what came before it and is read by more. Only who runs on this machine, such as what ends TLS before it, is
/// believed what it says of those before.
fn forwarded(headers: &mut HeaderMap, came: &Came) {
    let ip = came.peer.ip().to_canonical();
    if !ip.is_loopback() {
        let of_those_before = |name: &&HeaderName| {
            // To what runs as CGI does, both signs are one.
            let plain = name.as_str().replace('_', "-");
            [FORWARDED, FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PROTO].iter().any(|field| *field == *plain)
        };
        let names: Vec<_> = headers.keys().filter(of_those_before).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
    let host = came.host.as_str();
    let node = if ip.is_ipv6() { format!("\"[{ip}]\"") } else { ip.to_string() };
    if let Ok(element) = HeaderValue::from_str(&format!("for={node};host=\"{host}\";proto=http")) {
        headers.append(FORWARDED, element);
    }
    let before: Vec<&[u8]> = headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect();
    let ip = ip.to_string();
    let all = [before, vec![ip.as_bytes()]].concat().join(&b", "[..]);
    if let Ok(all) = HeaderValue::from_bytes(&all) {
        headers.insert(FORWARDED_FOR, all);
    }
    if let (Entry::Vacant(entry), Ok(host)) = (headers.entry(FORWARDED_HOST), HeaderValue::from_str(host)) {
        entry.insert(host);
    }
    headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
}

/// RFC 9110, section 7.6.3.
fn via(headers: &mut HeaderMap, version: Version, name: &str) {
    let version = match version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    };
    if let Ok(via) = HeaderValue::from_str(&format!("{version} {name}")) {
        headers.append(VIA, via);
    }
}

/// Whether one of the list's members, in all lines of this name, is such a one.
fn has_token(headers: &HeaderMap, name: &HeaderName, mut is: impl FnMut(&str) -> bool) -> bool {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|token| is(token.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn came(peer: &str) -> Came {
        Came {
            peer: peer.parse().unwrap(),
            host: Authority::from_static("web.localhost:8080"),
            version: Version::HTTP_11,
        }
    }

    fn all<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
        headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    #[test]
    fn cookies_that_come_one_by_one_go_on_as_one_field() {
        let mut headers = map(&[("cookie", "session=1"), ("cookie", "csrf=2"), ("cookie", "a=b; c=d")]);
        onward(&mut headers, &came("127.0.0.1:5"), "me").unwrap();
        assert_eq!(all(&headers, "cookie"), ["session=1; csrf=2; a=b; c=d"]);
    }

    #[test]
    fn what_is_of_one_connection_stays_behind() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Mine"),
            ("connection", "close"),
            ("x-mine", "1"),
            ("keep-alive", "5"),
            ("te", "gzip"),
            ("proxy-authorization", "secret"),
            ("proxy", "http://evil"),
            ("expect", "100-continue"),
            ("upgrade", "websocket"),
            ("host", "other"),
            ("x-theirs", "2"),
        ]);
        let wants = onward(&mut headers, &came("127.0.0.1:5"), "me").unwrap();
        assert!(wants.upgrade.is_none() && !wants.trailers);
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        let forwarded = ["forwarded", "host", "via", "x-forwarded-for", "x-forwarded-host"];
        assert_eq!(names, [&forwarded[..], &["x-forwarded-proto", "x-theirs"]].concat());
        assert_eq!(all(&headers, "host"), ["web.localhost:8080"]);
        assert_eq!(all(&headers, "forwarded"), ["for=127.0.0.1;host=\"web.localhost:8080\";proto=http"]);
        assert_eq!(all(&headers, "via"), ["1.1 me"]);
    }

    #[test]
    fn who_came_before_is_believed_from_this_machine_only() {
        let before = [
            ("forwarded", "for=192.0.2.7;proto=https"),
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-for", "192.0.2.8"),
            ("x-forwarded-proto", "https"),
            ("x_forwarded_for", "192.0.2.7"),
        ];
        let mut headers = map(&before);
        onward(&mut headers, &came("[::1]:5"), "me").unwrap();
        assert_eq!(all(&headers, "x-forwarded-for"), ["192.0.2.7, 192.0.2.8, ::1"]);
        assert_eq!(all(&headers, "x-forwarded-proto"), ["https"]);
        assert_eq!(all(&headers, "forwarded")[1], "for=\"[::1]\";host=\"web.localhost:8080\";proto=http");

        let mut headers = map(&before);
        onward(&mut headers, &came("192.0.2.9:5"), "me").unwrap();
        assert_eq!(all(&headers, "x-forwarded-for"), ["192.0.2.9"]);
        assert!(!headers.contains_key("x_forwarded_for"), "{headers:?}");
        assert_eq!(all(&headers, "x-forwarded-proto"), ["http"]);
        assert_eq!(all(&headers, "forwarded").len(), 1);
    }

    #[test]
    fn upgrades_and_trailers_are_asked_for_anew_but_not_another_http() {
        let asks =
            |protocol| map(&[("connection", "Upgrade, te"), ("upgrade", protocol), ("te", "trailers")]);
        let mut headers = asks("websocket");
        let wants = onward(&mut headers, &came("127.0.0.1:5"), "me").unwrap();
        want(&mut headers, &wants, Version::HTTP_11);
        assert_eq!(all(&headers, "connection"), ["te", "upgrade"]);
        assert_eq!((all(&headers, "upgrade"), all(&headers, "te")), (vec!["websocket"], vec!["trailers"]));
        for other in ["h2c", "websocket, H2C"] {
            let mut headers = asks(other);
            assert!(onward(&mut headers, &came("127.0.0.1:5"), "me").unwrap().upgrade.is_none(), "{other}");
        }
    }

    #[test]
    fn a_request_that_comes_back_is_refused() {
        let mut headers = map(&[("via", "1.1 other, 1.1 me"), ("via", "1.0 third")]);
        let refused = onward(&mut headers, &came("127.0.0.1:5"), "me").unwrap_err();
        assert_eq!(refused.status().as_u16(), 508);
        assert!(onward(&mut map(&[("via", "1.1 melon")]), &came("127.0.0.1:5"), "me").is_ok());
    }

    #[test]
    fn what_the_next_server_would_have_to_undo_or_count_is_refused() {
        let refused = |fields: &[(&'static str, &'static str)]| {
            check(&map(fields)).err().map(|problem| problem.status().as_u16())
        };
        assert_eq!(refused(&[("transfer-encoding", "Chunked")]), None);
        assert_eq!(refused(&[("content-length", "5")]), None);
        assert_eq!(refused(&[("transfer-encoding", "gzip, chunked")]), Some(501));
        assert_eq!((refused(&[("x", "1"); 100]), refused(&[("x", "1"); 101])), (None, Some(431)));
        assert_eq!(refused(&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]), Some(501));
    }

    #[test]
    fn a_trace_goes_as_far_as_it_may() {
        let mut headers = map(&[("max-forwards", "1")]);
        assert!(may_go_on(&Method::GET, &mut headers.clone()));
        assert!(may_go_on(&Method::TRACE, &mut headers));
        assert_eq!(all(&headers, "max-forwards"), ["0"]);
        assert!(!may_go_on(&Method::OPTIONS, &mut headers));
        assert!(may_go_on(&Method::OPTIONS, &mut map(&[("max-forwards", "x")])));
    }

    #[test]
    fn a_length_is_said_once() {
        for said in [&[("content-length", "3, 3")][..], &[("content-length", "3"); 2]] {
            let mut headers = map(said);
            back(&mut headers, Version::HTTP_11, "me", &InstanceId::new("w1").unwrap());
            assert_eq!(all(&headers, "content-length"), ["3"], "{said:?}");
        }
    }

    #[test]
    fn an_answer_says_which_instance_it_is_of() {
        let mut headers = map(&[
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("switchboard-instance", "another"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
        ]);
        back(&mut headers, Version::HTTP_2, "me", &InstanceId::new("web 1 é").unwrap());
        assert_eq!(headers.len(), 4, "{headers:?}");
        assert_eq!(all(&headers, "set-cookie"), ["a=1", "b=2"]);
        assert_eq!(all(&headers, "via"), ["2 me"]);
        assert_eq!(headers["switchboard-instance"].as_bytes(), "web 1 é".as_bytes());
    }
}
