//! Signals, in a process of their own.

#![cfg(all(unix, feature = "axum"))]
#![allow(clippy::unwrap_used)] // in helpers of tests too

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use axum::{Router, routing::get};
use rustix::process::{Signal, getpid, kill_process};
use switchboard_core::{MemoryRegistry, Registry, ServiceName};
use switchboard_registrar::Serve;
use tokio::sync::Notify;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_first_signal_deregisters_and_a_second_one_ends_all_at_once() {
    let registry = MemoryRegistry::new();
    let serve = Serve::bind(registry.handle(), "hello", "127.0.0.1:0").await.unwrap();
    let address = serve.instance().address().to_string();
    let begun = Arc::new(Notify::new());
    let begins = begun.clone();
    let app = Router::new().route(
        "/",
        get(move || async move {
            begins.notify_one();
            pending::<()>().await;
        }),
    );
    let server = tokio::spawn(serve.grace(Duration::MAX).axum(app));
    let request = tokio::spawn(reqwest::get(format!("http://{address}/")));
    timeout(LIMIT, begun.notified()).await.unwrap();
    let service = ServiceName::new("hello").unwrap();
    let until = async |count| {
        while registry.lookup(&service).await.unwrap().len() != count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, until(1)).await.unwrap();

    kill_process(getpid(), Signal::TERM).unwrap();
    timeout(LIMIT, until(0)).await.unwrap();
    // What comes at once is the same signal.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!server.is_finished(), "a request is in flight");
    kill_process(getpid(), Signal::TERM).unwrap();
    let error = timeout(LIMIT, server).await.unwrap().unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        "registrar: serve: unavailable: asked to end a second time, before the instance was deregistered and all requests had ended"
    );
    request.abort();
}
