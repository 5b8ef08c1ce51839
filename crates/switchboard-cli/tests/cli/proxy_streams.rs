//! What lasts: streams both ways, web sockets, gRPC, and that nothing is held back or piles up.

use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::task::Context;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{SinkExt as _, StreamExt as _};
use hyper::body::{Body as _, Incoming};
use hyper::http::uri::PathAndQuery;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tonic::server::StreamingService;
use tonic::transport::{Endpoint, Server};
use tonic::{Status, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_health::server::HealthReporter;
use tonic_prost::ProstCodec;

use crate::support::http::{answering, connect, exchange, get, head, ok, server};
use crate::support::proxy::{Proxy, peak};
use crate::support::{LIMIT, Running};

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    timeout(LIMIT, work).await.expect("in time")
}

#[test]
fn each_piece_goes_on_before_the_next_is_there() {
    let proxy = Proxy::start(&[]);
    let (go_on, may_go_on) = channel();
    let may_go_on = Mutex::new(may_go_on);
    let port = server(move |mut stream| {
        head(&mut stream).unwrap();
        let mut piece = [0; 10];
        // Chunks of an upload that has not ended.
        stream.read_exact(&mut piece).unwrap();
        assert_eq!(&piece, b"5\r\nfirst\r\n");
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n").unwrap();
        let () = may_go_on.lock().unwrap().recv().unwrap();
        stream.write_all(b"3\r\ntwo\r\n0\r\n\r\n").unwrap();
    });
    let _web = proxy.register("web", "w1", port, &[]);
    let mut client = connect(proxy.port);
    let ask = "POST / HTTP/1.1\r\nhost: web.localhost\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n";
    client.write_all(ask.as_bytes()).unwrap();
    assert!(head(&mut client).unwrap().unwrap().starts_with("HTTP/1.1 200"));
    let mut piece = [0; 8];
    client.read_exact(&mut piece).unwrap();
    assert_eq!(&piece, b"3\r\none\r\n");
    go_on.send(()).unwrap();
    client.read_exact(&mut piece).unwrap();
    assert_eq!(&piece, b"3\r\ntwo\r\n");
}

#[test]
fn what_is_not_taken_is_not_taken_in() {
    let proxy = Proxy::start(&[]);
    let (stop, stopped) = channel::<()>();
    let stopped = Mutex::new(stopped);
    let port = server(move |mut stream| {
        let head = head(&mut stream).unwrap().unwrap();
        if head.starts_with("GET") {
            let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 1_u64 << 40);
            stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
            let mut written = 0;
            while let Ok(more) = stream.write(&vec![0; 65536]) {
                written += more;
                assert!(written < 64 << 20, "it is held somewhere");
            }
        } else {
            let _ = stopped.lock().unwrap().recv();
        }
    });
    let _web = proxy.register("web", "w1", port, &[]);
    let mut client = connect(proxy.port);
    write!(client, "PUT / HTTP/1.1\r\nhost: web.localhost\r\ncontent-length: {}\r\n\r\n", 1_u64 << 40)
        .unwrap();
    client.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut written = 0;
    while let Ok(more) = client.write(&vec![0; 65536]) {
        written += more;
        assert!(written < 64 << 20, "it is held somewhere");
    }
    let mut reader = connect(proxy.port);
    reader.write_all(b"GET / HTTP/1.1\r\nhost: web.localhost\r\n\r\n").unwrap();
    assert!(head(&mut reader).unwrap().unwrap().starts_with("HTTP/1.1 200"));
    // The instance has given up writing.
    let memory = std::fs::read_to_string(format!("/proc/{}/status", proxy.running.pid())).unwrap_or_default();
    let resident = memory.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    let kilobytes: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kilobytes < 100_000, "{resident}");
    drop(stop);
}

/// Each way, in MiB.
const HUGE: usize = 512;

#[test]
fn a_huge_body_goes_both_ways_at_once_and_leaves_memory_as_it_was() {
    let proxy = Proxy::start(&[]);
    let port = server(|mut stream| {
        let head = head(&mut stream).unwrap().unwrap();
        let length = head.lines().find(|line| line.starts_with("content-length")).unwrap();
        write!(stream, "HTTP/1.1 200 OK\r\n{length}\r\n\r\n").unwrap();
        // It comes back as it comes.
        let mut piece = vec![0; 1 << 16];
        for _ in 0..HUGE * 16 {
            stream.read_exact(&mut piece).unwrap();
            stream.write_all(&piece).unwrap();
        }
    });
    let _web = proxy.register("web", "w1", port, &[]);
    let mut client = connect(proxy.port);
    write!(client, "PUT / HTTP/1.1\r\nhost: web.localhost\r\ncontent-length: {}\r\n\r\n", HUGE << 20)
        .unwrap();
    let mut writer = client.try_clone().unwrap();
    let written = std::thread::spawn(move || {
        (0..HUGE * 16)
            .all(|piece| writer.write_all(&vec![u8::try_from(piece % 251).unwrap(); 1 << 16]).is_ok())
    });
    assert!(head(&mut client).unwrap().unwrap().starts_with("HTTP/1.1 200"));
    let mut piece = vec![0; 1 << 16];
    for number in 0..HUGE * 16 {
        client.read_exact(&mut piece).unwrap();
        let expected = u8::try_from(number % 251).unwrap();
        assert!(piece.iter().all(|byte| *byte == expected), "piece {number}");
    }
    assert!(written.join().unwrap());
    let peak = peak(proxy.running.pid());
    assert!(peak < 100, "{peak} MiB");
}

#[test]
fn trailers_go_both_ways() {
    let proxy = Proxy::start(&[]);
    let port = server(|mut stream| {
        let head = head(&mut stream).unwrap().unwrap();
        let mut body = vec![0; "5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n".len()];
        stream.read_exact(&mut body).unwrap();
        let told = head.contains("\r\nte: trailers\r\n") && head.contains("\r\ntrailer: x-sum\r\n");
        let sum = u8::from(told && body.ends_with(b"\r\n0\r\nx-sum: 1\r\n\r\n"));
        let answer =
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\n";
        write!(stream, "{answer}x-sum: {sum}\r\n\r\n").unwrap();
    });
    let _web = proxy.register("web", "w1", port, &[]);
    let post = "POST / HTTP/1.1\r\nhost: web.localhost\r\nte: trailers\r\ntrailer: x-sum\r\nconnection: close, te\r\n\
                transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n";
    let answer = exchange(proxy.port, post);
    assert!(answer.ends_with("2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_goes_through() {
    let proxy = Proxy::start(&[]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let echo = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() || message.is_binary() {
                socket.send(message).await.unwrap();
            }
        }
    });
    let _web = proxy.register("web", "w1", port, &[]);
    let stream = TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap();
    let (mut socket, response) =
        in_time(tokio_tungstenite::client_async("ws://web.localhost/chat", stream)).await.unwrap();
    assert_eq!(response.headers()["switchboard-instance"], "w1");
    for message in [Message::text("hello"), Message::binary(vec![7; 1 << 20]), Message::text("")] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(in_time(socket.next()).await.unwrap().unwrap(), message);
    }
    let metrics = tokio::task::spawn_blocking({
        let port = proxy.port;
        move || get(port, "localhost", "/metrics")
    });
    let metrics = metrics.await.unwrap();
    assert!(metrics.contains("switchboard_proxy_tunnels{service=\"web\"} 1"), "{metrics}");
    socket.close(None).await.unwrap();
    while in_time(socket.next()).await.is_some_and(|message| message.is_ok()) {}
    in_time(echo).await.unwrap();
    assert_eq!(proxy.end().0.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_goes_on_by_what_the_instance_speaks() {
    let proxy = Proxy::start(&[]);
    let told = |head: &str, body: &[u8]| ok(&format!("{} {}", head.lines().next().unwrap(), body.len()));
    let _web = proxy.register("web", "w1", answering(told), &[]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = service_fn(|request: Request<Incoming>| async move {
                let said = format!("{:?} {}", request.version(), request.uri());
                Ok::<_, Infallible>(Response::new(said))
            });
            let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(http2.serve_connection(TokioIo::new(stream), answer));
        }
    });
    let _modern = proxy.register("modern", "m1", port, &["--meta", "protocol=h2c"]);

    let stream = TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let ask = |host: &'static str, body: String| {
        let mut sender = sender.clone();
        async move {
            let request = Request::post(format!("http://{host}.localhost/x?y")).body(body).unwrap();
            let mut answer = sender.send_request(request).await.unwrap();
            let mut said = Vec::new();
            let next = |answer: &mut Response<Incoming>, cx: &mut Context<'_>| {
                Pin::new(answer.body_mut()).poll_frame(cx)
            };
            while let Some(frame) = std::future::poll_fn(|cx| next(&mut answer, cx)).await {
                said.extend(frame.unwrap().into_data().unwrap_or_default());
            }
            (answer.status().as_u16(), String::from_utf8(said).unwrap())
        }
    };
    let calls = (0..100).map(|number| ask("web", "a".repeat(number * 1000)));
    for (number, answer) in in_time(futures::future::join_all(calls)).await.into_iter().enumerate() {
        assert_eq!(answer, (200, format!("POST /x?y HTTP/1.1 {}", number * 1000)));
    }
    let modern = in_time(ask("modern", "hello".into())).await;
    assert_eq!(modern, (200, "HTTP/2.0 http://modern.localhost/x?y".into()));
    assert!(get(proxy.port, "modern.localhost", "/").ends_with("HTTP/2.0 http://modern.localhost/"));
    assert_eq!(in_time(ask("nobody", String::new())).await.0, 404);
}

/// gRPC's health service in this process.
async fn health(proxy: &Proxy, id: &str) -> (Running, HealthReporter) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (reporter, service) = tonic_health::server::health_reporter();
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
    (proxy.register("greeter", id, port, &[]), reporter)
}

fn asked(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_goes_through_with_streams_and_statuses() {
    let proxy = Proxy::start(&[]);
    let (_greeter, reporter) = health(&proxy, "g1").await;
    let origin = format!("http://greeter.localhost:{}", proxy.port).parse().unwrap();
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", proxy.port)).unwrap().origin(origin);
    let mut client = HealthClient::new(endpoint.connect().await.unwrap());

    let answer = in_time(client.check(asked(""))).await.unwrap();
    assert_eq!(answer.metadata().get("switchboard-instance").unwrap(), "g1");
    assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
    let unknown = in_time(client.check(asked("nope"))).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound, "the service's own status: {unknown:?}");

    reporter.set_service_status("a", tonic_health::ServingStatus::NotServing).await;
    let mut watch = in_time(client.watch(asked("a"))).await.unwrap().into_inner();
    assert_eq!(in_time(watch.message()).await.unwrap().unwrap().status(), ServingStatus::NotServing);
    for _ in 0..10 {
        for (set, told) in [
            (tonic_health::ServingStatus::Serving, ServingStatus::Serving),
            (tonic_health::ServingStatus::NotServing, ServingStatus::NotServing),
        ] {
            reporter.set_service_status("a", set).await;
            assert_eq!(in_time(watch.message()).await.unwrap().unwrap().status(), told);
        }
    }
    // Many at once on the one connection.
    let calls = (0..200).map(|_| {
        let mut client = client.clone();
        async move { client.check(asked("")).await }
    });
    for answer in in_time(futures::future::join_all(calls)).await {
        answer.unwrap();
    }
    drop(watch);

    let origin = "http://nobody.localhost".parse().unwrap();
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", proxy.port)).unwrap().origin(origin);
    let mut nobody = HealthClient::new(endpoint.connect().await.unwrap());
    let status = in_time(nobody.check(asked(""))).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert!(status.message().contains("the registry has no instance of it"), "{status:?}");
}

/// Answers each message as it comes; at the end, one that is bad ends it with a status and a trailer of its own.
struct Chat;

impl StreamingService<HealthCheckRequest> for Chat {
    type Response = HealthCheckResponse;
    type ResponseStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;
    type Future = std::future::Ready<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<HealthCheckRequest>>) -> Self::Future {
        let answers = request.into_inner().map(|message| match message?.service.as_str() {
            "bad" => {
                let mut status = Status::data_loss("enough");
                status.metadata_mut().insert("x-last", "9".parse().unwrap());
                Err(status)
            }
            said => Ok(HealthCheckResponse { status: i32::try_from(said.len()).unwrap() }),
        });
        std::future::ready(Ok(tonic::Response::new(answers.boxed())))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_stream_goes_both_ways_at_once() {
    let proxy = Proxy::start(&[]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let answer = service_fn(|request: Request<Incoming>| async move {
            let codec = ProstCodec::<HealthCheckResponse, HealthCheckRequest>::default();
            Ok::<_, Infallible>(tonic::server::Grpc::new(codec).streaming(Chat, request).await)
        });
        let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        http2.serve_connection(TokioIo::new(stream), answer).await
    });
    let _chat = proxy.register("chat", "c1", port, &[]);

    let origin = format!("http://chat.localhost:{}", proxy.port).parse().unwrap();
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", proxy.port)).unwrap().origin(origin);
    let mut client = tonic::client::Grpc::new(endpoint.connect().await.unwrap());
    for end in [Ok(()), Err(tonic::Code::DataLoss)] {
        client.ready().await.unwrap();
        let (say, said) = futures::channel::mpsc::unbounded();
        let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
        let path = PathAndQuery::from_static("/test.Chat/Talk");
        let answers = in_time(client.streaming(tonic::Request::new(said), path, codec)).await.unwrap();
        let mut answers = answers.into_inner();
        // Each waits for the one before: nothing is held back.
        for length in 0..1000 {
            say.unbounded_send(asked(&"a".repeat(length))).unwrap();
            let answer: HealthCheckResponse = in_time(answers.message()).await.unwrap().unwrap();
            assert_eq!(answer.status, i32::try_from(length).unwrap());
        }
        if end.is_err() {
            say.unbounded_send(asked("bad")).unwrap();
        }
        drop(say);
        match in_time(answers.message()).await {
            Ok(last) => {
                assert!(last.is_none() && end.is_ok(), "{last:?}");
                assert!(in_time(answers.trailers()).await.unwrap().is_some());
            }
            Err(status) => {
                assert_eq!((Err(status.code()), status.message()), (end, "enough"));
                assert_eq!(status.metadata().get("x-last").unwrap(), "9");
            }
        }
    }
    let metrics =
        tokio::task::spawn_blocking(move || get(proxy.port, "localhost", "/metrics")).await.unwrap();
    for outcome in ["success", "response"] {
        let series = format!("switchboard_selector_calls_total{{service=\"chat\",outcome=\"{outcome}\"}} 1");
        assert!(metrics.contains(&series), "{series} is not in {metrics}");
    }
}
