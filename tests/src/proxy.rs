//! A wire between a client and a server that a test can cut: an outage for the conformance suite.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test fails by panicking")]

use switchboard_conformance::{Outage, async_trait};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Carries every connection to the server, until cut: then those there are break, and new ones are dropped at once.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: String,
    cut: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// In front of the server at this address.
    pub async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let cut = watch::Sender::new(false);
        let state = cut.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(carry(client, server.clone(), state.subscribe()));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, cut, task }
    }

    /// Cuts it.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// Carries again.
    pub fn mend(&self) {
        self.cut.send_replace(false);
    }
}

#[async_trait]
impl Outage for Proxy {
    async fn begin(&self) {
        self.cut();
    }

    async fn end(&self) {
        self.mend();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(mut client: TcpStream, server: String, mut cut: watch::Receiver<bool>) {
    let carried = async {
        if let Ok(mut server) = TcpStream::connect(server).await {
            let _ = copy_bidirectional(&mut client, &mut server).await;
        }
    };
    tokio::select! {
        biased;
        _ = cut.wait_for(|cut| *cut) => {}
        () = carried => {}
    }
}
