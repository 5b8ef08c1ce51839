//! What readers are told while servers and agents fail. A line of each for the table in `docs/consul.md`.

use tokio::time::Instant;

use crate::scene::{EACH, Scene};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs consul"]
async fn the_leader_is_killed() {
    let mut scene = Scene::start().await;
    let leader = scene.cluster.leader().await;
    scene.cluster.servers[leader].kill();
    scene.heals("leader killed", Instant::now()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs consul"]
async fn the_leader_hangs() {
    let scene = Scene::start().await;
    let leader = scene.cluster.leader().await;
    scene.cluster.servers[leader].hang();
    scene.heals("leader hung", Instant::now()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs consul"]
async fn all_servers_are_down_for_a_while() {
    let mut scene = Scene::start().await;
    for server in &mut scene.cluster.servers {
        server.kill();
    }
    scene.until_readers_have_heard().await;
    for server in &mut scene.cluster.servers {
        server.start();
    }
    scene.heals("all servers down, then back", Instant::now()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs consul"]
async fn all_servers_lose_their_state() {
    let mut scene = Scene::start().await;
    for server in &mut scene.cluster.servers {
        server.wipe();
    }
    for server in &mut scene.cluster.servers {
        server.start();
    }
    scene.heals("all servers wiped", Instant::now()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs consul"]
async fn an_agent_loses_its_state() {
    let mut scene = Scene::start().await;
    scene.cluster.agents[1].wipe();
    scene.cluster.agents[1].start();
    // It removes from the catalog what it does not know, until that is renewed.
    scene.heals_with(EACH, "one agent wiped", Instant::now()).await;
}
