//! The API server stops, comes back with an empty memory, and its past is gone.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use switchboard_core::Registry;
use switchboard_kubernetes::KubernetesRegistry;
use switchboard_selector::Selector;
use switchboard_watcher::Directory;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::reading::{LONG, READY, orders};
use crate::support::{Cluster, Space, endpoint, port, slice};

/// How long it is away.
const AWAY: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs kubernetes"]
async fn picks_go_on_and_are_fresh_within_a_second_of_its_return() {
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::start().await));
    let space = Space::named(cluster, "shop").await;
    let pods = |numbers: &[u32]| {
        let pods = numbers.iter().map(|pod| endpoint(&format!("p{pod}"), &format!("10.1.0.{pod}"), READY));
        slice("orders-a", "orders", vec![port("http", 80)], pods.collect())
    };
    space.put(&pods(&[1, 2])).await;
    let registry: Arc<KubernetesRegistry> = Arc::new(space.builder().open().unwrap());
    let selector = Selector::new(Directory::new(registry.clone()));
    selector.select(&orders()).await.unwrap().success();
    // All that a watch is told, and when.
    let mut told = registry.watch(&orders());
    let (state, mut seen) = watch::channel((Vec::<String>::new(), false));
    let watching = tokio::spawn(async move {
        while let Some(item) = told.next().await {
            state.send_modify(|(ids, is_failing)| match item {
                Ok(snapshot) => {
                    assert!(!snapshot.is_empty(), "nothing empty is told");
                    *ids = snapshot.all().iter().map(|instance| instance.id().to_string()).collect();
                    *is_failing = false;
                }
                Err(_) => *is_failing = true,
            });
        }
    });
    timeout(LONG, seen.wait_for(|(ids, _)| ids.len() == 2)).await.unwrap().unwrap();
    cluster.stop_server().await;
    timeout(LONG, seen.wait_for(|(_, is_failing)| *is_failing)).await.unwrap().unwrap();
    let away = Instant::now() + AWAY;
    let mut picks = 0;
    while Instant::now() < away {
        selector.select(&orders()).await.unwrap().success();
        picks += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    cluster.compact();
    cluster.start_server().await;
    let answered = Instant::now();
    timeout(LONG, seen.wait_for(|(_, is_failing)| !is_failing)).await.unwrap().unwrap();
    let heard = answered.elapsed();
    println!("heard again {heard:?} after the server was ready; {picks} picks meanwhile");
    // It is a second where the machine has time.
    assert!(heard < Duration::from_secs(5), "{heard:?}");
    // What has changed since is told as ever.
    space.put(&pods(&[2, 3])).await;
    timeout(LONG, seen.wait_for(|(ids, _)| *ids == ["uid-of-p2", "uid-of-p3"])).await.unwrap().unwrap();
    selector.select(&orders()).await.unwrap().success();
    registry.close().await.unwrap();
    timeout(LONG, watching).await.unwrap().unwrap();
}
