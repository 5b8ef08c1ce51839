//! `call`: an HTTP request to a picked instance, with curl's habits.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response, Url};
use serde::Serialize;
use switchboard::selector::{Balancer, FailureKind, Pick, Request};
use switchboard::{Instance, InstanceId};
use tokio::time::Instant;

use crate::args;
use crate::bounded;
use crate::failure::Failure;
use crate::output;
use crate::session::{Session, spinning};

/// So many instances are tried before giving up.
const TRIES: usize = 3;

/// As many redirects as curl follows.
const REDIRECTS: usize = 50;

/// The longest answer that `--json` takes; without it there is no limit, as nothing is kept.
const MAX_JSON_BODY: usize = 64 << 20;

/// The longest file that `-d` sends. It is kept, since it may be sent to several instances, without its line ends.
const MAX_DATA: u64 = 256 << 20;

#[derive(Serialize)]
struct Answer<'a> {
    service: &'a str,
    id: &'a str,
    address: String,
    status: u16,
    /// A list each: one may come several times, and cookies cannot be joined (RFC 9110 §5.3).
    headers: BTreeMap<&'a str, Vec<Cow<'a, str>>>,
    #[serde(flatten)]
    body: Body,
}

#[derive(Serialize)]
enum Body {
    #[serde(rename = "body")]
    Text(String),
    /// What is no UTF-8.
    #[serde(rename = "body_base64")]
    Bytes(String),
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes)
            .map_or_else(|error| Self::Bytes(BASE64_STANDARD.encode(error.as_bytes())), Self::Text)
    }
}

pub(crate) async fn run(session: &Session, args: &args::Call) -> Result<ExitCode, Failure> {
    let message = Message::new(args)?;
    if session.json && args.output.is_some() {
        return Err(Failure::usage("--json and -o contradict each other; > writes the JSON into a file"));
    }
    // Through a proxy the request would not go to the instance.
    let client = Client::builder().no_proxy().timeout(session.timeout).user_agent("switchboard");
    let redirects = if args.location { Policy::limited(REDIRECTS) } else { Policy::none() };
    let client = client.redirect(redirects).tls_danger_accept_invalid_certs(args.insecure).build();
    let client = client.map_err(|error| Failure::failed("cannot set up HTTP").because(&error))?;
    let registry = session.connect().await?;
    let balancer = args.choice.balancer(session, registry.clone(), &args.service).await?;

    let started = Instant::now();
    let (pick, response) = message.send(&client, &balancer, args.choice.key.as_deref()).await?;
    let (instance, status) = (pick.instance().clone(), response.status());
    if !args.silent {
        let took = started.elapsed().as_millis();
        output::note(&format!("{} at {} answered {status} in {took} ms", instance.key(), instance.address()));
    }
    let refused = status.is_client_error() || status.is_server_error();
    if refused && args.fail {
        pick.finish(Err(FailureKind::Response));
        return Ok(ExitCode::FAILURE);
    }
    if session.json {
        json(&instance, response).await?;
    } else {
        match &args.output {
            Some(path) => into_file(response, args.include, path).await?,
            None => text(response, args.include, &mut io::stdout()).await?,
        }
    }
    pick.success();
    Ok(ExitCode::SUCCESS)
}

/// What is sent, to whichever instance.
struct Message<'a> {
    scheme: &'static str,
    path: &'a str,
    method: Method,
    headers: HeaderMap,
    body: Option<Bytes>,
}

impl<'a> Message<'a> {
    fn new(args: &'a args::Call) -> Result<Self, Failure> {
        if !args.path.starts_with('/') {
            return Err(Failure::usage(format!("path {:?} does not begin with /", args.path)));
        }
        let mut headers = HeaderMap::new();
        for text in &args.headers {
            let (name, value) = header(text)?;
            headers.append(name, value);
        }
        let body = if args.data.is_empty() { None } else { Some(body(&args.data)?) };
        if body.is_some() && !headers.contains_key(CONTENT_TYPE) {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        }
        let method = match (&args.method, &body) {
            (Some(method), _) => Method::from_bytes(method.as_bytes())
                .map_err(|_| Failure::usage(format!("{method:?} is no HTTP method")))?,
            (None, Some(_)) => Method::POST,
            (None, None) => Method::GET,
        };
        let scheme = if args.https { "https" } else { "http" };
        Ok(Self { scheme, path: &args.path, method, headers, body })
    }

    /// Sends it to one instance after the other until one is reached: an instance that cannot be connected to has not
    /// seen the request, so it can go to another.
    async fn send(
        &self,
        client: &Client,
        balancer: &Balancer,
        key: Option<&str>,
    ) -> Result<(Pick, Response), Failure> {
        let mut tried: Vec<InstanceId> = Vec::new();
        let mut failed: Option<Failure> = None;
        loop {
            let request = Request::new().avoid(&tried);
            let pick = balancer.pick_for(&key.map_or(request, |key| request.key(key)))?;
            if let Some(failure) = failed.take() {
                if tried.contains(pick.id()) {
                    return Err(failure);
                }
                output::complain(&format!("{failure}; trying another"));
            }
            let error = match spinning("waiting for the answer", self.exchange(client, &pick)).await? {
                Ok(response) => return Ok((pick, response)),
                Err(error) => error.without_url(),
            };
            let what = format!("{} at {} did not answer", pick.instance().key(), pick.instance().address());
            let failure = Failure::failed(what).because(&error);
            tried.push(pick.id().clone());
            pick.failure(if error.is_timeout() { FailureKind::Timeout } else { FailureKind::Connection });
            if !error.is_connect() || tried.len() >= TRIES {
                return Err(failure);
            }
            failed = Some(failure);
        }
    }

    async fn exchange(
        &self,
        client: &Client,
        instance: &Instance,
    ) -> Result<reqwest::Result<Response>, Failure> {
        let address = instance.address();
        let host = output::host(address);
        let url = format!("{}://{host}:{}{}", self.scheme, address.port(), self.path);
        let url = Url::parse(&url).map_err(|error| Failure::usage("not a URL").because(&error))?;
        let mut request = client.request(self.method.clone(), url).headers(self.headers.clone());
        if let Some(body) = &self.body {
            request = request.body(body.clone());
        }
        Ok(request.send().await)
    }
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), Failure> {
    // The value is not repeated: it may be a credential.
    let (name, value) =
        text.split_once(':').ok_or_else(|| Failure::usage("-H: a header is not `Name: value`"))?;
    let name: HeaderName =
        name.trim().parse().map_err(|_| Failure::usage(format!("-H: {name:?} is no header name")))?;
    let value = HeaderValue::from_str(value.trim()).map_err(|_| {
        Failure::usage(format!("-H: the value of {name} has a character that is not allowed"))
    })?;
    Ok((name, value))
}

fn body(data: &[String]) -> Result<Bytes, Failure> {
    let parts: Vec<Vec<u8>> = data.iter().map(|part| read(part)).collect::<Result<_, _>>()?;
    Ok(parts.join(&b'&').into())
}

fn read(part: &str) -> Result<Vec<u8>, Failure> {
    let Some(path) = part.strip_prefix('@') else { return Ok(part.into()) };
    let read = if path == "-" { bounded::all(io::stdin(), MAX_DATA) } else { bounded::file(path, MAX_DATA) };
    // As curl does: line ends are for -d's other forms.
    let strip = |bytes: Vec<u8>| bytes.into_iter().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
    read.map(strip).map_err(|error| Failure::failed(format!("-d: cannot read {path}")).because(&error))
}

async fn into_file(response: Response, include: bool, path: &Path) -> Result<(), Failure> {
    let failed =
        |error: &io::Error| Failure::failed(format!("cannot write {}", path.display())).because(error);
    let mut file = File::create(path).map_err(|error| failed(&error))?;
    text(response, include, &mut file).await
}

/// Writes the answer, the body byte for byte: it may be anything.
async fn text(mut response: Response, include: bool, to: &mut impl io::Write) -> Result<(), Failure> {
    if include {
        writeln!(to, "{:?} {}", response.version(), response.status())?;
        for (name, value) in response.headers() {
            writeln!(to, "{name}: {}", shown(value))?;
        }
        writeln!(to)?;
    }
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        to.write_all(&chunk)?;
    }
    to.flush()?;
    Ok(())
}

async fn json(instance: &Instance, mut response: Response) -> Result<(), Failure> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if body.len() + chunk.len() > MAX_JSON_BODY {
            return Err(Failure::failed(format!(
                "the body is longer than {MAX_JSON_BODY} bytes; leave out --json"
            )));
        }
        body.extend_from_slice(&chunk);
    }
    let mut headers: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (name, value) in response.headers() {
        headers.entry(name.as_str()).or_default().push(String::from_utf8_lossy(value.as_bytes()));
    }
    output::json(&Answer {
        service: instance.service().as_str(),
        id: instance.id().as_str(),
        address: instance.address().to_string(),
        status: response.status().as_u16(),
        headers,
        body: body.into(),
    })?;
    Ok(())
}

fn shown(value: &HeaderValue) -> String {
    output::clean(&String::from_utf8_lossy(value.as_bytes()))
}

#[allow(clippy::needless_pass_by_value, reason = "as map_err gives it")]
fn broken(error: reqwest::Error) -> Failure {
    Failure::failed("the answer broke off").because(&error.without_url())
}
