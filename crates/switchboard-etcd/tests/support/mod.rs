//! A real etcd on free loopback ports, and a wire to it that can be cut.

#[path = "../../../switchboard-consul/tests/it/support/proxy.rs"]
mod proxy;

use std::net::{Ipv4Addr, TcpListener as Std};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::{Child, Command};

pub(crate) use proxy::Proxy;

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
