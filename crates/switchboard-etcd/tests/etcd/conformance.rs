//! The contract of `Registry`, against a real etcd.

use std::sync::Arc;
use std::time::Duration;

use switchboard_conformance::{Backend, Outage, Profile, async_trait};
use switchboard_core::Registry;
use switchboard_etcd::EtcdRegistry;
use switchboard_tests::etcd::Member;
use tokio::sync::OnceCell;

use switchboard_tests::proxy::Proxy;

/// One member for all cases: they prove not to disturb each other. It ends with this process.
static MEMBER: OnceCell<Member> = OnceCell::const_new();

struct Etcd;

fn open(address: &str) -> Arc<dyn Registry> {
    Arc::new(EtcdRegistry::builder().endpoint(address).timeout(Duration::from_secs(5)).open().unwrap())
}

#[async_trait]
impl Backend for Etcd {
    fn profile(&self) -> Profile {
        // etcd grants no less than 2 s, and ends a lease up to a second late.
        Profile::new().ttl(Duration::from_secs(2).into()).expiry(Duration::from_secs(5)).shared_ids(true)
    }

    async fn open(&self) -> Arc<dyn Registry> {
        open(&MEMBER.get_or_init(Member::alone).await.address())
    }

    async fn open_fragile(&self) -> Option<(Arc<dyn Registry>, Box<dyn Outage>)> {
        let member = MEMBER.get_or_init(Member::alone).await;
        let proxy = Proxy::to(member.address()).await;
        Some((open(&proxy.address), Box::new(proxy)))
    }
}

switchboard_conformance::suite!(
    #[ignore = "needs etcd"]
    Etcd
);
