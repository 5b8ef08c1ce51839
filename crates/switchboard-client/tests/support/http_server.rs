//! An HTTP server that answers as it is told, and a client to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use switchboard_client::reqwest::Discovery;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// A server that counts requests and answers with what it is told to.
pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) hits: AtomicUsize,
    pub(crate) status: AtomicU16,
}

/// Its answer is its name, the `Host` header and the path; it ends with the test's runtime.
pub(crate) async fn server(name: &'static str) -> Arc<Server> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = Arc::new(Server { address, hits: AtomicUsize::new(0), status: AtomicU16::new(200) });
    let state = server.clone();
    let app = Router::new().fallback(move |request: Request| async move {
        state.hits.fetch_add(1, Relaxed);
        let host = request.headers().get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
        let body = format!("{name} {host} {}", request.uri());
        (StatusCode::from_u16(state.status.load(Relaxed)).unwrap(), body)
    });
    tokio::spawn(async move { axum::serve(listener, app).await });
    server
}

pub(crate) fn client(discovery: Discovery) -> ClientWithMiddleware {
    let plain = reqwest::Client::builder().timeout(Duration::from_secs(5)).build().unwrap();
    ClientBuilder::new(plain).with(discovery).build()
}

/// The client's own error beneath the one that names the service.
pub(crate) fn beneath(error: &reqwest_middleware::Error) -> &reqwest::Error {
    match error {
        reqwest_middleware::Error::Middleware(error) => error.downcast_ref().unwrap(),
        reqwest_middleware::Error::Reqwest(error) => panic!("{error:?}"),
    }
}

pub(crate) async fn text(client: &ClientWithMiddleware, url: &str) -> String {
    client.get(url).send().await.unwrap().text().await.unwrap()
}

/// A server with a certificate for `name`, which answers every request with the name the client sent in TLS.
pub(crate) async fn tls_server(name: &str) -> (String, reqwest::Certificate) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let trusted = reqwest::Certificate::from_der(made.cert.der()).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let named = stream.get_ref().1.server_name().unwrap_or("nobody").to_owned();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..read]).to_lowercase();
            let host = request.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
            let body = format!("{named} {host}");
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all((head + &body).as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    (address, trusted)
}
