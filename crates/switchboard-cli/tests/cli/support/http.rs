//! HTTP byte by byte: what well-behaved libraries cannot say.

use std::io::{self, Read, Write as _};
use std::net::{TcpListener, TcpStream};

use super::LIMIT;

/// A server that hands each connection to `serve`, in a thread of its own; gone with the test binary.
pub(crate) fn server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let serve = &serve;
        std::thread::scope(|scope| {
            for stream in listener.incoming().map_while(Result::ok) {
                scope.spawn(move || serve(stream));
            }
        });
    });
    port
}

/// A server that answers each request on a connection with `answer` of its head and body.
pub(crate) fn answering(answer: impl Fn(&str, &[u8]) -> String + Send + Sync + 'static) -> u16 {
    server(move |mut stream| {
        while let Ok(Some((head, body))) = request(&mut stream) {
            let text = answer(&head, &body);
            if stream.write_all(text.as_bytes()).is_err() {
                return;
            }
        }
    })
}

/// A whole answer with a body.
pub(crate) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// The next request, with a body by its length or in chunks; `None` at the end.
pub(crate) fn request(stream: &mut TcpStream) -> io::Result<Option<(String, Vec<u8>)>> {
    let Some(head) = head(stream)? else { return Ok(None) };
    let field = |name: &str| {
        head.lines().find_map(|line| {
            let (is, value) = line.split_once(':')?;
            is.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let mut body = Vec::new();
    if field("transfer-encoding").is_some() {
        loop {
            let size = line(stream)?;
            let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk)?;
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = field("content-length") {
        body = vec![0; length.parse().map_err(io::Error::other)?];
        stream.read_exact(&mut body)?;
    }
    Ok(Some((head, body)))
}

/// The head of a message; `None` at the end.
pub(crate) fn head(stream: &mut TcpStream) -> io::Result<Option<String>> {
    let mut head = String::new();
    loop {
        let line = line(stream)?;
        if line.is_empty() {
            return Ok(None);
        }
        head.push_str(&line);
        if line == "\r\n" {
            return Ok(Some(head));
        }
    }
}

fn line(stream: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte)? > 0 {
        line.push(byte[0]);
        if byte == *b"\n" {
            break;
        }
    }
    String::from_utf8(line).map_err(io::Error::other)
}

pub(crate) fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

/// Sends `text` as it is, and reads until the connection ends.
pub(crate) fn exchange(port: u16, text: &str) -> String {
    let mut stream = connect(port);
    // The server may end it before it has read all.
    let _ = stream.write_all(text.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// GETs a path of a host on a connection of its own.
pub(crate) fn get(port: u16, host: &str, path: &str) -> String {
    exchange(port, &format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"))
}
