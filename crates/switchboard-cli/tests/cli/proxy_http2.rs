//! The connections to instances of HTTP/2: how many there are, and that nobody on them waits for another.

use std::future::poll_fn;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::SendStream;
use h2::client::SendRequest;
use hyper::{Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::support::LIMIT;
use crate::support::http::{answering, connect, exchange, get, head, ok, server};
use crate::support::proxy::Proxy;

/// A server of HTTP/2 that counts.
struct Instance {
    port: u16,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    /// `/held` is answered by these.
    may_answer: Arc<Semaphore>,
}

/// `/huge` has no end, what is sent to `/deaf` is not read.
async fn instance(streams: u32) -> Instance {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (connections, requests) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let may_answer = Arc::new(Semaphore::new(0));
    let instance = Instance { port, connections, requests, may_answer };
    let Instance { connections, requests, may_answer, .. } = &instance;
    let (connections, requests, may_answer) = (connections.clone(), requests.clone(), may_answer.clone());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            connections.fetch_add(1, SeqCst);
            let (requests, may_answer) = (requests.clone(), may_answer.clone());
            tokio::spawn(async move {
                let mut builder = h2::server::Builder::new();
                let connection = builder.max_concurrent_streams(streams).handshake::<_, Bytes>(stream).await;
                let mut connection = connection.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    requests.fetch_add(1, SeqCst);
                    let may_answer = may_answer.clone();
                    tokio::spawn(async move {
                        let path = request.uri().path().to_owned();
                        match path.as_str() {
                            "/held" => may_answer.acquire().await.unwrap().forget(),
                            "/deaf" => std::future::pending().await,
                            _ => {}
                        }
                        let mut body = respond.send_response(Response::new(()), false).unwrap();
                        if path == "/huge" {
                            send_on(&mut body).await;
                        }
                        let _ = body.send_data(Bytes::from(path), true);
                    });
                }
            });
        }
    });
    instance
}

async fn send_on(body: &mut SendStream<Bytes>) {
    let piece = Bytes::from_static(&[0; 16_384]);
    loop {
        body.reserve_capacity(piece.len());
        let Some(Ok(_)) = poll_fn(|cx| body.poll_capacity(cx)).await else { return };
        if body.send_data(piece.clone(), false).is_err() {
            return;
        }
    }
}

async fn client(port: u16) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

async fn asking<T: Send + 'static>(ask: impl FnOnce() -> T + Send + 'static) -> T {
    timeout(LIMIT, tokio::task::spawn_blocking(ask)).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_has_one_connection_whatever_host_is_asked_for() {
    let proxy = Proxy::start(&["--map", "other.test=web"]);
    let web = instance(100).await;
    let _web = proxy.register("web", "w1", web.port, &["--meta", "protocol=h2c"]);
    let port = proxy.port;
    asking(move || {
        for number in 1..100 {
            for host in ["web.localhost", "other.test"] {
                let answer = get(port, &format!("{host}:{number}"), "/x");
                assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("/x"), "{answer}");
            }
        }
    })
    .await;
    assert_eq!(web.connections.load(SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_connection_comes_when_all_streams_are_taken() {
    let proxy = Proxy::start(&[]);
    let web = instance(2).await;
    let _web = proxy.register("web", "w1", web.port, &["--meta", "protocol=h2c"]);
    let port = proxy.port;
    let calls: Vec<_> =
        (0..10).map(|_| tokio::spawn(asking(move || get(port, "web.localhost", "/held")))).collect();
    let all = async {
        while web.requests.load(SeqCst) < 10 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, all).await.expect("all ten are with the instance at once");
    web.may_answer.add_permits(10);
    for call in calls {
        let answer = call.await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert_eq!(web.connections.load(SeqCst), 5);
    asking(move || get(port, "web.localhost", "/")).await;
    assert_eq!(web.connections.load(SeqCst), 5, "they are used again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_slowly_holds_up_nobody_else() {
    let proxy = Proxy::start(&[]);
    let web = instance(200).await;
    let _web = proxy.register("web", "w1", web.port, &["--meta", "protocol=h2c"]);
    let port = proxy.port;
    asking(move || {
        let slow: Vec<_> = (0..50)
            .map(|_| {
                let mut slow = connect(port);
                slow.write_all(b"GET /huge HTTP/1.1\r\nhost: web.localhost\r\n\r\n").unwrap();
                assert!(head(&mut slow).unwrap().unwrap().starts_with("HTTP/1.1 200"));
                slow
            })
            .collect();
        // What they do not read has filled everything on the way when nothing more comes from the instance.
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(1) {
            assert!(get(port, "web.localhost", "/small").contains("/small"));
        }
        drop(slow);
    })
    .await;
    assert_eq!(web.connections.load(SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_not_read_holds_up_no_other_of_its_client() {
    let proxy = Proxy::start(&[]);
    let deaf = server(|mut stream| {
        let _ = head(&mut stream);
        loop {
            std::thread::park();
        }
    });
    let _deaf = proxy.register("deaf", "d1", deaf, &[]);
    let _web = proxy.register("web", "w1", answering(|_, body| ok(&body.len().to_string())), &[]);
    let mut sender = client(proxy.port).await;
    let mut uploads = Vec::new();
    // More of each than sockets take on the way.
    for _ in 0..8 {
        let request = Request::post("http://deaf.localhost/").body(()).unwrap();
        let (answer, mut body) = sender.send_request(request, false).unwrap();
        body.send_data(Bytes::from(vec![0; 16 << 20]), true).unwrap();
        uploads.push((answer, body));
        sender = timeout(LIMIT, sender.ready()).await.unwrap().unwrap();
    }
    // What is not read has filled everything on the way when nothing more is taken.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        let request = Request::post("http://web.localhost/").body(()).unwrap();
        let (answer, mut body) = sender.send_request(request, false).unwrap();
        body.send_data(Bytes::from(vec![0; 100_000]), true).unwrap();
        let answer = timeout(LIMIT, answer).await.expect("it is not held up").unwrap();
        assert_eq!(answer.status(), 200);
        sender = sender.ready().await.unwrap();
    }
}

#[test]
fn who_does_not_begin_to_speak_http2_is_left_for_another() {
    let proxy = Proxy::start(&["--connect-timeout", "300ms", "--strategy", "round-robin"]);
    let silent = server(|mut stream| while stream.read(&mut [0; 1000]).is_ok_and(|read| read > 0) {});
    let _silent = proxy.register("web", "silent", silent, &["--meta", "protocol=h2c"]);
    let post = "POST / HTTP/1.1\r\nhost: web.localhost\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";
    let answer = exchange(proxy.port, post);
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert!(answer.contains("did not begin to speak HTTP/2 within 300ms"), "{answer}");
    let _well = proxy.register("web", "well", answering(|_, _| ok("well")), &[]);
    let two = |said: &crate::support::Said| said.out.lines().count() == 2;
    crate::support::until(&proxy.at, &["instances", "web", "--no-headers"], two);
    let end = Instant::now() + LIMIT;
    while !get(proxy.port, "web.localhost", "/").ends_with("well") {
        assert!(Instant::now() < end);
    }
    for _ in 0..4 {
        assert!(exchange(proxy.port, post).ends_with("well"), "nothing was sent, so it goes on");
    }
}
