//! Real etcd on free loopback ports.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::consul::{KEEPER, LIMIT};
use crate::port::free_port;

/// A member of a cluster; killed when dropped.
#[derive(Debug)]
pub struct Member {
    name: String,
    client: u16,
    peer: u16,
    /// Where it tells how it is, without TLS and users.
    metrics: u16,
    scheme: &'static str,
    arguments: Vec<String>,
    keeper: Option<Child>,
    dir: TempDir,
}

/// Certificates for [`Member::tls`], as PEM files.
#[derive(Debug)]
pub struct Files {
    /// The authority.
    pub ca: PathBuf,
    /// The server's certificate and key.
    pub server: [PathBuf; 2],
    /// A client's, if it has to have one.
    pub client: Option<[PathBuf; 2]>,
}

impl Member {
    /// A cluster of one.
    pub async fn alone() -> Self {
        Self::alone_with(&[]).await
    }

    /// A cluster of one, with more arguments.
    pub async fn alone_with(arguments: &[&str]) -> Self {
        let mut member = Self::new("http");
        member.arguments.extend(arguments.iter().map(ToString::to_string));
        member.join(&member.initial(), "new");
        member.start();
        member.ready().await;
        member
    }

    /// A cluster of one that speaks TLS, and asks for a client's certificate if there is one in `files`.
    pub async fn tls(files: &Files) -> Self {
        let mut member = Self::new("https");
        let path = |path: &Path| path.display().to_string();
        member.arguments.extend(["--cert-file".into(), path(&files.server[0])]);
        member.arguments.extend(["--key-file".into(), path(&files.server[1])]);
        if files.client.is_some() {
            member.arguments.extend([
                "--client-cert-auth".into(),
                "--trusted-ca-file".into(),
                path(&files.ca),
            ]);
        }
        member.join(&member.initial(), "new");
        member.start();
        member.ready().await;
        member
    }

    /// A cluster of three.
    pub async fn three() -> [Self; 3] {
        let mut members = [Self::new("http"), Self::new("http"), Self::new("http")];
        let initial = members.each_ref().map(Self::initial).join(",");
        for member in &mut members {
            member.join(&initial, "new");
            member.start();
        }
        for member in &members {
            member.ready().await;
        }
        members
    }

    fn new(scheme: &'static str) -> Self {
        let (client, peer, metrics) = (free_port(), free_port(), free_port());
        let name = format!("m{client}");
        let (listen, talk) = (format!("{scheme}://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let dir = tempfile::tempdir().unwrap();
        let arguments = [
            "--name",
            &name,
            "--log-level",
            "warn",
            "--data-dir",
            &dir.path().join("data").display().to_string(),
            "--listen-client-urls",
            &listen,
            "--advertise-client-urls",
            &listen,
            "--listen-peer-urls",
            &talk,
            "--initial-advertise-peer-urls",
            &talk,
            "--listen-metrics-urls",
            &format!("http://127.0.0.1:{metrics}"),
        ];
        let arguments = arguments.map(String::from).into();
        Self { name, client, peer, metrics, scheme, arguments, keeper: None, dir }
    }

    fn initial(&self) -> String {
        format!("{}=http://127.0.0.1:{}", self.name, self.peer)
    }

    fn join(&mut self, initial: &str, state: &str) {
        let given = ["--initial-cluster", initial, "--initial-cluster-state", state];
        if let Some(at) = self.arguments.iter().position(|argument| argument == given[0]) {
            self.arguments.truncate(at);
        }
        self.arguments.extend(given.map(String::from));
    }

    /// Starts it, again if it was killed.
    pub fn start(&mut self) {
        assert!(self.keeper.is_none(), "already running");
        let mut command = Command::new("sh");
        command
            .args(["-c", KEEPER, "sh", "etcd"])
            .args(&self.arguments)
            .env("AGENT_DIR", self.dir.path())
            .stdin(Stdio::piped())
            .stderr(Stdio::null());
        self.keeper = Some(command.spawn().expect("a shell to run etcd in"));
    }

    /// Kills it at once, as a crash would.
    pub fn kill(&mut self) {
        let Some(mut keeper) = self.keeper.take() else { return };
        // A line tells the shell to keep the files for another start.
        if let Some(mut stdin) = keeper.stdin.take() {
            let _ = stdin.write_all(b"\n");
        }
        let _ = keeper.wait();
    }

    /// Kills it and takes its disk away.
    pub fn wipe(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.dir.path().join("data")).unwrap();
    }

    /// Takes one that was wiped out of the cluster and adds it anew, by way of `other`.
    pub fn rejoin(&mut self, other: &Self) {
        let members = other.ctl("member list");
        let id = members
            .lines()
            .find(|line| line.contains(&self.name))
            .unwrap()
            .split(',')
            .next()
            .unwrap()
            .to_owned();
        // A cluster that has not yet heard from all who are left changes nothing.
        let insist = |line: &str| {
            let end = std::time::Instant::now() + LIMIT;
            loop {
                match other.try_ctl(line, "") {
                    Ok(said) => return said,
                    Err(why) => assert!(std::time::Instant::now() < end, "{line}: {why}"),
                }
            }
        };
        insist(&format!("member remove {id}"));
        let added = insist(&format!("member add {} --peer-urls=http://127.0.0.1:{}", self.name, self.peer));
        let initial = added.lines().find_map(|line| line.strip_prefix("ETCD_INITIAL_CLUSTER=")).unwrap();
        self.join(initial.trim_matches('"'), "existing");
        self.start();
    }

    /// Stops it in the middle of what it does: it holds its connections and says nothing.
    pub fn hang(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on after it hung.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = std::fs::read_to_string(self.dir.path().join("pid")).unwrap();
        kill_process(Pid::from_raw(pid.trim().parse().unwrap()).unwrap(), signal).unwrap();
    }

    /// Waits until it serves requests.
    pub async fn ready(&self) {
        let end = Instant::now() + LIMIT * 2;
        while !self.tells("health").await.contains(r#""health":"true""#) {
            assert!(Instant::now() < end, "no etcd: {}", self.log());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether it leads its cluster.
    pub async fn leads(&self) -> bool {
        self.tells("metrics").await.contains("\netcd_server_is_leader 1\n")
    }

    /// A figure from what it measures of itself: the sum of all series of this name whose labels hold `label`.
    pub async fn figure(&self, name: &str, label: &str) -> f64 {
        let all = self.tells("metrics").await;
        let lines = all.lines().filter(|line| line.starts_with(name) && line.contains(label));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    async fn tells(&self, path: &str) -> String {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().unwrap();
        let Ok(answer) = client.get(format!("http://127.0.0.1:{}/{path}", self.metrics)).send().await else {
            return String::new();
        };
        answer.text().await.unwrap_or_default()
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.client)
    }

    /// Runs etcd's own command; arguments hold no blanks.
    pub fn ctl(&self, arguments: &str) -> String {
        self.ctl_given(arguments, "")
    }

    /// The same with something on its standard input.
    pub fn ctl_given(&self, arguments: &str, input: &str) -> String {
        self.try_ctl(arguments, input).unwrap_or_else(|why| panic!("{arguments}: {why}"))
    }

    /// The same, or what it says against it.
    fn try_ctl(&self, arguments: &str, input: &str) -> Result<String, String> {
        let mut child = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}://{}", self.scheme, self.address()))
            .args(arguments.split(' '))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("etcdctl");
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}
