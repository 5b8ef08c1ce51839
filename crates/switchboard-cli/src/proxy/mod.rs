//! `proxy`: programs in any language call services by name.
//!
//! A request goes from its `connection` by its `target` to `forward`, which sends it to one instance after the other until one
//! answers. `tunnel` does the same for connections of which nothing is known. Bodies pass piece by piece (`body`); everything
//! that waits has a limit, here (`quiet`, `connection`) or in the call itself.

mod accept;
mod body;
mod connection;
mod forward;
mod headers;
mod http2;
mod known;
mod measures;
mod problem;
mod quiet;
mod settings;
mod target;
mod tunnel;
mod upstream;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use switchboard::ServiceName;
use switchboard::client::{Caller, NotCalled};
use switchboard::metrics::Counter;
use switchboard::selector::PickError;
use switchboard::watcher::Directory;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::commands::register::signals;
use crate::failure::Failure;
use crate::output::{self, Look};
use crate::session::Session;
use accept::{Room, accept};
use body::Body;
use connection::Client;
use forward::{Failed, forward};
use headers::Came;
use known::Known;
use problem::Problem;
pub(crate) use settings::Settings;
use target::{Target, target};
use upstream::Upstreams;

/// What every request needs.
struct Proxy {
    known: Known,
    caller: Caller,
    upstreams: Upstreams,
    hosts: HashMap<String, ServiceName>,
    key_header: Option<HeaderName>,
    connect_timeout: Duration,
    answer_timeout: Duration,
    idle_timeout: Duration,
    /// Its name in `Via`, which no other proxy has.
    name: String,
    metrics: PrometheusHandle,
    refused: Counter,
}

pub(crate) async fn run(session: &Session, settings: &Settings) -> Result<ExitCode, Failure> {
    settings.check()?;
    let metrics = measures::install()?;
    let mut signals = signals()?;
    let (listeners, tunnels) = (settings.bind().await?, settings.bind_tunnels().await?);
    let registry = session.connect().await?;
    let directory = Directory::builder(registry.clone()).ready_timeout(session.timeout).build();
    let selector = settings.selector(directory);
    let proxy = Arc::new(Proxy {
        known: Known::new(registry.clone(), selector.clone(), session.timeout),
        caller: settings.caller(selector),
        upstreams: Upstreams::new(settings.connect_timeout),
        hosts: settings.hosts(),
        key_header: settings.key_header.clone(),
        connect_timeout: settings.connect_timeout,
        answer_timeout: settings.answer_timeout,
        idle_timeout: settings.idle_timeout,
        name: format!("switchboard-{:08x}", fastrand::u32(..)),
        metrics: metrics.clone(),
        refused: measures::refused(),
    });
    announce(session, &listeners, &tunnels)?;

    let (stop, stopping) = watch::channel(false);
    let room = Room::new(settings.connections(), measures::connections());
    let mut serving = JoinSet::new();
    for listener in listeners {
        let (proxy, stop, waiting) = (proxy.clone(), stopping.clone(), room.waiting());
        let serve =
            move |stream, peer| connection::serve(proxy.clone(), stream, peer, stop.clone(), waiting.clone());
        serving.spawn(accept(listener, room.clone(), stopping.clone(), serve));
    }
    for (listener, service) in tunnels {
        let proxy = proxy.clone();
        let serve = move |stream: TcpStream, peer: SocketAddr| {
            tunnel::serve(proxy.clone(), service.clone(), stream, peer)
        };
        serving.spawn(accept(listener, room.clone(), stopping.clone(), serve));
    }
    let mut upkeep = JoinSet::new();
    upkeep.spawn(measures::keep_up(metrics));

    signals.end().await;
    stop.send_replace(true);
    let drained = async { while serving.join_next().await.is_some() {} };
    tokio::select! {
        drained = timeout(settings.drain, drained) => {
            if drained.is_err() {
                let limit = humantime::format_duration(settings.drain);
                output::complain(&format!("what was not over after {limit} is cut off"));
            }
        }
        () = signals.end() => output::complain("a second signal: what was not over is cut off"),
    }
    serving.abort_all();
    // Watches and sockets; nothing was registered.
    let _ = timeout(settings.drain, registry.close()).await;
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct Listening {
    status: &'static str,
    http: Vec<String>,
    tcp: Vec<Through>,
}

#[derive(Serialize)]
struct Through {
    service: String,
    address: String,
}

fn announce(
    session: &Session,
    listeners: &[TcpListener],
    tunnels: &[(TcpListener, ServiceName)],
) -> Result<(), Failure> {
    let at = |listener: &TcpListener| listener.local_addr().map(|address| address.to_string());
    let http: Vec<String> = listeners.iter().map(at).collect::<Result<_, _>>()?;
    let mut tcp = Vec::new();
    for (listener, service) in tunnels {
        tcp.push(Through { service: service.to_string(), address: at(listener)? });
    }
    if session.json {
        output::json_line(&Listening { status: "listening", http, tcp })?;
    } else {
        let port = http.first().and_then(|address| address.rsplit(':').next()).unwrap_or_default();
        let text = format!("listening on {}: http://NAME.localhost:{port}/ is service NAME", http.join(", "));
        output::line(Look::Good, &text)?;
        for Through { service, address } in tcp {
            output::line(
                Look::Good,
                &output::clean(&format!("listening on {address} for service {service}")),
            )?;
        }
    }
    let all = listeners.iter().chain(tunnels.iter().map(|(listener, _)| listener));
    let open = all.filter_map(|listener| listener.local_addr().ok()).find(|at| !at.ip().is_loopback());
    if let Some(open) = open {
        output::complain(&format!(
            "others can reach {open}, and through it every service: nothing asks who they are"
        ));
    }
    Ok(())
}

impl Proxy {
    /// The answer to one request.
    async fn answer(self: Arc<Self>, request: Request<Incoming>, client: Client) -> Response<Body> {
        let (began, busy) = (Instant::now(), client.requests.begin());
        // For a problem that is met later; the request goes on without them.
        let kind = request.headers().get(CONTENT_TYPE).map(|kind| (CONTENT_TYPE, kind.clone()));
        let asked = kind.into_iter().collect();
        let (head, body) = request.into_parts();
        let (target, host) = match self.receive(&head) {
            Ok(received) => received,
            Err(problem) => {
                self.refused.count();
                return problem.answer(&asked);
            }
        };
        let mut request = Request::from_parts(head, body);
        let name = match target {
            Target::Own => return self.own(&request),
            Target::Service(name) => name,
        };
        let service = match self.known.service(&name).await {
            Ok(service) => service,
            Err(problem) => {
                self.refused.count();
                return problem.answer(&asked);
            }
        };
        let method = request.method().clone();
        let came = Came { peer: client.peer, host, version: request.version() };
        let response = if headers::may_go_on(&method, request.headers_mut()) {
            let forwarded = forward(&self, &name, service.clone(), request, came, client, busy).await;
            forwarded.unwrap_or_else(|Failed(problem, instance)| {
                let mut response = problem.answer(&asked);
                forward::say(response.headers_mut(), instance.as_ref());
                response
            })
        } else {
            last(&method)
        };
        service.measures.answered(response.status(), began);
        response
    }

    fn receive(
        &self,
        head: &hyper::http::request::Parts,
    ) -> Result<(Target, hyper::http::uri::Authority), Problem> {
        if head.method == Method::CONNECT {
            return Err(Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "http_request_error",
                "CONNECT is not served",
                "ask for http://NAME.localhost, or use --tcp PORT=SERVICE",
            ));
        }
        target(head, &self.hosts)
    }

    /// An answer of the proxy's own.
    fn own(&self, request: &Request<Incoming>) -> Response<Body> {
        let text = match request.uri().path() {
            _ if request.method() != Method::GET && request.method() != Method::HEAD => {
                let mut response = Response::new(Body::Empty);
                *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                return response;
            }
            "/metrics" => self.metrics.render(),
            "/" => "switchboard proxy: http://NAME.localhost is service NAME, /metrics is for Prometheus\n"
                .into(),
            path => {
                let text = format!("{path:?} is none of /, /metrics");
                return Problem::not_found(text, "ask for http://NAME.localhost to reach a service")
                    .answer(request.headers());
            }
        };
        let mut response = Response::new(Body::from(Bytes::from(text)));
        let plain = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, plain);
        response
    }

    /// No instance could be called. A service without any is looked up anew when it is asked for again.
    fn not_called(&self, name: &ServiceName, error: &NotCalled) -> Problem {
        if let NotCalled::Pick { source: PickError::NotFound { .. }, .. } = error {
            self.known.forget(name);
        }
        Problem::not_called(name, error)
    }
}

/// The answer to a `TRACE` or `OPTIONS` that goes no further.
fn last(method: &Method) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = match *method {
        Method::OPTIONS => StatusCode::NO_CONTENT,
        _ => StatusCode::METHOD_NOT_ALLOWED,
    };
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("OPTIONS"));
    response
}
