//! Servers that do not do what they should. All end with the test's runtime.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;

/// A server that takes no more connections, while this lives.
pub(crate) struct Full {
    pub(crate) address: String,
    _listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

pub(crate) async fn full() -> Full {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    // The kernel answers at once while there is room.
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
    {
        waiting.push(stream.unwrap());
    }
    Full { address: address.to_string(), _listener: listener, _waiting: waiting }
}

/// A server that takes connections and reads, and says nothing.
pub(crate) async fn hanging() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(
                async move { while stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {} },
            );
        }
    });
    address
}

/// A server that takes connections, reads something and closes them.
pub(crate) async fn breaking() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
        }
    });
    address
}

/// An HTTP/2 server that keeps the heads of requests.
#[derive(Clone)]
pub(crate) struct Http2 {
    pub(crate) address: String,
    requests: Arc<Mutex<Vec<http::request::Parts>>>,
}

impl Http2 {
    /// The heads of the requests so far.
    pub(crate) fn requests(&self) -> Vec<http::request::Parts> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// It reads each request and then refuses it.
pub(crate) async fn refusing() -> Http2 {
    http2(|mut response| response.send_reset(Reason::REFUSED_STREAM)).await
}

/// It does what it should: it answers each request, with nothing.
pub(crate) async fn answering() -> Http2 {
    http2(|mut response| drop(response.send_response(http::Response::new(()), true).unwrap())).await
}

/// How a server says that it gives a request up.
#[derive(Clone, Copy, Debug)]
pub(crate) enum GivesUp {
    /// A status without a response.
    Status(&'static str),
    /// A status after the head of a response.
    Trailers(&'static str),
    /// It resets the stream.
    Reset,
}

/// It reads each request and gives it up, as soon as it may.
pub(crate) async fn giving_up(how: GivesUp, may: Arc<Semaphore>) -> Http2 {
    let head = || http::Response::builder().header("content-type", "application/grpc");
    http2(move |mut response| {
        let may = may.clone();
        tokio::spawn(async move {
            let begun = matches!(how, GivesUp::Trailers(_))
                .then(|| response.send_response(head().body(()).unwrap(), false).unwrap());
            may.acquire().await.unwrap().forget();
            match (how, begun) {
                (GivesUp::Trailers(code), Some(mut body)) => {
                    let trailers = head().header("grpc-status", code).body(()).unwrap();
                    body.send_trailers(trailers.into_parts().0.headers).unwrap();
                }
                (GivesUp::Status(code), _) => {
                    let status = head().header("grpc-status", code).body(()).unwrap();
                    response.send_response(status, true).unwrap();
                }
                _ => response.send_reset(Reason::CANCEL),
            }
        });
    })
    .await
}

async fn http2(answer: impl Fn(SendResponse<Bytes>) + Clone + Send + 'static) -> Http2 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = Http2 { address, requests: Arc::default() };
    let requests = server.requests.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (requests, answer) = (requests.clone(), answer.clone());
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, response))) = connection.accept().await {
                    let (head, mut body) = request.into_parts();
                    requests.lock().unwrap_or_else(PoisonError::into_inner).push(head);
                    let answer = answer.clone();
                    tokio::spawn(async move {
                        while let Some(Ok(data)) = body.data().await {
                            body.flow_control().release_capacity(data.len()).unwrap();
                        }
                        answer(response);
                    });
                }
            });
        }
    });
    server
}

/// An HTTP/2 server that closes each connection, saying that it took no request.
pub(crate) async fn leaving() -> String {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    // The last stream that was taken is number 0, and there was no error.
    const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(&SETTINGS).await.unwrap();
                let mut read = 0;
                // The preface, the settings and a part of the request's head are so much.
                while read < 100 {
                    read += stream.read(&mut [0; 4096]).await.unwrap();
                }
                stream.write_all(&GOAWAY).await.unwrap();
                while stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {}
            });
        }
    });
    address
}

/// A way to a server that can fall silent: connections stay, and nothing comes through.
pub(crate) struct Way {
    pub(crate) address: String,
    pub(crate) frozen: Arc<AtomicBool>,
    /// How often something came from the client.
    pub(crate) asked: Arc<AtomicUsize>,
}

pub(crate) async fn way_to(server: &str) -> Way {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let way = Way { address, frozen: Arc::default(), asked: Arc::default() };
    let (server, frozen, asked) = (server.to_owned(), way.frozen.clone(), way.asked.clone());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = TcpStream::connect(&server).await.unwrap().into_split();
            tokio::spawn(pass(from_client, to_server, frozen.clone(), asked.clone()));
            tokio::spawn(pass(from_server, to_client, frozen.clone(), Arc::default()));
        }
    });
    way
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    frozen: Arc<AtomicBool>,
    passed: Arc<AtomicUsize>,
) {
    let mut data = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut data).await {
        passed.fetch_add(1, Relaxed);
        if !frozen.load(Relaxed) && to.write_all(&data[..read]).await.is_err() {
            return;
        }
    }
}
