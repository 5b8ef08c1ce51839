//! What a real API server cannot be made to do: answers by a script.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use serde_json::{Value, json};
use switchboard_core::{ErrorKind, Instance, RegisterOptions, Registry};
use switchboard_kubernetes::{KubernetesRegistry, Registration};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::reading::{LONG, orders};

/// One answer of the script.
enum Answer {
    /// With this status, at once and whole.
    Json(u16, Value),
    /// A watch with these events, which then ends as it should.
    Events(Vec<Value>),
    /// A watch with this text, which then breaks off.
    Cut(String),
    /// A watch with these events, which goes on without a word.
    Open(Vec<Value>),
    /// Nothing at all.
    Silence,
}

/// A server that answers each request by the next line of the script; the last again and again. Requests are told by their heads.
struct Script {
    folder: TempDir,
    address: SocketAddr,
    requests: mpsc::UnboundedReceiver<String>,
    task: JoinHandle<()>,
}

impl Drop for Script {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Script {
    async fn new(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (told, requests) = mpsc::unbounded_channel();
        let answers = Arc::new(Mutex::new(VecDeque::from(answers)));
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (told, answers) = (told.clone(), answers.clone());
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else { return };
                        head.push(byte);
                    }
                    let answer = {
                        let mut answers = answers.lock().unwrap();
                        match answers.len() {
                            1 => None,
                            _ => answers.pop_front(),
                        }
                    };
                    let _ = told.send(String::from_utf8_lossy(&head).into_owned());
                    if let Some(answer) = answer {
                        answer.send(&mut stream).await;
                    } else {
                        // The last stays.
                        let text = answers.lock().unwrap()[0].text();
                        let _ = stream.write_all(text.as_bytes()).await;
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        let script = Self { folder, address, requests, task };
        script.set_token("first");
        script
    }

    fn set_token(&self, token: &str) {
        let kubeconfig = json!({
            "clusters": [{ "name": "c", "cluster": { "server": format!("http://{}", self.address) } }],
            "users": [{ "name": "u", "user": { "token": token } }],
            "contexts": [{ "name": "x", "context": { "cluster": "c", "user": "u" } }],
            "current-context": "x",
        });
        std::fs::write(self.folder.path().join("kubeconfig"), kubeconfig.to_string()).unwrap();
    }

    fn registry(&self) -> KubernetesRegistry {
        let kubeconfig = self.folder.path().join("kubeconfig");
        KubernetesRegistry::builder().kubeconfig(kubeconfig).settle(Duration::from_millis(50)).open().unwrap()
    }

    async fn request(&mut self) -> String {
        timeout(LONG, self.requests.recv()).await.unwrap().unwrap()
    }
}

impl Answer {
    fn text(&self) -> String {
        let lines = |events: &[Value]| {
            let lines: Vec<String> = events.iter().map(|event| format!("{event}\n")).collect();
            lines.concat()
        };
        let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
        match self {
            Self::Json(status, body) => {
                let body = body.to_string();
                format!(
                    "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                )
            }
            Self::Events(events) => format!("{head}{}0\r\n\r\n", chunk(&lines(events))),
            Self::Cut(text) => format!("{head}{}", chunk(text)),
            Self::Open(events) if events.is_empty() => head.into(),
            Self::Open(events) => format!("{head}{}", chunk(&lines(events))),
            Self::Silence => String::new(),
        }
    }

    async fn send(self, stream: &mut tokio::net::TcpStream) {
        let _ = stream.write_all(self.text().as_bytes()).await;
        if matches!(self, Self::Open(_) | Self::Silence) {
            std::future::pending::<()>().await;
        }
    }
}

fn slice(name: &str, version: u32, pods: &[u32]) -> Value {
    let endpoints: Vec<Value> = pods
        .iter()
        .map(|pod| {
            let target = json!({ "kind": "Pod", "name": format!("p{pod}"), "uid": format!("u{pod}") });
            json!({ "addresses": [format!("10.0.0.{pod}")], "targetRef": target })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": name, "resourceVersion": version.to_string(), "labels": { "kubernetes.io/service-name": "orders" } },
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{ "name": "", "port": 80 }],
    })
}

fn list(version: u32, next: &str, slices: &[Value]) -> Answer {
    let metadata = json!({ "resourceVersion": version.to_string(), "continue": next });
    let body = json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSliceList", "metadata": metadata, "items": slices });
    Answer::Json(200, body)
}

fn gone() -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "too old resource version", "reason": "Expired", "code": 410 })
}

fn failure(code: u16) -> Answer {
    let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "overloaded", "code": code });
    Answer::Json(code, status)
}

fn ids(told: Option<switchboard_core::Result<switchboard_core::Snapshot>>) -> Vec<String> {
    told.unwrap().unwrap().all().iter().map(|instance| instance.id().to_string()).collect()
}

/// The server's history ends, said in both of its ways: all is listed again, and nobody is told.
#[tokio::test]
async fn what_is_gone_is_listed_again_in_silence() {
    let mut script = Script::new(vec![
        list(1, "", &[slice("a", 1, &[1])]),
        Answer::Events(vec![json!({ "type": "ERROR", "object": gone() })]),
        list(5, "", &[slice("a", 5, &[1, 2])]),
        Answer::Json(410, gone()),
        list(9, "", &[slice("a", 9, &[1, 2, 3])]),
        Answer::Open(vec![]),
    ])
    .await;
    let registry = script.registry();
    let mut watch = registry.watch(&orders());
    let mut told = Vec::new();
    while told.len() < 3 {
        told = ids(timeout(LONG, watch.next()).await.unwrap());
    }
    assert_eq!(told, ["u1", "u2", "u3"]);
    let mut lists = 0;
    for _ in 0..6 {
        let request = script.request().await;
        lists += usize::from(!request.contains("watch=true"));
    }
    assert_eq!(lists, 3);
}

/// The server ends watches as a matter of course: it goes on from where it was.
#[tokio::test]
async fn the_end_of_a_watch_is_no_error() {
    let bookmark = json!({ "type": "BOOKMARK", "object": { "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "metadata": { "resourceVersion": "7" } } });
    let mut script = Script::new(vec![
        list(1, "", &[slice("a", 1, &[1])]),
        Answer::Events(vec![bookmark]),
        Answer::Open(vec![json!({ "type": "MODIFIED", "object": slice("a", 8, &[1, 2]) })]),
    ])
    .await;
    let registry = script.registry();
    let mut watch = registry.watch(&orders());
    assert_eq!(ids(timeout(LONG, watch.next()).await.unwrap()), ["u1"]);
    assert_eq!(ids(timeout(LONG, watch.next()).await.unwrap()), ["u1", "u2"]);
    let _list = script.request().await;
    let (first, second) = (script.request().await, script.request().await);
    assert!(first.contains("resourceVersion=1") && first.contains("allowWatchBookmarks=true"), "{first}");
    assert!(second.contains("resourceVersion=7"), "from the bookmark: {second}");
}

/// A watch that breaks off in the middle of an event goes on from what was whole.
#[tokio::test]
async fn a_watch_cut_in_the_middle_goes_on_from_what_was_whole() {
    let half = json!({ "type": "MODIFIED", "object": slice("a", 2, &[]) }).to_string();
    let mut script = Script::new(vec![
        list(1, "", &[slice("a", 1, &[1])]),
        Answer::Cut(half[..half.len() / 2].to_owned()),
        Answer::Open(vec![json!({ "type": "MODIFIED", "object": slice("a", 2, &[1, 2]) })]),
    ])
    .await;
    let registry = script.registry();
    let mut watch = registry.watch(&orders());
    assert_eq!(ids(timeout(LONG, watch.next()).await.unwrap()), ["u1"]);
    assert_eq!(ids(timeout(LONG, watch.next()).await.unwrap()), ["u1", "u2"]);
    for wanted in ["limit=500", "resourceVersion=1", "resourceVersion=1"] {
        let request = script.request().await;
        assert!(request.contains(wanted), "{request}");
    }
}

/// A list of several pages is told when the last is there.
#[tokio::test]
async fn a_list_is_told_when_it_is_whole() {
    let script = Script::new(vec![
        list(1, "more", &[slice("a", 1, &[1])]),
        list(1, "", &[slice("b", 1, &[2])]),
        Answer::Open(vec![]),
    ])
    .await;
    let registry = script.registry();
    let mut watch = registry.watch(&orders());
    assert_eq!(ids(timeout(LONG, watch.next()).await.unwrap()), ["u1", "u2"]);
    drop(watch);
    let script =
        Script::new(vec![list(1, "more", &[slice("a", 1, &[1])]), list(1, "", &[slice("b", 1, &[2])])]).await;
    assert_eq!(script.registry().lookup(&orders()).await.unwrap().len(), 2);
    // A first page without the second is no answer.
    let script = Script::new(vec![list(1, "more", &[slice("a", 1, &[1])]), failure(500)]).await;
    assert!(script.registry().lookup(&orders()).await.unwrap_err().is_transient());
}

/// A server that accepts and says nothing is an outage within the limit on every call.
#[tokio::test]
async fn silence_is_an_outage() {
    let script = Script::new(vec![Answer::Silence]).await;
    let registry = script.registry();
    let mut watch = registry.watch(&orders());
    let orders = orders();
    let (looked_up, watched) = tokio::join!(registry.lookup(&orders), timeout(LONG, watch.next()));
    for error in [looked_up.unwrap_err(), watched.unwrap().unwrap().unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(error.message(), "the API server did not answer within 10s");
    }
}

/// What is no Kubernetes is said to be none, and nothing panics.
#[tokio::test]
async fn what_is_no_api_server_is_told() {
    for body in [
        json!([]),
        json!({ "items": 7 }),
        json!("hello"),
        json!({ "metadata": {}, "items": [{ "metadata": 1 }] }),
    ] {
        let script = Script::new(vec![Answer::Json(200, body.clone())]).await;
        let error = script.registry().lookup(&orders()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{body}: {error}");
    }
    let script = Script::new(vec![Answer::Json(404, json!({ "message": "nobody" }))]).await;
    assert_eq!(script.registry().lookup(&orders()).await.unwrap_err().kind(), ErrorKind::Protocol);
    let empty = KubernetesRegistry::builder().kubeconfig("/no/such/kubeconfig").open().unwrap();
    let error = empty.lookup(&orders()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error.message().starts_with("Kubernetes configuration: cannot be used: failed to read kubeconfig"),
        "{error}"
    );
}

/// Credentials that the server does not know may be others by now: they are read again, for a call and for a watch.
#[tokio::test]
async fn credentials_that_are_refused_are_read_anew() {
    let mut script = Script::new(vec![
        failure(401),
        list(1, "", &[slice("a", 1, &[1])]),
        list(1, "", &[slice("a", 1, &[1])]),
        Answer::Events(vec![json!({ "type": "ERROR", "object": { "kind": "Status", "code": 401 } })]),
        list(2, "", &[slice("a", 2, &[1, 2])]),
        Answer::Open(vec![]),
    ])
    .await;
    let registry = script.registry();
    let denied = registry.lookup(&orders()).await.unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
    assert!(script.request().await.contains("Bearer first"));
    script.set_token("second");
    assert_eq!(registry.lookup(&orders()).await.unwrap().len(), 1);
    assert!(script.request().await.contains("Bearer second"));
    let mut watch = registry.watch(&orders());
    assert_eq!(ids(timeout(LONG, watch.next()).await.unwrap()), ["u1"]);
    script.set_token("third");
    let denied = timeout(LONG, watch.next()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
    assert_eq!(ids(timeout(LONG, watch.next()).await.unwrap()), ["u1", "u2"]);
    for token in ["second", "second", "third"] {
        assert!(script.request().await.contains(&format!("Bearer {token}")));
    }
}

/// An outage is told once, however often it is tried again; another kind of it is news.
#[tokio::test]
async fn an_outage_is_told_once() {
    let mut script =
        Script::new(vec![failure(503), failure(503), failure(503), failure(503), failure(403), failure(403)])
            .await;
    let registry = script.registry();
    let mut watch = registry.watch(&orders());
    let error = timeout(LONG, watch.next()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let error = timeout(LONG, watch.next()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "the next that is told");
    for _ in 0..6 {
        script.request().await;
    }
    assert!(watch.next().now_or_never().is_none());
}

/// Whether a pod was made ready is unknown when the answer is lost: closing makes it not ready.
#[tokio::test]
async fn what_may_be_registered_is_withdrawn() {
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" }, "spec": { "containers": [] } });
    let mut script =
        Script::new(vec![failure(500), Answer::Json(200, pod.clone()), Answer::Json(200, pod)]).await;
    let kubeconfig = script.folder.path().join("kubeconfig");
    let builder = KubernetesRegistry::builder().kubeconfig(kubeconfig).pod("p");
    let registry = builder.registration(Registration::Readiness).open().unwrap();
    let instance = Instance::builder("orders").address("10.0.0.1:80").build().unwrap();
    assert!(registry.register(&instance, &RegisterOptions::new()).await.unwrap_err().is_transient());
    registry.close().await.unwrap();
    registry.close().await.unwrap();
    for _ in 0..2 {
        assert!(script.request().await.starts_with("PATCH /api/v1/namespaces/default/pods/p/status"));
    }
    assert!(script.requests.try_recv().is_err(), "nothing is said twice");
}
