//! Servers, agents in front of them, and what can happen to either.

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use super::{Agent, LIMIT};

/// Three servers and two client agents, each with its state on disk: what a data centre has, but for the distances.
#[derive(Debug)]
pub struct Cluster {
    /// The servers.
    pub servers: [Agent; 3],
    /// The agents that programs speak to.
    pub agents: [Agent; 2],
}

/// An election takes a fifth of the time that it takes by default, and who is lost is looked for every second.
const HASTE: &str = "performance { raft_multiplier = 1 }\nretry_interval = \"1s\"";

impl Cluster {
    /// A cluster with a leader, and all five agents in the catalog.
    pub async fn start() -> Self {
        let servers = Self::servers().await;
        let mut agents = [Agent::new(), Agent::new()];
        for agent in &mut agents {
            agent.keep_on_disk();
            agent.join(&servers);
            agent.hcl(HASTE);
            agent.start();
        }
        for agent in &agents {
            agent.ready().await;
            agent.in_catalog().await;
        }
        Self { servers, agents }
    }

    /// The three servers alone.
    pub async fn servers() -> [Agent; 3] {
        let mut servers = [Agent::new(), Agent::new(), Agent::new()];
        let others = servers.each_ref().map(|server| server.serf);
        for server in &mut servers {
            server.server_of_three();
            server.join_at(&others);
            server.hcl(HASTE);
            server.start();
        }
        for server in &servers {
            server.ready().await;
        }
        servers
    }

    /// Which of the servers leads.
    pub async fn leader(&self) -> usize {
        let end = Instant::now() + LIMIT;
        loop {
            let leader = self.agents[0].get("/v1/status/leader").await.unwrap_or_default();
            if let Some(found) =
                self.servers.iter().position(|server| leader.contains(&server.raft_address()))
            {
                return found;
            }
            assert!(Instant::now() < end, "no leader: {leader:?}");
            sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Takes the leader and one more away for good, and waits until the last one knows.
    pub async fn lose_the_leader(&mut self) {
        let leader = self.leader().await;
        self.servers[leader].kill();
        self.servers[(leader + 1) % 3].kill();
        let left = &self.servers[(leader + 2) % 3];
        let end = Instant::now() + LIMIT;
        while left.get("/v1/status/leader").await.is_ok_and(|leader| leader.trim() != "\"\"") {
            assert!(Instant::now() < end, "still a leader: {}", left.log());
            sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

impl Agent {
    fn join(&mut self, servers: &[Self]) {
        self.join_at(&servers.iter().map(|server| server.serf).collect::<Vec<_>>());
    }

    fn join_at(&mut self, serfs: &[u16]) {
        self.arguments.extend(serfs.iter().map(|serf| format!("-retry-join=127.0.0.1:{serf}")));
    }

    async fn in_catalog(&self) {
        let (path, end) = (format!("/v1/health/node/n{}", self.http), Instant::now() + LIMIT);
        while !self.get(&path).await.is_ok_and(|checks| checks.contains("serfHealth")) {
            assert!(Instant::now() < end, "not in the catalog: {}", self.log());
            sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Stops it in the middle of what it does: it holds its connections and says nothing.
    pub fn hang(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on after it hung.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills it and takes its disk away.
    pub fn wipe(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(self.data());
    }

    fn signal(&self, signal: Signal) {
        let pid = std::fs::read_to_string(self.dir.path().join("pid")).unwrap();
        let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}
