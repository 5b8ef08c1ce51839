//! The connections to instances of HTTP/2: how many there are, and that nobody on them waits for another.

use std::future::poll_fn;
use std::io::{self, Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::SendStream;
use h2::client::SendRequest;
use h2::server::SendResponse;
use hyper::{Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::support::LIMIT;
use crate::support::http::{answering, connect, exchange, get, head, ok, server};
use crate::support::proxy::Proxy;

/// A server of HTTP/2 that counts.
#[derive(Clone)]
struct Instance {
    port: u16,
    connections: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    /// `/held` is answered by these.
    may_answer: Arc<Semaphore>,
}

/// `/huge` has no end, what is sent to `/deaf` is not read.
async fn instance(streams: u32) -> Instance {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (connections, open, requests) = Default::default();
    let instance = Instance { port, connections, open, requests, may_answer: Arc::new(Semaphore::new(0)) };
    let Instance { connections, open, requests, may_answer, .. } = instance.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            connections.fetch_add(1, SeqCst);
            open.fetch_add(1, SeqCst);
            let (open, requests, may_answer) = (open.clone(), requests.clone(), may_answer.clone());
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
                open.fetch_sub(1, SeqCst);
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

async fn until(counter: &AtomicUsize, is: usize) {
    let reached = async {
        while counter.load(SeqCst) != is {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, reached).await.unwrap_or_else(|_| panic!("{} is not {is}", counter.load(SeqCst)));
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
    until(&web.requests, 10).await;
    web.may_answer.add_permits(10);
    for call in calls {
        let answer = call.await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert_eq!(web.connections.load(SeqCst), 5);
    asking(move || get(port, "web.localhost", "/")).await;
    assert_eq!(web.connections.load(SeqCst), 5, "they are used again");
    until(&web.open, 1).await;
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

/// A server of HTTP/2 by `serve`, which has the number of each connection, from 0.
async fn serving<F>(serve: impl Fn(usize, TcpStream) -> F + Send + 'static) -> u16
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(number, stream));
        }
    });
    port
}

/// Reads a body, and answers how long it was.
async fn answer(request: Request<h2::RecvStream>, mut respond: SendResponse<Bytes>) {
    let (mut body, mut length) = (request.into_body(), 0);
    while let Some(piece) = body.data().await {
        let Ok(piece) = piece else { return };
        length += piece.len();
        let _ = body.flow_control().release_capacity(piece.len());
    }
    if let Ok(mut answer) = respond.send_response(Response::new(()), false) {
        let _ = answer.send_data(Bytes::from(length.to_string()), true);
    }
}

fn posting(length: usize) -> String {
    let body = "a".repeat(length);
    let head = "POST / HTTP/1.1\r\nhost: web.localhost\r\nconnection: close\r\n";
    format!("{head}content-length: {length}\r\n\r\n{body}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_instance_refuses_goes_on_with_its_body_while_that_is_kept() {
    let proxy = Proxy::start(&[]);
    let refused = Arc::new(AtomicUsize::new(0));
    let port = serving({
        let refused = refused.clone();
        move |_, stream| {
            let refused = refused.clone();
            async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((mut request, mut respond))) = connection.accept().await {
                    // Every other one, when some of the body is there.
                    if refused.fetch_add(1, SeqCst).is_multiple_of(2) {
                        tokio::spawn(async move {
                            let mut length = 0;
                            while length < 60_000
                                && let Some(Ok(piece)) = request.body_mut().data().await
                            {
                                length += piece.len();
                                let _ = request.body_mut().flow_control().release_capacity(piece.len());
                            }
                            respond.send_reset(h2::Reason::REFUSED_STREAM);
                        });
                    } else {
                        tokio::spawn(answer(request, respond));
                    }
                }
            }
        }
    })
    .await;
    let _web = proxy.register("web", "w1", port, &["--meta", "protocol=h2c"]);
    let port = proxy.port;
    asking(move || {
        for length in [0, 1, 20_000, 60_000] {
            let answer = exchange(port, &posting(length));
            let whole = format!("\r\n{length}\r\n0\r\n\r\n");
            assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(&whole), "{length}: {answer}");
        }
    })
    .await;
    assert_eq!(refused.load(SeqCst), 8);
    let answer = asking(move || exchange(port, &posting(2_000_000))).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "what is not kept is sent once: {answer}");
}

/// Says goodbye with the twentieth request of a connection, answers those that came before, and nothing of what comes after, as RFC
/// 9113, section 6.8, has it. h2's own server says there that it has seen what it has not.
fn say_goodbye_often(mut stream: std::net::TcpStream) -> io::Result<()> {
    let frame = |kind: u8, flags: u8, id: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, flags], &id.to_be_bytes()].concat();
        (&stream).write_all(&[&head, payload].concat())
    };
    (&stream).read_exact(&mut [0; 24])?;
    frame(4, 0, 0, &[])?;
    frame(8, 0, 0, &(1_u32 << 24).to_be_bytes())?;
    let (mut served, mut open, mut last) = (0, 0, u32::MAX);
    loop {
        let mut head = [0; 9];
        (&stream).read_exact(&mut head)?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let (length, id) = (u32::from_be_bytes([0, a, b, c]), u32::from_be_bytes(id));
        (&stream).read_exact(&mut vec![0; usize::try_from(length).unwrap()])?;
        match kind {
            1 if id <= last => {
                (served, open) = (served + 1, open + 1);
                if served == 20 {
                    last = id;
                    frame(7, 0, 0, &[id.to_be_bytes(), [0; 4]].concat())?;
                }
            }
            4 if flags == 0 => frame(4, 1, 0, &[])?,
            _ => {}
        }
        if kind < 2 && flags & 1 == 1 && id <= last {
            open -= 1;
            // Its status is 200.
            frame(1, 4, id, &[0x88])?;
            frame(0, 1, id, b"well")?;
        }
        if last != u32::MAX && open == 0 {
            stream.shutdown(std::net::Shutdown::Write)?;
            return io::copy(&mut stream, &mut io::sink()).map(drop);
        }
    }
}

#[test]
fn an_instance_that_says_goodbye_loses_nothing() {
    let proxy = Proxy::start(&["--retries", "10"]);
    let port = server(|stream| drop(say_goodbye_often(stream)));
    let _web = proxy.register("web", "w1", port, &["--meta", "protocol=h2c"]);
    std::thread::scope(|scope| {
        for caller in 0..20 {
            let port = proxy.port;
            scope.spawn(move || {
                for number in 0..60 {
                    let answer = exchange(port, &posting(1 + (caller * 1_000 + number * 100) % 9_000));
                    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("well"), "{answer}");
                }
            });
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_says_nothing_any_more_is_left() {
    let proxy = Proxy::start(&["--answer-timeout", "1500ms"]);
    let port = serving(|number, stream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, respond))) = connection.accept().await {
            if number == 0 && request.uri().path() == "/last" {
                // The connection stays, and nobody is there.
                std::future::pending::<()>().await;
            }
            tokio::spawn(answer(request, respond));
        }
    })
    .await;
    let _web = proxy.register("web", "w1", port, &["--meta", "protocol=h2c"]);
    let port = proxy.port;
    asking(move || {
        assert!(get(port, "web.localhost", "/").starts_with("HTTP/1.1 200"));
        assert!(
            get(port, "web.localhost", "/last").starts_with("HTTP/1.1 200"),
            "the second try is on another"
        );
        assert!(exchange(port, &posting(5)).starts_with("HTTP/1.1 200"));
    })
    .await;
}

#[test]
fn who_does_not_begin_to_speak_http2_is_left_for_another() {
    let proxy = Proxy::start(&["--connect-timeout", "300ms", "--strategy", "round-robin"]);
    let silent = server(|mut stream| while stream.read(&mut [0; 1000]).is_ok_and(|read| read > 0) {});
    let _silent = proxy.register("web", "silent", silent, &["--meta", "protocol=h2c"]);
    let post = "POST / HTTP/1.1\r\nhost: web.localhost\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";
    let answer = exchange(proxy.port, post);
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert!(answer.contains("did not say within 300ms how many requests of HTTP/2 it takes"), "{answer}");
    let _well = proxy.register("web", "well", answering(|_, _| ok("well")), &[]);
    proxy.until_known("web", 2);
    proxy.until_answered("web", "well");
    for _ in 0..4 {
        assert!(exchange(proxy.port, post).ends_with("well"), "nothing was sent, so it goes on");
    }
}
