//! An HTTP server that answers as a test says, for what a real agent cannot be made to do.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) token: Option<String>,
    pub(crate) at: Instant,
}

/// How it is answered.
pub(crate) enum Reply {
    Full {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: String,
    },
    /// After a pause.
    Late(Duration, Box<Reply>),
    /// When this is no longer set.
    Until(Arc<AtomicBool>, Box<Reply>),
    /// Never.
    Hang,
    /// The connection closes without a word.
    Reset,
    /// The connection closes in the middle of the body.
    Truncated(String),
}

impl Reply {
    pub(crate) fn ok(index: u64, body: &str) -> Self {
        Self::status(200, body).header("X-Consul-Index", index)
    }

    pub(crate) fn status(status: u16, body: &str) -> Self {
        Self::Full { status, headers: Vec::new(), body: body.into() }
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl std::fmt::Display) -> Self {
        if let Self::Full { headers, .. } = &mut self {
            headers.push((name, value.to_string()));
        }
        self
    }
}

pub(crate) struct Server {
    pub(crate) address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    open: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Server {
    /// Answers the nth request, from 0, with what `script` says.
    pub(crate) async fn start(script: impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (log, script) = (asked.clone(), Arc::new(script));
        let open: Arc<AtomicUsize> = Arc::default();
        let count = open.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (served, count) = (serve(stream, log.clone(), script.clone()), count.clone());
                count.fetch_add(1, Ordering::SeqCst);
                connections.spawn(async move {
                    served.await;
                    count.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, asked, open, task }
    }

    /// The connections open now.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut stream: TcpStream,
    log: Arc<Mutex<Vec<Asked>>>,
    script: Arc<impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static>,
) {
    let mut buffer = Vec::new();
    loop {
        let head_end = loop {
            if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            match stream.read_buf(&mut buffer).await {
                Ok(read) if read > 0 => {}
                _ => return,
            }
        };
        let head = String::from_utf8(buffer[..head_end].to_vec()).unwrap();
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let length: usize = header("content-length").map_or(0, |text| text.parse().unwrap());
        while buffer.len() < head_end + length {
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        }
        buffer.drain(..head_end + length);
        let mut words = head.split(' ');
        let asked = Asked {
            method: words.next().unwrap().into(),
            target: words.next().unwrap().into(),
            token: header("x-consul-token"),
            at: Instant::now(),
        };
        let number = {
            let mut log = log.lock().unwrap();
            log.push(asked.clone());
            log.len() - 1
        };
        let mut reply = script(number, &asked);
        loop {
            reply = match reply {
                Reply::Late(pause, then) => {
                    tokio::time::sleep(pause).await;
                    *then
                }
                Reply::Until(stuck, then) => {
                    while stuck.load(Ordering::SeqCst) {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    *then
                }
                other => {
                    reply = other;
                    break;
                }
            };
        }
        let (text, ends) = match reply {
            Reply::Full { status, headers, body } => {
                let headers: Vec<_> =
                    headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                let headers = headers.concat();
                (
                    format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()),
                    false,
                )
            }
            Reply::Truncated(body) => {
                let claimed = body.len() + 100;
                (
                    format!(
                        "HTTP/1.1 200 OK\r\nx-consul-index: 5\r\ncontent-length: {claimed}\r\n\r\n{body}"
                    ),
                    true,
                )
            }
            Reply::Hang => {
                // Until the other side has enough of it.
                let _ = stream.read_buf(&mut buffer).await;
                return;
            }
            Reply::Reset | Reply::Late(..) | Reply::Until(..) => return,
        };
        if stream.write_all(text.as_bytes()).await.is_err() || ends {
            return;
        }
    }
}
