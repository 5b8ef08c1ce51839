//! Who may ask: nobody by a name that is not this server's, and nobody without the token, where there is one.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, COOKIE, HOST, LOCATION, SET_COOKIE, WWW_AUTHENTICATE};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use crate::bounded;
use crate::failure::Failure;

/// Shorter ones can be guessed.
const SHORTEST: usize = 16;

/// On every answer. The page brings all it needs and shows what strangers have registered: nothing else may run in it.
const HEADERS: [(&str, &str); 6] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    ),
    ("x-content-type-options", "nosniff"),
    // An address may hold the token.
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cache-control", "no-store"),
];

/// Who may ask.
#[derive(Debug)]
pub(crate) struct Access {
    token: Option<Token>,
    /// Cookies are of a host, whatever the port: this one is of this server alone.
    cookie: String,
    /// Names beside those that nobody else can have, in lower case.
    names: Vec<String>,
}

struct Token {
    text: String,
    made_up: bool,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Access {
    /// For a server that listens at `address`: beyond loopback always with a token.
    pub(crate) fn new(address: SocketAddr, file: Option<&Path>, names: &[String]) -> Result<Self, Failure> {
        let token = match file {
            Some(file) => Some(Token { text: read(file)?, made_up: false }),
            None if address.ip().is_loopback() => None,
            None => Some(Token { text: random()?, made_up: true }),
        };
        let cookie = format!("switchboard-{}", address.port());
        let names = names.iter().map(|name| plain(name)).collect();
        Ok(Self { token, cookie, names })
    }

    /// Whether it asks for a token.
    pub(crate) fn asks(&self) -> bool {
        self.token.is_some()
    }

    /// The token, if nobody has it yet.
    pub(crate) fn made_up(&self) -> Option<&str> {
        self.token.as_ref().filter(|token| token.made_up).map(|token| token.text.as_str())
    }

    /// Whether this is a name of this server. A page of somebody else's whose name suddenly leads here (DNS rebinding) has
    /// that name; an IP address or `localhost` cannot be anybody's.
    fn knows(&self, host: &str) -> bool {
        let host = plain(host);
        let ip = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host);
        ip.parse::<IpAddr>().is_ok()
            || host == "localhost"
            || host.ends_with(".localhost")
            || self.names.contains(&host)
    }

    fn is_token(&self, given: &str) -> bool {
        self.token.as_ref().is_some_and(|token| given.as_bytes().ct_eq(token.text.as_bytes()).into())
    }

    /// Whether the request may pass: with the token as a bearer's (RFC 6750, section 2.1) or in the cookie.
    fn admits(&self, headers: &HeaderMap) -> bool {
        self.token.is_none()
            || headers.get_all(AUTHORIZATION).iter().filter_map(bearer).any(|given| self.is_token(given))
            || headers
                .get_all(COOKIE)
                .iter()
                .any(|cookies| self.cookies(cookies).any(|given| self.is_token(given)))
    }

    /// What our cookie holds; a browser may send several of the name.
    fn cookies<'a>(&'a self, header: &'a HeaderValue) -> impl Iterator<Item = &'a str> {
        let pairs = header.to_str().unwrap_or_default().split(';');
        pairs
            .filter_map(|pair| pair.trim().split_once('='))
            .filter(|(name, _)| *name == self.cookie)
            .map(|(_, value)| value)
    }

    /// Where a browser that came with `?token=` goes on, with the cookie in place of that.
    fn enter(&self, request: &Request) -> Option<Response> {
        let query = request.uri().query()?;
        let (tokens, others): (Vec<_>, Vec<_>) =
            form_urlencoded::parse(query.as_bytes()).partition(|(key, _)| key == "token");
        let (_, given) = tokens.first()?;
        if !self.is_token(given) {
            return None;
        }
        let others = form_urlencoded::Serializer::new(String::new()).extend_pairs(others).finish();
        let mark = if others.is_empty() { "" } else { "?" };
        // To browsers a path that begins with two slashes, of either kind, is another host.
        let to = format!("/{}{mark}{others}", request.uri().path().trim_start_matches(['/', '\\']));
        let cookie = format!("{}={given}; Path=/; HttpOnly; SameSite=Lax", self.cookie);
        Some((StatusCode::SEE_OTHER, [(LOCATION, to), (SET_COOKIE, cookie)]).into_response())
    }
}

/// Lets through who may ask.
pub(crate) async fn check(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    if let Err(refused) = host(&access, &request) {
        return refused.into_response();
    }
    if let Some(entered) = access.enter(&request) {
        return entered;
    }
    if !access.admits(request.headers()) {
        let why = "a token is asked for: open the address with ?token= that `switchboard serve` printed, or send it as \
                   `Authorization: Bearer TOKEN`\n";
        return (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")], why).into_response();
    }
    next.run(request).await
}

/// Refuses a request that is meant for somebody else.
fn host(access: &Access, request: &Request) -> Result<(), (StatusCode, String)> {
    let written = request.headers().get_all(HOST);
    if written.iter().count() != 1 {
        return Err((StatusCode::BAD_REQUEST, "a request has one Host\n".into()));
    }
    let written = written.iter().map(|host| host.to_str().ok()?.parse::<Authority>().ok());
    for host in written.chain(request.uri().authority().map(|host| Some(host.clone()))) {
        match host {
            Some(host) if access.knows(host.host()) => {}
            Some(host) => {
                let host = host.host();
                let why = format!("{host:?} is no name of this server; if it is, say --allow-host {host}\n");
                return Err((StatusCode::MISDIRECTED_REQUEST, why));
            }
            None => return Err((StatusCode::BAD_REQUEST, "the Host is none\n".into())),
        }
    }
    Ok(())
}

/// Puts the headers on.
pub(crate) async fn harden(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// As names are compared.
fn plain(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

fn bearer(header: &HeaderValue) -> Option<&str> {
    let (scheme, token) = header.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The token in a file: what a cookie can hold (RFC 6265, section 4.1.1).
fn read(file: &Path) -> Result<String, Failure> {
    let said = |what: &str| format!("the token in {}: {what}", file.display());
    let text =
        bounded::text(file).map_err(|error| Failure::failed(said("cannot be read")).because(&error))?;
    let text = text.trim();
    let fits = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | ',' | ';' | '\\');
    if text.len() < SHORTEST {
        return Err(Failure::usage(said(&format!("is shorter than {SHORTEST} characters"))));
    }
    if !text.chars().all(fits) {
        return Err(Failure::usage(said("has other characters than ASCII's letters, digits and most signs")));
    }
    Ok(text.into())
}

/// 128 bits that nobody can guess.
fn random() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| Failure::failed("cannot make up a token").because(&error))?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    }))
}
