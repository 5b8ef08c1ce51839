//! What the metrics are told of agents.

use switchboard_core::Registry;
use tokio::net::TcpListener;

use crate::recorded::{Told, expected, recorded};
use crate::support::name;
use crate::support::scripted::{Reply, Server};
use crate::support::{builder, within};

#[test]
fn requests_are_told_by_agent_and_by_what_came_of_them() {
    recorded("switchboard.consul.", async |mut heard| {
        // By the clock of the machine: there are sockets.
        tokio::time::resume();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let away = listener.local_addr().unwrap().to_string();
        drop(listener);
        let server = Server::start(|number, _| {
            let found =
                r#"[{"Service":{"ID":"1","Service":"a","Address":"127.0.0.1","Port":1},"Checks":[]}]"#;
            if number == 0 { Reply::ok(1, found) } else { Reply::status(403, "no") }
        })
        .await;
        let registry = builder(&away).address(&server.address).build().unwrap();
        let look = async || within("a lookup", registry.lookup(&name("a"))).await;
        look().await.unwrap();
        look().await.unwrap_err();
        let requests = |agent: &str, outcome: &str| format!("requests {agent} {outcome}");
        let told = [
            (&*requests(&away, "unanswered"), Told::Count(1)),
            (&*requests(&server.address, "success"), Told::Count(1)),
            (&*requests(&server.address, "refused"), Told::Count(1)),
        ];
        assert_eq!(heard.all(), expected(told), "from then on it asks the one that answered");
    });
}
