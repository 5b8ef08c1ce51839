//! `proxy`: hosts, instances that fail, limits, the end.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use socket2::SockRef;

use crate::support::agent::Agent;
use crate::support::http::{answering, connect, exchange, get, head, ok, request, server};
use crate::support::proxy::Proxy;
use crate::support::{LIMIT, run};

/// A port where nothing listens.
fn closed() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The status of an answer.
fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or(answer)
}

fn post(host: &str, body: &str) -> String {
    let length = body.len();
    format!("POST / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
}

#[test]
fn a_name_is_a_service_and_what_is_asked_arrives_as_it_is() {
    let proxy = Proxy::start(&["--map", "api.test=Orders"]);
    let echo = || answering(|head, body| ok(&format!("{head}{}", String::from_utf8_lossy(body))));
    let _web = proxy.register("web", "w1", echo(), &[]);
    let _orders = proxy.register("Orders", "o1", echo(), &[]);

    let host = format!("web.localhost:{}", proxy.port);
    let answer = get(proxy.port, &host, "/a/../b%20c?x=1&y");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("\r\nswitchboard-instance: w1"),
        "{answer}"
    );
    assert!(body.starts_with("GET /a/../b%20c?x=1&y HTTP/1.1\r\n"), "{answer}");
    assert!(body.contains(&format!("\r\nhost: {host}\r\n")), "the name is kept: {answer}");
    let forwarded = format!("\r\nforwarded: for=127.0.0.1;host=\"{host}\";proto=http\r\n");
    assert!(body.contains(&forwarded) && body.contains("\r\nvia: 1.1 switchboard-"), "{answer}");
    assert!(!body.contains("connection"), "{answer}");
    assert!(exchange(proxy.port, &post("web.localhost", "hello")).ends_with("hello"));
    assert!(get(proxy.port, "api.test", "/").contains("switchboard-instance: o1"));
    // As programs ask that were told of a proxy; the name needs no resolver then.
    let absolute = "GET http://web.localhost/x HTTP/1.1\r\nhost: other\r\nconnection: close\r\n\r\n";
    assert!(exchange(proxy.port, absolute).contains("\r\nhost: web.localhost\r\n"));

    for (host, expected) in [("example.com", "404"), ("nope.localhost", "404"), ("a b", "400")] {
        let answer = get(proxy.port, host, "/");
        assert_eq!(status(&answer), expected, "{answer}");
        assert!(answer.contains("\r\n\r\nswitchboard: ") && answer.contains("proxy-status"), "{answer}");
    }
    let metrics = get(proxy.port, "127.0.0.1", "/metrics");
    for series in [
        "switchboard_proxy_requests_total{service=\"web\",code=\"2xx\"} 3",
        "switchboard_selector_calls_total{service=\"web\",outcome=\"success\"} 3",
        "switchboard_proxy_refused_total 3",
        "switchboard_proxy_request_duration_seconds_bucket{service=\"web\"",
    ] {
        assert!(metrics.contains(series), "{series} is not in {metrics}");
    }
    assert!(!metrics.contains("nope"), "what is nobody's makes no series");
    assert!(get(proxy.port, "web.localhost", "/metrics").contains("w1"), "it is the service's there");
    assert_eq!(proxy.end().0.code(), Some(0));
}

#[test]
fn what_fails_is_left_out_and_what_may_be_repeated_is() {
    let proxy = Proxy::start(&["--strategy", "round-robin"]);
    let _dead = proxy.register("web", "dead", closed(), &[]);
    let failing = answering(|_, _| "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n".into());
    let _failing = proxy.register("web", "failing", failing, &[]);
    let _well = proxy.register("web", "well", answering(|_, body| ok(&format!("got {}", body.len()))), &[]);
    proxy.until_known("web", 3);

    for _ in 0..20 {
        let answer = get(proxy.port, "web.localhost", "/");
        assert!(status(&answer) == "200" && answer.contains("switchboard-instance: well"), "{answer}");
    }
    // It has had it, so it is not asked of another.
    for _ in 0..20 {
        let answer = exchange(proxy.port, &post("web.localhost", "hello"));
        let well = status(&answer) == "200" && answer.ends_with("got 5");
        assert!(well || status(&answer) == "503" && answer.contains("instance: failing"), "{answer}");
    }
    let metrics = get(proxy.port, "localhost", "/metrics");
    assert!(metrics.contains("switchboard_selector_ejections_total{service=\"web\"}"), "{metrics}");
}

#[test]
fn what_has_reached_nobody_goes_on_with_its_body() {
    let proxy = Proxy::start(&["--strategy", "round-robin"]);
    let _dead = proxy.register("web", "dead", closed(), &[]);
    let _well = proxy.register("web", "well", answering(|_, body| ok(&format!("got {}", body.len()))), &[]);
    proxy.until_known("web", 2);
    let tried = || {
        let metrics = get(proxy.port, "localhost", "/metrics");
        !metrics.contains("switchboard_selector_calls_total{service=\"web\",outcome=\"connection\"} 0")
    };
    let end = Instant::now() + LIMIT;
    loop {
        let answer = exchange(proxy.port, &post("web.localhost", "hello"));
        assert!(answer.ends_with("got 5"), "{answer}");
        if tried() {
            break;
        }
        assert!(Instant::now() < end, "the dead one was never asked");
    }
}

#[test]
fn nobody_to_call_is_told_with_what_to_do() {
    let proxy = Proxy::start(&["--retries", "0"]);
    let _dead = proxy.register("web", "dead", closed(), &[]);
    let answer = get(proxy.port, "web.localhost", "/");
    assert_eq!(status(&answer), "502", "{answer}");
    assert!(answer.contains("dead at 127.0.0.1:") && answer.contains("refused"), "{answer}");
    assert!(answer.contains("\r\nswitchboard-instance: dead\r\n"), "{answer}");
    assert!(answer.contains("proxy-status: switchboard; error=connection_refused"), "{answer}");
    let grpc = "POST /a.B/C HTTP/1.1\r\nhost: nope.localhost\r\ncontent-type: application/grpc\r\n\
                content-length: 0\r\nconnection: close\r\n\r\n";
    let answer = exchange(proxy.port, grpc);
    assert!(status(&answer) == "200" && answer.contains("\r\ngrpc-status: 14\r\n"), "{answer}");
}

#[test]
fn one_that_hangs_costs_its_time_and_no_more() {
    let proxy = Proxy::start(&["--answer-timeout", "500ms"]);
    let (closed, told) = channel();
    let hanging = server(move |mut stream| {
        let _ = request(&mut stream);
        // Until the proxy gives it up.
        let _ = stream.read(&mut [0]);
        let _ = closed.send(());
    });
    let hangs = proxy.register("web", "hangs", hanging, &[]);
    let answer = exchange(proxy.port, &post("web.localhost", "hello"));
    assert_eq!(status(&answer), "504", "{answer}");
    assert!(answer.contains("500ms") && answer.contains("--answer-timeout"), "{answer}");
    told.recv_timeout(LIMIT).expect("the instance is told");
    let _well = proxy.register("web", "well", answering(|_, _| ok("well")), &[]);
    proxy.until_known("web", 2);
    proxy.until_answered("web", "well");
    drop(hangs);
}

#[test]
fn the_time_for_an_answer_begins_when_all_was_sent() {
    let proxy = Proxy::start(&["--answer-timeout", "300ms"]);
    let length = |_: &str, body: &[u8]| ok(&body.len().to_string());
    let _web = proxy.register("web", "w1", answering(length), &[]);
    let mut client = connect(proxy.port);
    client.write_all(b"POST / HTTP/1.1\r\nhost: web.localhost\r\ncontent-length: 30\r\n\r\n").unwrap();
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(300));
        client.write_all(&[b'a'; 10]).unwrap();
    }
    let (head, _) = request(&mut client).unwrap().unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
}

#[test]
fn a_client_that_goes_ends_its_call() {
    let proxy = Proxy::start(&[]);
    let (events, told) = channel();
    let port = server(move |mut stream| {
        let _ = request(&mut stream);
        events.send("asked").unwrap();
        let _ = stream.read(&mut [0]);
        events.send("gone").unwrap();
    });
    let _web = proxy.register("web", "w1", port, &[]);
    let mut client = connect(proxy.port);
    client.write_all(b"GET / HTTP/1.1\r\nhost: web.localhost\r\n\r\n").unwrap();
    assert_eq!(told.recv_timeout(LIMIT), Ok("asked"));
    drop(client);
    assert_eq!(told.recv_timeout(LIMIT), Ok("gone"));
}

#[test]
fn at_the_end_what_is_in_flight_is_finished_and_nothing_more_taken() {
    let proxy = Proxy::start(&[]);
    let (asked, is_asked) = channel();
    let (finish, may_finish) = channel::<()>();
    let may_finish = std::sync::Mutex::new(may_finish);
    let port = answering(move |_, _| {
        asked.send(()).unwrap();
        may_finish.lock().unwrap().recv().unwrap();
        ok("done")
    });
    let _web = proxy.register("web", "w1", port, &[]);
    let mut client = connect(proxy.port);
    client.write_all(b"GET / HTTP/1.1\r\nhost: web.localhost\r\n\r\n").unwrap();
    is_asked.recv_timeout(LIMIT).unwrap();
    let idle = connect(proxy.port);
    proxy.running.signal(Signal::TERM);
    let end = Instant::now() + LIMIT;
    while std::net::TcpStream::connect(("127.0.0.1", proxy.port)).is_ok() {
        assert!(Instant::now() < end, "it goes on listening");
    }
    finish.send(()).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("done") && answer.contains("connection: close"), "{answer}");
    let (status, said) = proxy.running.end();
    assert_eq!((status.code(), said.as_slice()), (Some(0), &[][..]));
    drop(idle);
}

#[test]
fn the_end_has_a_bound_and_a_second_signal_is_the_end() {
    for arguments in [&["--drain", "300ms"][..], &["--drain", "1h"]] {
        let proxy = Proxy::start(arguments);
        let (asked, is_asked) = channel();
        let port = server(move |mut stream| {
            let _ = request(&mut stream);
            asked.send(()).unwrap();
            let _ = stream.read(&mut [0]);
        });
        let _web = proxy.register("web", "w1", port, &[]);
        let mut client = connect(proxy.port);
        client.write_all(b"GET / HTTP/1.1\r\nhost: web.localhost\r\n\r\n").unwrap();
        is_asked.recv_timeout(LIMIT).unwrap();
        proxy.running.signal(Signal::TERM);
        if arguments[1] == "1h" {
            let end = Instant::now() + LIMIT;
            while std::net::TcpStream::connect(("127.0.0.1", proxy.port)).is_ok() {
                assert!(Instant::now() < end, "it goes on listening");
            }
            // Signals that come at once are one.
            std::thread::sleep(Duration::from_millis(300));
            proxy.running.signal(Signal::INT);
        }
        let (status, said) = proxy.running.end();
        assert_eq!(status.code(), Some(0));
        assert!(said.iter().any(|line| line.contains("cut off")), "{said:?}");
    }
}

#[test]
fn more_connections_than_there_may_be_wait() {
    let proxy = Proxy::start(&["--max-connections", "1"]);
    let (asked, is_asked) = channel();
    let (finish, may_finish) = channel::<()>();
    let may_finish = std::sync::Mutex::new(may_finish);
    let port = answering(move |_, _| {
        asked.send(()).unwrap();
        may_finish.lock().unwrap().recv().unwrap();
        ok("hello")
    });
    let _web = proxy.register("web", "w1", port, &[]);
    let mut first = connect(proxy.port);
    first.write_all(b"GET / HTTP/1.1\r\nhost: web.localhost\r\n\r\n").unwrap();
    is_asked.recv_timeout(LIMIT).unwrap();
    let mut second = connect(proxy.port);
    second.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    second.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(second.read(&mut [0]).is_err(), "nobody has answered");
    finish.send(()).unwrap();
    assert!(head(&mut first).unwrap().unwrap().starts_with("HTTP/1.1 200"));
    // The first one is kept for later, and so gives way.
    second.set_read_timeout(Some(LIMIT)).unwrap();
    let mut answer = String::new();
    second.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn a_connection_of_whatever_kind_goes_to_a_service_by_its_port() {
    let proxy =
        Proxy::start(&["--tcp", "0=echo", "--tcp", "127.0.0.1:0=nobody", "--strategy", "round-robin"]);
    let echo = server(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all.reverse();
        stream.write_all(&all).unwrap();
    });
    let _dead = proxy.register("echo", "dead", closed(), &[]);
    let _echo = proxy.register("echo", "e1", echo, &[]);
    proxy.until_known("echo", 2);
    for _ in 0..4 {
        let mut client = connect(proxy.tcp[0]);
        client.write_all(b"\x00\xffabc").unwrap();
        // Each end is passed on by itself.
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"cba\xff\x00");
    }
    let mut nobody = connect(proxy.tcp[1]);
    assert!(nobody.read(&mut [0]).is_err(), "a reset, not an end");
}

#[test]
fn an_end_that_is_none_is_passed_on_as_such() {
    let proxy = Proxy::start(&["--tcp", "0=raw"]);
    let (events, told) = channel();
    let port = server(move |mut stream| {
        let mut first = [0];
        stream.read_exact(&mut first).unwrap();
        let is_upgrade = first == *b"G";
        if is_upgrade {
            head(&mut stream).unwrap();
            stream
                .write_all(b"HTTP/1.1 101 Switching\r\nupgrade: raw\r\nconnection: upgrade\r\n\r\n")
                .unwrap();
            stream.read_exact(&mut first).unwrap();
        }
        stream.write_all(b"part").unwrap();
        match first {
            // Closing breaks the connection.
            [b'b'] => SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap(),
            _ => events.send(stream.read(&mut first).map_err(|error| error.kind())).unwrap(),
        }
    });
    let _raw = proxy.register("raw", "r1", port, &[]);
    let mut by_tcp = || connect(proxy.tcp[0]);
    let mut by_upgrade = || {
        let mut client = connect(proxy.port);
        let ask = b"GET / HTTP/1.1\r\nhost: raw.localhost\r\nupgrade: raw\r\nconnection: upgrade\r\n\r\n";
        client.write_all(ask).unwrap();
        assert!(head(&mut client).unwrap().unwrap().starts_with("HTTP/1.1 101"));
        client
    };
    for begin in [&mut by_tcp as &mut dyn FnMut() -> TcpStream, &mut by_upgrade] {
        let mut client = begin();
        client.write_all(b"b").unwrap();
        let mut said = Vec::new();
        let broken = client.read_to_end(&mut said).map_err(|error| error.kind());
        assert_eq!(broken, Err(ErrorKind::ConnectionReset), "{said:?}");

        let mut client = begin();
        client.write_all(b"e").unwrap();
        client.read_exact(&mut [0; 4]).unwrap();
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        assert_eq!(told.recv_timeout(LIMIT).unwrap(), Err(ErrorKind::ConnectionReset));

        let mut client = begin();
        client.write_all(b"e").unwrap();
        client.read_exact(&mut [0; 4]).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(told.recv_timeout(LIMIT).unwrap(), Ok(0), "an end is one");
    }
}

#[test]
fn a_silent_connection_ends() {
    let proxy = Proxy::start(&["--tcp", "0=quiet", "--idle-timeout", "200ms"]);
    let port = server(|mut stream| drop(stream.read(&mut [0])));
    let _quiet = proxy.register("quiet", "q1", port, &[]);
    let mut client = connect(proxy.tcp[0]);
    let ended = client.read(&mut [0]).map_err(|error| error.kind());
    assert!(matches!(ended, Ok(0) | Err(ErrorKind::ConnectionReset)), "{ended:?}");
}

#[test]
#[ignore = "needs consul"]
fn an_outage_leaves_what_is_known() {
    let mut agent = Agent::dev();
    let proxy = Proxy::of(&agent.url(), &["--timeout", "2s"]);
    let _web = proxy.register("web", "w1", answering(|_, _| ok("hello")), &[]);
    assert!(get(proxy.port, "web.localhost", "/").ends_with("hello"));
    agent.kill();
    let answer = get(proxy.port, "other.localhost", "/");
    assert_eq!(status(&answer), "503", "{answer}");
    assert!(answer.contains("the registry is not heard"), "{answer}");
    assert!(get(proxy.port, "web.localhost", "/").ends_with("hello"));
}

#[test]
#[ignore = "needs consul"]
fn none_that_is_healthy_is_told() {
    let agent = Agent::dev();
    let proxy = Proxy::of(&agent.url(), &[]);
    let _web = proxy.register("web", "w1", answering(|_, _| ok("hello")), &[]);
    assert_eq!(run(&agent.url(), &["maintenance", "on", "web", "w1"]).code, Some(0));
    let end = Instant::now() + LIMIT;
    loop {
        let answer = get(proxy.port, "web.localhost", "/");
        if status(&answer) == "503" && answer.contains("switchboard describe web") {
            break;
        }
        assert!(Instant::now() < end, "{answer}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = busy.local_addr().unwrap().port().to_string();
    let said = run("memory:", &["proxy", "--port", &busy]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("--port chooses another"), "{said:?}");
    for arguments in [
        &["--strategy", "hash"][..],
        &["--key-header", "x-user"],
        &["--tcp", "web"],
        &["--map", "web"],
        &["--listen", "localhost:80"],
    ] {
        let said = run("memory:", &[&["proxy", "--port", "0"], arguments].concat());
        assert_eq!((said.code, said.err.lines().count()), (Some(2), 1), "{said:?}");
    }
}
