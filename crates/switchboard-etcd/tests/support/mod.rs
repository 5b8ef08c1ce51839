//! A real etcd on free loopback ports, and a wire to it that can be cut.

use std::net::{Ipv4Addr, TcpListener as Std};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::{Child, Command};

/// One member of its own cluster.
pub(crate) struct Member {
    pub(crate) address: String,
    _child: Child,
    _data: TempDir,
}

fn free_port() -> u16 {
    Std::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

impl Member {
    pub(crate) async fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let (client, peer) = (free_port(), free_port());
        let (client_url, peer_url) =
            (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        // A shell ends it when this process has gone, however that was.
        let script = r#""$@" & pid=$!; read -r _; kill -9 $pid"#;
        let child = Command::new("sh")
            .args(["-c", script, "sh", "etcd", "--name", "one", "--log-level", "error"])
            .arg("--data-dir")
            .arg(data.path())
            .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("one={peer_url}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let address = format!("127.0.0.1:{client}");
        let up = async {
            loop {
                if let Ok(mut etcd) = etcd_client::Client::connect([&address], None).await {
                    if etcd.put("ready", "", None).await.is_ok() {
                        return;
                    }
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), up).await.expect("etcd comes up");
        Self { address, _child: child, _data: data }
    }
}

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Carries every connection to the server, until cut: then those there are break, and new ones are dropped at once.
pub(crate) struct Proxy {
    pub(crate) address: String,
    cut: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn to(server: String) -> Self {
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

    pub(crate) fn cut(&self) {
        self.cut.send_replace(true);
    }

    pub(crate) fn mend(&self) {
        self.cut.send_replace(false);
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
