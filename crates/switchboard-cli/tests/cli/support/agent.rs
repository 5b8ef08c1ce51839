//! The project's Consul agent, for tests that run programs and wait for them.

use std::time::Instant;

use switchboard_tests::consul;
use tokio::runtime::{Builder, Runtime};

use super::LIMIT;

pub(crate) struct Agent {
    agent: consul::Agent,
    runtime: Runtime,
}

impl Agent {
    /// With a leader.
    pub(crate) fn dev() -> Self {
        Self::new(consul::Agent::dev())
    }

    /// Denying what no token allows; `root` allows everything.
    pub(crate) fn acl() -> Self {
        Self::new(consul::Agent::acl())
    }

    /// Waiting for two more servers that never come.
    pub(crate) fn without_leader() -> Self {
        Self::new(consul::Agent::without_leader())
    }

    fn new(agent: impl Future<Output = consul::Agent>) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        Self { agent: runtime.block_on(agent), runtime }
    }

    pub(crate) fn port(&self) -> u16 {
        self.agent.http
    }

    pub(crate) fn url(&self) -> String {
        format!("consul://127.0.0.1:{}", self.port())
    }

    pub(crate) fn put(&self, path: &str, body: &str) {
        self.runtime.block_on(self.agent.put(path, body));
    }

    /// Asks again until `accept`.
    pub(crate) fn until(&self, path: &str, accept: impl Fn(&str) -> bool) {
        let end = Instant::now() + LIMIT;
        loop {
            let answer = self.runtime.block_on(self.agent.get(path));
            if answer.as_deref().is_ok_and(&accept) {
                return;
            }
            assert!(Instant::now() < end, "{path}: {answer:?}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.agent.pid()
    }

    /// Starts it again after it was killed; it has forgotten everything.
    pub(crate) fn start(&mut self) {
        self.agent.start();
        self.runtime.block_on(self.agent.ready());
    }

    pub(crate) fn kill(&mut self) {
        self.agent.kill();
    }
}
