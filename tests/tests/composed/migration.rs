use std::time::Instant;

use switchboard_core::{Registry, ServiceName};
use switchboard_tests::consul::Agent;
use switchboard_tests::etcd::Member;
use tokio::time::{sleep, timeout};

use super::load::{Calls, Client, LIMIT, SERVICE, Server};

const SERVERS: usize = 3;
const CLIENTS: usize = 2;

/// The three steps of `docs/migrating.md`, each rolled out one program after the other while clients call: no call fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs consul and etcd"]
async fn from_consul_to_etcd_in_three_steps() {
    let (agent, member) = (Agent::dev().await, Member::alone().await);
    let consul = format!("consul://127.0.0.1:{}", agent.http);
    let etcd = format!("etcd://{}", member.address().trim_start_matches("http://"));
    let lines = [consul.clone(), format!("{consul} > {etcd}"), format!("{etcd} > {consul}"), etcd.clone()];

    let calls = Calls::default();
    let (mut servers, mut clients) = (Vec::new(), Vec::new());
    for (step, line) in lines.iter().enumerate() {
        let begun = (Instant::now(), calls.get());
        for number in 0..SERVERS {
            let id = format!("greeter-{step}-{number}");
            servers.push(Server::start(switchboard::connect(line).await.unwrap(), &id).await);
            if step > 0 {
                servers.remove(0).stop().await;
            }
        }
        for _ in 0..CLIENTS {
            clients.push(Client::start(switchboard::connect(line).await.unwrap(), &calls).await);
            if step > 0 {
                clients.remove(0);
            }
            calls.until_more().await;
        }
        let [well, failed] = [0, 1].map(|of| calls.get()[of] - begun.1[of]);
        println!("{line}: {:.1?}, {well} calls, {failed} failed", begun.0.elapsed());
        assert_eq!(failed, 0, "{line}");
    }

    // Nobody is left in the old one.
    let old = switchboard::connect(&consul).await.unwrap();
    let service = ServiceName::new(SERVICE).unwrap();
    let gone = async {
        while !old.lookup(&service).await.unwrap().is_empty() {
            sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    timeout(LIMIT, gone).await.expect("Consul is empty");
    let new = switchboard::connect(&etcd).await.unwrap();
    assert_eq!(new.lookup(&service).await.unwrap().len(), SERVERS);
    drop(clients);
    for server in servers {
        server.stop().await;
    }
}
