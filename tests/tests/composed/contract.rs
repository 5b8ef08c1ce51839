use std::sync::Arc;
use std::time::Duration;

use switchboard_conformance::{Backend, Profile, async_trait};
use switchboard_core::{Namespace, Registry};
use switchboard_tests::consul::Agent;
use tokio::sync::OnceCell;

use super::{Composed, failover, mirror, registry, route, union};

/// Two for all cases: they prove not to disturb each other.
static AGENTS: OnceCell<[Agent; 2]> = OnceCell::const_new();

async fn registries() -> Vec<Arc<dyn Registry>> {
    let agents = AGENTS.get_or_init(async || [Agent::dev().await, Agent::dev().await]).await;
    agents.iter().map(registry).collect()
}

fn profile() -> Profile {
    Profile::new().keeps_lapsed(true).quiet(Duration::from_millis(300))
}

struct Two(Composed, &'static str);

#[async_trait]
impl Backend for Two {
    fn profile(&self) -> Profile {
        profile()
    }

    /// Each composition has a namespace, since all of them share the two agents.
    async fn open(&self) -> Arc<dyn Registry> {
        let within = |registry| Arc::new(Namespace::new(&registry, self.1).unwrap()) as Arc<dyn Registry>;
        (self.0)(registries().await.into_iter().map(within).collect())
    }
}

mod of_a_union {
    use super::{Two, union};

    switchboard_conformance::suite!(
        #[ignore = "needs consul"]
        Two(union, "union")
    );
}

mod of_a_failover {
    use super::{Two, failover};

    switchboard_conformance::suite!(
        #[ignore = "needs consul"]
        Two(failover, "failover")
    );
}

mod of_a_mirror {
    use super::{Two, mirror};

    switchboard_conformance::suite!(
        #[ignore = "needs consul"]
        Two(mirror, "mirror")
    );
}

mod of_a_route {
    use super::{Two, route};

    switchboard_conformance::suite!(
        #[ignore = "needs consul"]
        Two(route, "route")
    );
}
