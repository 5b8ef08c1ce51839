//! What is measured, with the feature `metrics`.

#![cfg(feature = "metrics")]
#![allow(clippy::unwrap_used)] // in helpers of tests too

#[path = "../../switchboard-watcher/tests/support/recorded.rs"]
mod recorded;

use recorded::{Told, expected, recorded};
use switchboard_core::{Instance, RegisterOptions, Registry};
use switchboard_mdns::MdnsRegistry;

#[test]
fn a_label_that_was_taken_is_told() {
    recorded("switchboard.mdns.", async |mut heard| {
        // By the clock of the machine: there are sockets.
        tokio::time::resume();
        let port = std::net::UdpSocket::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
        let open = async || MdnsRegistry::builder().interface("lo").port(port).open().await.unwrap();
        let (here, there) = (open().await, open().await);
        let same =
            |service: &str| Instance::builder(service).id("same").address("127.0.0.1:80").build().unwrap();
        let (mine, theirs) = (same("greeter"), same("other"));
        here.register(&mine, &RegisterOptions::new()).await.unwrap();
        there.register(&theirs, &RegisterOptions::new()).await.unwrap();
        assert_eq!(there.label(&theirs.key()).as_deref(), Some("same (2)"));
        assert_eq!(heard.all(), expected([("renames", Told::Count(1))]));
    });
}
