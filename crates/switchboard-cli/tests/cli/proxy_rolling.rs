//! 20,000 calls through the proxy while servers are restarted one by one: none may fail.

use std::convert::Infallible;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use hyper::Response;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustix::process::Signal;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

use crate::support::proxy::Proxy;
use crate::support::{Running, switchboard, until};

const SERVERS: usize = 4;
const CALLS: usize = 20_000;
const CALLERS: usize = 8;

/// How long a server goes on when it is told to end, in milliseconds.
const LINGER: &str = "LINGER";

/// Not a test: the server process. Ends on SIGTERM, gracefully.
#[test]
#[ignore = "needs to be started by the tests beside it"]
fn server() {
    if let Some(port) = std::env::var("PORT").ok().and_then(|port| port.parse().ok()) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(serve(port));
    }
}

async fn serve(port: u16) {
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let (builder, graceful) = (auto::Builder::new(TokioExecutor::new()), GracefulShutdown::new());
    let spawn = |stream: TcpStream| {
        let answer = service_fn(|_| async { Ok::<_, Infallible>(Response::new("hello".to_owned())) });
        let connection = builder.serve_connection(TokioIo::new(stream), answer);
        tokio::spawn(graceful.watch(connection.into_owned()));
    };
    loop {
        tokio::select! {
            accepted = listener.accept() => spawn(accepted.unwrap().0),
            _ = terminate.recv() => break,
        }
    }
    let linger = std::env::var(LINGER).ok().and_then(|linger| linger.parse().ok());
    if let Some(linger) = linger {
        let end = tokio::time::Instant::now() + Duration::from_millis(linger);
        while let Ok(accepted) = tokio::time::timeout_at(end, listener.accept()).await {
            spawn(accepted.unwrap().0);
        }
    }
    drop(listener);
    // A client that is slow must not keep it for ever.
    let _ = tokio::time::timeout(Duration::from_secs(30), graceful.shutdown()).await;
}

fn start(at: &str, id: &str, linger: Option<u32>) -> Running {
    let this = std::env::current_exe().unwrap();
    let program = [this.to_str().unwrap(), "proxy_rolling::server", "--exact", "--ignored", "--nocapture"];
    let mut command: Command = switchboard(at, &["run", "web", "--id", id, "--host", "127.0.0.1", "--"]);
    command.args(program);
    command.envs(linger.map(|linger| (LINGER, linger.to_string())));
    let running = Running::start(command);
    running.line_with("registered");
    running
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_servers_restart_one_by_one() {
    restart(true, None).await;
}

/// What may be sent once only must not meet a server that has just closed its connections. mDNS takes a second to tell that one
/// has gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_one_that_may_be_sent_once_while_they_go_on_until_it_is_known() {
    restart(false, Some(5000)).await;
}

async fn restart(may_repeat: bool, linger: Option<u32>) {
    let proxy = Proxy::start(&[]);
    let at = proxy.at.clone();
    let servers: Vec<Running> =
        (0..SERVERS).map(|number| start(&at, &format!("w{number}"), linger)).collect();
    let all = |said: &crate::support::Said| said.out.lines().count() == SERVERS;
    until(&at, &["instances", "web", "--no-headers"], all);

    let (restarted, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let restarting = restarted.clone();
    // It waits for processes.
    let restarts = tokio::task::spawn_blocking(move || {
        let mut fresh = Vec::new();
        for (number, server) in servers.into_iter().enumerate() {
            server.signal(Signal::TERM);
            let (status, said) = server.end();
            assert_eq!(status.code(), Some(0), "{said:?}");
            fresh.push(start(&at, &format!("x{number}"), linger));
        }
        restarting.store(true, Relaxed);
        fresh
    });
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap();
    let url = format!("http://127.0.0.1:{}/", proxy.port);
    let callers = (0..CALLERS).map(|_| {
        let (client, url, restarted, made) = (client.clone(), url.clone(), restarted.clone(), made.clone());
        tokio::spawn(async move {
            let mut failed = Vec::new();
            loop {
                let number = made.fetch_add(1, Relaxed);
                if number >= CALLS && restarted.load(Relaxed) {
                    break;
                }
                let call = if may_repeat { client.get(&url) } else { client.post(&url).body("hello") };
                let answer = call.header("host", "web.localhost").send().await;
                match answer {
                    Ok(answer) if answer.status() == 200 => {
                        if answer.text().await.ok().as_deref() != Some("hello") {
                            failed.push("another body".to_owned());
                        }
                    }
                    Ok(answer) => failed.push(answer.text().await.unwrap_or_default()),
                    Err(error) => failed.push(format!("{error:?}")),
                }
            }
            failed
        })
    });
    let failed = futures::future::join_all(callers).await;
    let failed: Vec<String> = failed.into_iter().flat_map(|failed| failed.unwrap()).collect();
    let made = made.load(Relaxed);
    assert!(made >= CALLS && failed.is_empty(), "{} of {made} failed: {failed:#?}", failed.len());
    drop(restarts.await.unwrap());
    assert_eq!(proxy.end().0.code(), Some(0));
}
