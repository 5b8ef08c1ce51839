//! A name server that does what a test tells it, over UDP and TCP at one port of loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::Message;
use hickory_resolver::proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// A question.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) name: Name,
    pub(crate) kind: RecordType,
    pub(crate) tcp: bool,
    pub(crate) edns: bool,
    /// Which connection it came by, in their order; 0 for none.
    pub(crate) connection: usize,
}

impl Asked {
    /// The name as it is written, in lower case and without the last dot.
    pub(crate) fn text(&self) -> String {
        self.name.to_lowercase().to_ascii().trim_end_matches('.').to_owned()
    }
}

/// What it is answered.
pub(crate) enum Said {
    Message(Box<Message>),
    /// These bytes, whatever they are; the first two become the question's id.
    Bytes(Vec<u8>),
    Nothing,
}

type Script = dyn Fn(&Asked) -> Said + Send + Sync;

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    script: Arc<Mutex<Arc<Script>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    tcp: Option<JoinSet<()>>,
    _udp: JoinSet<()>,
}

impl Server {
    pub(crate) async fn start(script: impl Fn(&Asked) -> Said + Send + Sync + 'static) -> Self {
        let (udp, listener) = loop {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            // The same port may be taken for the other protocol.
            if let Ok(listener) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, listener);
            }
        };
        let address = udp.local_addr().unwrap();
        let script: Arc<Mutex<Arc<Script>>> = Arc::new(Mutex::new(Arc::new(script)));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        let (says, notes) = (script.clone(), asked.clone());
        tasks.spawn(async move {
            let mut packet = vec![0; 65_536];
            while let Ok((len, peer)) = udp.recv_from(&mut packet).await {
                if let Some(answer) = answer(&packet[..len], 0, &says, &notes) {
                    let _ = udp.send_to(&answer, peer).await;
                }
            }
        });
        let (says, notes) = (script.clone(), asked.clone());
        let mut tcp = JoinSet::new();
        tcp.spawn(async move {
            let mut open = JoinSet::new();
            let mut count = 0;
            while let Ok((stream, _)) = listener.accept().await {
                count += 1;
                open.spawn(serve(stream, count, says.clone(), notes.clone()));
            }
        });
        Self { address, script, asked, tcp: Some(tcp), _udp: tasks }
    }

    /// Answers by another script from now on.
    pub(crate) fn script(&self, script: impl Fn(&Asked) -> Said + Send + Sync + 'static) {
        *self.script.lock().unwrap() = Arc::new(script);
    }

    /// Ends TCP, open connections too.
    pub(crate) async fn without_tcp(&mut self) {
        if let Some(mut tcp) = self.tcp.take() {
            tcp.shutdown().await;
        }
    }

    /// What was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// How often a name was asked for, over TCP or not.
    pub(crate) fn count(&self, tcp: bool) -> usize {
        self.asked().iter().filter(|asked| asked.tcp == tcp).count()
    }
}

async fn serve(
    mut stream: TcpStream,
    connection: usize,
    script: Arc<Mutex<Arc<Script>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
) {
    while let Ok(len) = stream.read_u16().await {
        let mut packet = vec![0; len.into()];
        if stream.read_exact(&mut packet).await.is_err() {
            return;
        }
        if let Some(answer) = answer(&packet, connection, &script, &asked) {
            let framed = [&u16::try_from(answer.len()).unwrap().to_be_bytes()[..], &answer].concat();
            if stream.write_all(&framed).await.is_err() {
                return;
            }
        }
    }
}

fn answer(
    packet: &[u8],
    connection: usize,
    script: &Mutex<Arc<Script>>,
    notes: &Mutex<Vec<Asked>>,
) -> Option<Vec<u8>> {
    let question = Message::from_vec(packet).ok()?;
    let query = question.queries.first()?.clone();
    let (name, kind, edns) = (query.name().clone(), query.query_type(), question.edns.is_some());
    let tcp = connection > 0;
    let asked = Asked { name, kind, tcp, edns, connection };
    notes.lock().unwrap().push(asked.clone());
    let script = script.lock().unwrap().clone();
    match script(&asked) {
        Said::Nothing => None,
        Said::Bytes(mut bytes) => {
            let id = packet[..2].iter();
            bytes.iter_mut().zip(id).for_each(|(byte, id)| *byte = *id);
            Some(bytes)
        }
        Said::Message(mut message) => {
            message.metadata.id = question.metadata.id;
            message.queries = vec![query];
            let bytes = message.to_vec().unwrap();
            if tcp || bytes.len() <= 1232 {
                return Some(bytes);
            }
            message.metadata.truncation = true;
            message.answers.clear();
            message.additionals.clear();
            Some(message.to_vec().unwrap())
        }
    }
}

/// Counts up with each call.
pub(crate) fn counter() -> impl Fn() -> usize + Send + Sync {
    let count = AtomicUsize::new(0);
    move || count.fetch_add(1, Ordering::SeqCst)
}
