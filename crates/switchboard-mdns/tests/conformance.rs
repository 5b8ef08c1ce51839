//! The contract, between registries with sockets of their own, on loopback.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use switchboard_conformance::{Backend, Profile, async_trait};
use switchboard_core::Registry;
use switchboard_mdns::MdnsRegistry;

/// One link: a UDP port that nobody else has.
struct Loopback {
    port: u16,
}

impl Loopback {
    fn new() -> Self {
        let free = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.local_addr());
        Self { port: free.unwrap().port() }
    }
}

#[async_trait]
impl Backend for Loopback {
    fn profile(&self) -> Profile {
        // A goodbye counts after a second (RFC 6762 §10.1), so a false one shows after that. TXT has room for the names of
        // endpoints only.
        Profile::new()
            .quiet(Duration::from_millis(1300))
            .settle(Duration::from_secs(20))
            .ttl(Some(Duration::from_secs(8)))
            .suspicion(Duration::from_secs(4))
            .endpoint_details(false)
            .shared_ids(true)
    }

    async fn open(&self) -> Arc<dyn Registry> {
        // On a machine four times slower an answer takes longer than the 120 ms that a responder may wait, which is what
        // the default is for.
        let builder = MdnsRegistry::builder().interface("lo").port(self.port).settle(Duration::from_secs(2));
        let opened = builder.open().await;
        Arc::new(opened.unwrap())
    }
}

switchboard_conformance::suite!(Loopback::new());
