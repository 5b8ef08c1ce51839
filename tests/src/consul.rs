//! Real Consul agents on free loopback ports.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test fails by panicking")]

mod cluster;

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use reqwest::StatusCode;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

pub use cluster::Cluster;

use crate::port::free_port;

/// The longest anything may take here; far more than it does.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Ends with the test, however the test ends: a shell holds the agent and kills it when its standard input closes,
/// which the kernel does for a test that was killed. It removes the files too, unless a line asks for another start.
pub(crate) const KEEPER: &str = r#""$@" >>"$AGENT_DIR/log" 2>&1 & pid=$!
echo $pid >"$AGENT_DIR/pid"
if read -r _; then again=1; fi
kill -9 $pid 2>/dev/null
wait $pid
[ -n "$again" ] || rm -rf "$AGENT_DIR""#;

/// A running Consul agent; killed when dropped.
#[derive(Debug)]
pub struct Agent {
    /// The port of its HTTP API, or of HTTPS if that is what it speaks.
    pub http: u16,
    server: u16,
    serf: u16,
    dns: Option<u16>,
    arguments: Vec<String>,
    keeper: Option<Child>,
    dir: TempDir,
    /// A client that it accepts.
    pub client: reqwest::Client,
    scheme: &'static str,
    token: Option<&'static str>,
}

fn binary() -> String {
    std::env::var("CONSUL_BIN").unwrap_or_else(|_| "consul".into())
}

/// The version of the agents, such as `1.22.5`.
pub fn version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| {
        let said = Command::new(binary()).arg("version").output().expect("consul, or CONSUL_BIN");
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        said.trim_start_matches("Consul v").split_whitespace().next().unwrap().to_owned()
    })
}

/// Whether the agents are of this version or newer.
pub fn is_at_least(major: u32, minor: u32) -> bool {
    let mut numbers = version().split('.').map(|number| number.parse::<u32>().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap()) >= (major, minor)
}

impl Agent {
    /// A dev agent: one server, nothing on disk.
    pub async fn dev() -> Self {
        Self::dev_with("").await
    }

    /// A dev agent with more configuration.
    pub async fn dev_with(hcl: &str) -> Self {
        let mut agent = Self::new();
        agent.arguments.push("-dev".into());
        agent.hcl(hcl);
        agent.start();
        agent.ready().await;
        agent
    }

    /// A dev agent that is a name server too.
    pub async fn dev_with_dns() -> Self {
        let mut agent = Self::new();
        let port = free_port();
        agent.dns = Some(port);
        agent.arguments.retain(|argument| argument != "-dns-port=-1");
        agent.arguments.extend([format!("-dns-port={port}"), "-dev".into()]);
        agent.start();
        agent.ready().await;
        agent
    }

    /// Where it is a name server.
    pub fn dns(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.dns.expect("a name server")).into()
    }

    /// A dev agent that denies what no token allows, with the management token `root`.
    pub async fn acl() -> Self {
        let mut agent = Self::new();
        agent.token = Some("root");
        agent.arguments.push("-dev".into());
        agent.hcl(
            r#"acl { enabled = true, default_policy = "deny", tokens { master = "root", agent = "root" } }"#,
        );
        agent.start();
        agent.ready().await;
        // Rules are in force once the management token is.
        agent.until_ok("/v1/acl/tokens").await;
        agent
    }

    /// A dev agent that speaks TLS only and asks for a client certificate, with `dir` holding what `consul tls` made.
    pub async fn tls(dir: &Path) -> Self {
        let mut agent = Self::new();
        let ca = dir.join("consul-agent-ca.pem");
        let identity = [
            std::fs::read(dir.join("dc1-client-consul-0.pem")).unwrap(),
            std::fs::read(dir.join("dc1-client-consul-0-key.pem")).unwrap(),
        ];
        agent.client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only(reqwest::Certificate::from_pem_bundle(&std::fs::read(&ca).unwrap()).unwrap())
            .identity(reqwest::Identity::from_pem(&identity.concat()).unwrap())
            .build()
            .unwrap();
        agent.scheme = "https";
        agent.arguments.push("-dev".into());
        let file = |name: &str| serde_json::to_string(&dir.join(name)).unwrap();
        agent.hcl(&format!(
            "ports {{ http = -1, https = {} }}\nca_file = {}\ncert_file = {}\nkey_file = {}\n\
             verify_incoming_https = true",
            agent.http,
            file("consul-agent-ca.pem"),
            file("dc1-server-consul-0.pem"),
            file("dc1-server-consul-0-key.pem"),
        ));
        agent.start();
        agent.ready().await;
        agent
    }

    /// A client agent of this dev agent's: what stands on every host of a fleet.
    pub async fn client_of(server: &Self) -> Self {
        let mut agent = Self::new();
        agent.arguments.push(format!("-data-dir={}", agent.dir.path().join("data").display()));
        agent.arguments.push(format!("-retry-join=127.0.0.1:{}", server.serf));
        agent.hcl("retry_interval = \"1s\"");
        agent.start();
        agent.ready().await;
        agent
    }

    /// The id of its process, for as long as it runs.
    pub fn pid(&self) -> u32 {
        let keeper = self.keeper.as_ref().map(Child::id).unwrap_or_default();
        let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children"));
        let first = children.unwrap_or_default().split_whitespace().next().and_then(|pid| pid.parse().ok());
        first.unwrap_or_default()
    }

    /// Three servers that know each other, each with its state on disk.
    pub async fn cluster() -> [Self; 3] {
        Cluster::servers().await
    }

    /// A server of its own, with its state on disk.
    pub async fn server_on_disk() -> Self {
        let mut agent = Self::new();
        agent.arguments.extend(["-server".into(), "-bootstrap-expect=1".into()]);
        agent.keep_on_disk();
        agent.start();
        agent.ready().await;
        agent
    }

    /// A server that waits for two more, which never come.
    pub async fn without_leader() -> Self {
        let mut agent = Self::new();
        agent.server_of_three();
        agent.start();
        agent.until_ok("/v1/status/leader").await;
        agent
    }

    fn server_of_three(&mut self) {
        self.arguments.extend(["-server".into(), "-bootstrap-expect=3".into()]);
        self.keep_on_disk();
    }

    fn keep_on_disk(&mut self) {
        self.arguments.push(format!("-data-dir={}", self.data().display()));
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn new() -> Self {
        let (http, server, serf) = (free_port(), free_port(), free_port());
        let arguments = [
            "agent",
            "-log-level=warn",
            "-disable-host-node-id",
            "-bind=127.0.0.1",
            "-client=127.0.0.1",
            "-serf-wan-port=-1",
            "-dns-port=-1",
            "-grpc-port=-1",
        ];
        let mut arguments: Vec<String> = arguments.map(String::from).into();
        arguments.extend([
            format!("-node=n{http}"),
            // Servers refuse a new one under the name of one that they have not found dead yet.
            format!("-node-id=00000000-0000-4000-8000-{http:012}"),
            format!("-http-port={http}"),
            format!("-server-port={server}"),
            format!("-serf-lan-port={serf}"),
        ]);
        if is_at_least(1, 14) {
            arguments.push("-grpc-tls-port=-1".into());
        }
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut agent = Self {
            http,
            server,
            serf,
            dns: None,
            arguments,
            keeper: None,
            dir,
            client,
            scheme: "http",
            token: None,
        };
        agent.hcl("disable_update_check = true\ndisable_remote_exec = true\nlimits { http_max_conns_per_client = 200 }");
        agent
    }

    fn hcl(&mut self, text: &str) {
        if !text.is_empty() {
            self.arguments.extend(["-hcl".into(), text.into()]);
        }
    }

    /// Starts it, again if it was killed; on the same ports, and a dev agent with an empty memory.
    pub fn start(&mut self) {
        assert!(self.keeper.is_none(), "already running");
        let mut command = Command::new("sh");
        command
            .args(["-c", KEEPER, "sh"])
            .arg(binary())
            .args(&self.arguments)
            .env("AGENT_DIR", self.dir.path())
            .stdin(Stdio::piped())
            // Where it would tell that the agent was killed.
            .stderr(Stdio::null());
        self.keeper = Some(command.spawn().expect("a shell to run consul in"));
    }

    /// Whether it was started and not killed since.
    pub fn is_running(&self) -> bool {
        self.keeper.is_some()
    }

    /// Kills it at once, as a crash would.
    pub fn kill(&mut self) {
        let Some(mut keeper) = self.keeper.take() else { return };
        // A line, rather than the end of input, tells the shell to keep the files for another start.
        if let Some(mut stdin) = keeper.stdin.take() {
            let _ = stdin.write_all(b"\n");
        }
        let _ = keeper.wait();
    }

    /// Waits until it answers and its cluster has a leader.
    pub async fn ready(&self) {
        let end = Instant::now() + LIMIT;
        while !self.get("/v1/status/leader").await.is_ok_and(|leader| leader.trim().len() > 2) {
            assert!(Instant::now() < end, "no agent: {}", self.log());
            sleep(Duration::from_millis(10)).await;
        }
        // The agent itself is in the catalog: from here on it takes registrations at once.
        if self.token.is_none() {
            while !self.get("/v1/health/service/consul").await.is_ok_and(|found| found.contains("serfHealth"))
            {
                assert!(Instant::now() < end, "no agent in the catalog: {}", self.log());
                sleep(Duration::from_millis(10)).await;
            }
        }
    }

    async fn until_ok(&self, path: &str) {
        let end = Instant::now() + LIMIT;
        while self.get(path).await.is_err() {
            assert!(Instant::now() < end, "{path}: {}", self.log());
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Where its HTTP API is, with `http://` or `https://`.
    pub fn address(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.http)
    }

    /// The address the servers of a cluster know each other by.
    pub fn raft_address(&self) -> String {
        format!("127.0.0.1:{}", self.server)
    }

    /// `GET`, as an operator's curl would.
    ///
    /// # Errors
    ///
    /// Any status but 200; 503 also stands for no answer.
    pub async fn get(&self, path: &str) -> Result<String, StatusCode> {
        self.send(reqwest::Method::GET, path, "").await
    }

    /// `PUT`, as an operator's curl would, and again while there is no leader, as for a moment on a busy machine; panics when it
    /// fails.
    pub async fn put(&self, path: &str, body: &str) -> String {
        let end = Instant::now() + LIMIT;
        loop {
            match self.send(reqwest::Method::PUT, path, body).await {
                Ok(answer) => return answer,
                Err(StatusCode::INTERNAL_SERVER_ERROR) if Instant::now() < end => {
                    sleep(Duration::from_millis(10)).await;
                }
                Err(status) => panic!("PUT {path}: {status}"),
            }
        }
    }

    async fn send(&self, method: reqwest::Method, path: &str, body: &str) -> Result<String, StatusCode> {
        let mut request =
            self.client.request(method, format!("{}{path}", self.address())).body(body.to_owned());
        if let Some(token) = self.token {
            request = request.header("x-consul-token", token);
        }
        let answer = request.send().await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
        let status = answer.status();
        let text = answer.text().await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
        if status == StatusCode::OK { Ok(text) } else { Err(status) }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}
