//! Clients and instances that mean ill, or are broken, before and behind the proxy.

use std::io::{Read as _, Write as _};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::support::http::{answering, connect, exchange, get, head, ok, server};
use crate::support::proxy::{Proxy, peak};
use crate::support::{LIMIT, Running};

/// A service that tells of each request it gets: its head and body.
fn told(proxy: &Proxy) -> (Running, Receiver<(String, String)>) {
    let (requests, told) = channel();
    let port = answering(move |head, body| {
        let _ = requests.send((head.to_owned(), String::from_utf8_lossy(body).into_owned()));
        ok("fine")
    });
    (proxy.register("web", "w1", port, &[]), told)
}

fn nothing(told: &Receiver<(String, String)>) -> bool {
    told.recv_timeout(Duration::from_millis(200)).is_err()
}

#[test]
fn a_request_that_could_be_read_as_two_is_one_or_none() {
    let proxy = Proxy::start(&[]);
    let (_web, told) = told(&proxy);
    let smuggled = "GET /admin HTTP/1.1\r\nhost: web.localhost\r\n\r\n";
    let post = "POST / HTTP/1.1\r\nhost: web.localhost\r\n";

    // By its chunks, as RFC 9112 has it, and the connection ends: nobody reads what comes after by another rule.
    for lengths in [
        "content-length: 6\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 6\r\n",
    ] {
        let answer = exchange(proxy.port, &format!("{post}{lengths}\r\n3\r\nabc\r\n0\r\n\r\n{smuggled}"));
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
        let (head, body) = told.recv_timeout(LIMIT).unwrap();
        assert_eq!(body, "abc");
        assert!(!head.contains("content-length") || !head.contains("transfer-encoding"), "{head}");
        assert!(nothing(&told));
    }
    for (refused, status) in [
        (format!("{post}content-length: 3\r\ncontent-length: 5\r\n\r\nabcde"), "400"),
        (format!("{post}content-length: +3\r\n\r\nabc"), "400"),
        (format!("{post}content-length: 3, 3\r\n\r\nabc"), "400"),
        (format!("{post}transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n{smuggled}"), "400"),
        (format!("{post}transfer-encoding: xchunked\r\n\r\n0\r\n\r\n{smuggled}"), "400"),
        (format!("{post}transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), "501"),
        (format!("{post}transfer-encoding : chunked\r\n\r\n0\r\n\r\n{smuggled}"), "400"),
        (format!("{post}x-a: 1\r\n folded\r\n\r\n"), "400"),
        (
            "GET / HTTP/1.0\r\nhost: web.localhost\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".into(),
            "400",
        ),
        ("GET / HTTP/1.1\r\n\r\n".into(), "400"),
        ("GET / HTTP/1.1\r\nhost: web.localhost\r\nhost: web.localhost\r\n\r\n".into(), "400"),
        ("GET / HTTP/1.1\r\nhost: web.localhost\0\r\n\r\n".into(), "400"),
        ("GET http://u@web.localhost/ HTTP/1.1\r\nhost: x\r\n\r\n".into(), "400"),
        ("CONNECT web.localhost:80 HTTP/1.1\r\nhost: web.localhost\r\n\r\n".into(), "405"),
        ("\x16\x03\x01\x02\x00\x01\x00".into(), "400"),
    ] {
        // Else it would wait for what may come.
        let refused = refused.replacen("\r\n\r\n", "\r\nconnection: close\r\n\r\n", 1);
        let answer = exchange(proxy.port, &refused);
        assert_eq!(answer.split(' ').nth(1), Some(status), "{refused:?}: {answer}");
        assert!(nothing(&told), "{refused:?}");
    }
}

#[test]
fn heads_have_a_size_and_chunks_are_checked() {
    let proxy = Proxy::start(&[]);
    let (_web, told) = told(&proxy);
    let with = |more: &str| {
        exchange(
            proxy.port,
            &format!("GET / HTTP/1.1\r\nhost: web.localhost\r\nconnection: close\r\n{more}\r\n"),
        )
    };
    assert!(with(&format!("x-a: {}\r\n", "a".repeat(50_000))).starts_with("HTTP/1.1 200"));
    told.recv_timeout(LIMIT).unwrap();
    for huge in [format!("x-a: {}\r\n", "a".repeat(70_000)), "x-a: a\r\n".repeat(101)] {
        let answer = with(&huge);
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    let post = "POST / HTTP/1.1\r\nhost: web.localhost\r\ntransfer-encoding: chunked\r\n\r\n";
    for chunks in ["zz\r\nabc\r\n", "ffffffffffffffffff\r\nabc", "3\r\nabcd\r\n0\r\n\r\n"] {
        let answer = exchange(proxy.port, &format!("{post}{chunks}"));
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    assert!(nothing(&told), "no whole request");
}

#[test]
fn half_a_request_ends_with_its_client() {
    let proxy = Proxy::start(&[]);
    let (events, seen) = channel();
    let port = server(move |mut stream| {
        let head = head(&mut stream).unwrap().unwrap();
        let mut half = [0; 4];
        stream.read_exact(&mut half).unwrap();
        events.send((head.contains("content-length: 100\r\n"), half.to_vec())).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        events.send((false, rest)).unwrap();
    });
    let _web = proxy.register("web", "w1", port, &[]);
    let mut client = connect(proxy.port);
    client.write_all(b"POST / HTTP/1.1\r\nhost: web.localhost\r\ncontent-length: 100\r\n\r\nhalf").unwrap();
    // What is there is passed on at once.
    assert_eq!(seen.recv_timeout(LIMIT), Ok((true, b"half".to_vec())));
    // Closing is what says that no more comes.
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(seen.recv_timeout(LIMIT), Ok((false, Vec::new())));
    drop(client);
    // Heads that never end, and connections that say nothing, keep nobody else from being served.
    let mut open = Vec::new();
    for text in ["", "GET / HT", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.1\r\nhost: web.localhost\r\nx-"] {
        let mut half = connect(proxy.port);
        half.write_all(text.as_bytes()).unwrap();
        open.push(half);
    }
    assert!(get(proxy.port, "localhost", "/").starts_with("HTTP/1.1 200"));
}

#[test]
fn all_places_taken_by_who_asks_for_nothing_are_had_by_who_does() {
    let proxy = Proxy::start(&["--max-connections", "8"]);
    let begun =
        ["", "GET / HT", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/1.1\r\nhost: web.localhost\r\nx-"];
    let open: Vec<_> = begun
        .iter()
        .cycle()
        .take(40)
        .map(|text| {
            let mut half = connect(proxy.port);
            half.write_all(text.as_bytes()).unwrap();
            half
        })
        .collect();
    assert!(get(proxy.port, "localhost", "/").starts_with("HTTP/1.1 200"));
    drop(open);
}

#[tokio::test]
async fn requests_that_are_given_up_at_once_pile_up_nowhere() {
    let proxy = Proxy::start(&[]);
    let (_web, _told) = told(&proxy);
    let port = proxy.port;
    let mut sent = 0;
    while sent < 20_000 {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        // Until the proxy has had enough of it.
        while let Ok(mut sender) = sender.clone().ready().await {
            let request = hyper::Request::get("http://web.localhost/").body(()).unwrap();
            let Ok((answer, _)) = sender.send_request(request, true) else { break };
            // What is dropped before it is on its way is never sent.
            tokio::task::yield_now().await;
            drop(answer);
            sent += 1;
            if sent % 1000 == 0 {
                break;
            }
        }
        drop(sender);
        let _ = tokio::time::timeout(LIMIT, connection).await.expect("it ends");
    }
    let answer = tokio::task::spawn_blocking(move || get(port, "web.localhost", "/")).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let peak = peak(proxy.running.pid());
    assert!(peak < 150, "{peak} MiB");
}

#[test]
fn http2_is_not_had_behind_an_upgrade() {
    let proxy = Proxy::start(&[]);
    let (_web, told) = told(&proxy);
    let ask = "GET / HTTP/1.1\r\nhost: web.localhost\r\nconnection: upgrade, http2-settings, close\r\n\
               upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n";
    assert!(exchange(proxy.port, ask).ends_with("fine"));
    let (head, _) = told.recv_timeout(LIMIT).unwrap();
    assert!(!head.contains("upgrade") && !head.contains("http2-settings"), "{head}");
}

#[test]
fn a_proxy_that_is_its_own_service_is_found_out() {
    let proxy = Proxy::start(&[]);
    let port = proxy.port;
    let _web = proxy.register("web", "w1", port, &[]);
    let answer = get(proxy.port, "web.localhost", "/");
    assert!(answer.starts_with("HTTP/1.1 508") && answer.contains("leads back"), "{answer}");
}

#[test]
fn an_instance_that_is_no_http_server_is_a_bad_gateway() {
    let huge = format!("HTTP/1.1 200 OK\r\nx-a: {}\r\n\r\n", "a".repeat(300_000));
    for (bad, told) in [
        ("SSH-2.0-OpenSSH_9.2\r\n", "invalid HTTP"),
        ("", "connection closed"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", "invalid"),
        ("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", "nobody asked for"),
        (&huge, "too large"),
    ] {
        let proxy = Proxy::start(&["--retries", "0"]);
        let bad = bad.to_owned();
        let port = server(move |mut stream| {
            let _ = head(&mut stream);
            let _ = stream.write_all(bad.as_bytes());
        });
        let _web = proxy.register("web", "w1", port, &[]);
        let answer = get(proxy.port, "web.localhost", "/");
        assert!(answer.starts_with("HTTP/1.1 502") && answer.contains(told), "{told}: {answer:.500}");
    }
}

#[test]
fn an_answer_that_breaks_off_does_not_pass_for_a_whole_one() {
    let proxy = Proxy::start(&[]);
    let (breaks, may_break) = channel();
    let may_break = std::sync::Mutex::new(may_break);
    let port = server(move |mut stream| {
        let head = head(&mut stream).unwrap().unwrap();
        let answer = if head.starts_with("GET /length") {
            "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"
        } else {
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"
        };
        stream.write_all(answer.as_bytes()).unwrap();
        may_break.lock().unwrap().recv_timeout(LIMIT).unwrap();
    });
    let _web = proxy.register("web", "w1", port, &[]);
    for (path, length, half) in
        [("/length", "content-length: 100\r\n", "half"), ("/chunked", "chunked\r\n", "4\r\nhalf\r\n")]
    {
        let mut client = connect(proxy.port);
        write!(client, "GET {path} HTTP/1.1\r\nhost: web.localhost\r\n\r\n").unwrap();
        let head = head(&mut client).unwrap().unwrap();
        assert!(head.contains(length), "{head}");
        let mut body = vec![0; half.len()];
        client.read_exact(&mut body).unwrap();
        breaks.send(()).unwrap();
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest);
        assert_eq!((body.as_slice(), rest.as_slice()), (half.as_bytes(), &[][..]), "no end in chunks either");
    }
}

#[test]
fn of_two_lengths_of_an_answer_the_chunks_count() {
    let proxy = Proxy::start(&[]);
    let port = answering(|_, _| {
        "HTTP/1.1 200 OK\r\ncontent-length: 50\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
            .into()
    });
    let _web = proxy.register("web", "w1", port, &[]);
    let answer = get(proxy.port, "web.localhost", "/");
    assert!(!answer.contains("content-length") && answer.ends_with("2\r\nok\r\n0\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn who_takes_nothing_of_an_answer_by_http2_does_not_keep_the_instance() {
    let proxy = Proxy::start(&["--idle-timeout", "300ms"]);
    let (events, seen) = channel();
    let port = server(move |mut stream| {
        head(&mut stream).unwrap();
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n");
        while stream.write_all(&[0; 8192]).is_ok() {}
        events.send(()).unwrap();
    });
    let _web = proxy.register("web", "w1", port, &[]);
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap();
    let client = h2::client::Builder::new().initial_window_size(0).handshake::<_, bytes::Bytes>(stream);
    let (sender, connection) = client.await.unwrap();
    let connection = tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let request = hyper::Request::get("http://web.localhost/").body(()).unwrap();
    let (answer, _) = sender.send_request(request, true).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 200);
    // It answers pings all the while.
    tokio::task::spawn_blocking(move || seen.recv_timeout(LIMIT)).await.unwrap().expect("it is told");
    drop((answer, connection));
}

#[tokio::test]
async fn an_instance_that_takes_nothing_by_http2_has_its_time_and_no_more() {
    let proxy = Proxy::start(&["--idle-timeout", "300ms", "--answer-timeout", "300ms"]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let server = h2::server::Builder::new().initial_window_size(0).handshake::<_, bytes::Bytes>(stream);
        let mut server = server.await.unwrap();
        let mut held = Vec::new();
        while let Some(Ok(request)) = server.accept().await {
            held.push(request);
        }
    });
    let _web = proxy.register("web", "w1", port, &["--meta", "protocol=h2c"]);
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let request = hyper::Request::post("http://web.localhost/").body(()).unwrap();
    let (answer, mut body) = sender.send_request(request, false).unwrap();
    body.send_data(bytes::Bytes::from(vec![0; 10_000]), true).unwrap();
    let answer = tokio::time::timeout(LIMIT, answer).await.unwrap().unwrap();
    assert_eq!(answer.status(), 504);
}
