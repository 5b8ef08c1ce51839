//! The contract of `Registry`, against a real agent, in both forms of the wire.

use std::sync::Arc;
use std::time::Duration;

use switchboard_conformance::{Backend, Outage, Profile, async_trait};
use switchboard_consul::Wire;
use switchboard_core::Registry;
use tokio::sync::OnceCell;

use crate::support::builder;
use switchboard_tests::consul::Agent;
use switchboard_tests::proxy::Proxy;

/// One agent for all cases: they prove not to disturb each other. Its keeper ends it with this process.
static AGENT: OnceCell<Agent> = OnceCell::const_new();

struct Consul(Wire);

#[async_trait]
impl Backend for Consul {
    fn profile(&self) -> Profile {
        Profile::new().keeps_lapsed(true).quiet(Duration::from_millis(150))
    }

    async fn open(&self) -> Arc<dyn Registry> {
        let agent = AGENT.get_or_init(Agent::dev).await;
        Arc::new(builder(&agent.address()).wire(self.0).build().unwrap())
    }

    async fn open_fragile(&self) -> Option<(Arc<dyn Registry>, Box<dyn Outage>)> {
        let agent = AGENT.get_or_init(Agent::dev).await;
        let proxy = Proxy::to(format!("127.0.0.1:{}", agent.http)).await;
        Some((Arc::new(builder(&proxy.address).wire(self.0).build().unwrap()), Box::new(proxy)))
    }
}

mod plain {
    switchboard_conformance::suite!(
        #[ignore = "needs consul"]
        super::Consul(super::Wire::Plain)
    );
}

mod go_micro {
    switchboard_conformance::suite!(
        #[ignore = "needs consul"]
        super::Consul(super::Wire::GoMicro)
    );
}
