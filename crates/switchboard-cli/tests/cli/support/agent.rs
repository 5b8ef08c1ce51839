//! A Consul agent on free loopback ports.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::LIMIT;

/// Kills the agent when its standard input closes, which the kernel sees to however the test ends.
const KEEPER: &str = r#""$@" >/dev/null 2>&1 & pid=$!; read -r _; kill -9 $pid; wait $pid"#;

pub(crate) struct Agent {
    pub(crate) port: u16,
    keeper: Child,
    _dir: tempfile::TempDir,
}

impl Agent {
    /// With a leader, and access control if `hcl` says so.
    pub(crate) fn dev(hcl: &str) -> Self {
        let agent = Self::start(&["-dev"], hcl);
        agent.until("/v1/status/leader", |answer| answer.contains("127.0.0.1:"));
        agent
    }

    /// Waiting for two more servers that never come.
    pub(crate) fn without_leader() -> Self {
        let agent = Self::start(&["-server", "-bootstrap-expect=3"], "");
        agent.until("/v1/status/leader", |answer| answer.contains("200 OK"));
        agent
    }

    fn start(arguments: &[&str], hcl: &str) -> Self {
        let ports = [free_port(), free_port(), free_port()];
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command
            .args(["-c", KEEPER, "sh"])
            .arg(std::env::var("CONSUL_BIN").unwrap_or_else(|_| "consul".into()))
            .args(["agent", "-disable-host-node-id", "-bind=127.0.0.1", "-client=127.0.0.1"])
            .args(["-serf-wan-port=-1", "-dns-port=-1", "-grpc-port=-1"])
            .args(["-hcl", "disable_update_check = true", "-hcl", hcl])
            .arg(format!("-node=n{}", ports[0]))
            .arg(format!("-http-port={}", ports[0]))
            .arg(format!("-server-port={}", ports[1]))
            .arg(format!("-serf-lan-port={}", ports[2]))
            .args(arguments);
        if !arguments.contains(&"-dev") {
            command.arg(format!("-data-dir={}", dir.path().display()));
        }
        let keeper = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        Self { port: ports[0], keeper, _dir: dir }
    }

    pub(crate) fn url(&self) -> String {
        format!("consul://127.0.0.1:{}", self.port)
    }

    /// As `curl` would ask; the whole answer, empty if there is none.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let mut answer = String::new();
        let _ = TcpStream::connect(("127.0.0.1", self.port)).and_then(|mut stream| {
            let length = body.len();
            write!(stream, "{method} {path} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}")?;
            stream.read_to_string(&mut answer)
        });
        answer
    }

    pub(crate) fn until(&self, path: &str, accept: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + LIMIT;
        loop {
            let answer = self.ask("GET", path, "");
            if accept(&answer) {
                return answer;
            }
            assert!(Instant::now() < end, "{path}: {answer}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    pub(crate) fn kill(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Free now, and below the range that outgoing connections take theirs from.
fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(10_000..30_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
