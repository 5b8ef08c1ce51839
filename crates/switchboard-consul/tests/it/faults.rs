//! Real agents that are killed, wiped and left without a leader.

use std::time::Duration;

use futures::StreamExt;
use switchboard_core::{ErrorKind, RegisterOptions, Registry, Snapshot};
use tokio::time::{Instant, interval, sleep};

use crate::support::{builder, ids, instance, name, registry, ttl, until, within};
use switchboard_tests::consul::Agent;

/// Follows a watch for as long as the test runs, counting what must not be.
struct Follower {
    task: tokio::task::JoinHandle<()>,
    seen: std::sync::Arc<std::sync::Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    last: Option<Snapshot>,
    empty_after_first: usize,
    unhealthy: usize,
    errors: usize,
}

impl Follower {
    fn new(mut watch: switchboard_core::SnapshotStream) -> Self {
        let seen = std::sync::Arc::new(std::sync::Mutex::new(Seen::default()));
        let shared = seen.clone();
        let task = tokio::spawn(async move {
            while let Some(item) = watch.next().await {
                let mut seen = shared.lock().unwrap();
                match item {
                    Ok(snapshot) => {
                        if snapshot.is_empty() && seen.last.as_ref().is_some_and(|last| !last.is_empty()) {
                            seen.empty_after_first += 1;
                        }
                        if snapshot.len() != snapshot.healthy().count() {
                            seen.unhealthy += 1;
                        }
                        seen.last = Some(snapshot);
                    }
                    Err(_) => seen.errors += 1,
                }
            }
        });
        Self { task, seen }
    }

    fn has(&self, id: &str) -> bool {
        let seen = self.seen.lock().unwrap();
        seen.last.as_ref().is_some_and(|last| last.healthy().any(|instance| instance.id().as_str() == id))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn is_passing(agent: &Agent, service: &str) -> bool {
    agent
        .get(&format!("/v1/health/service/{service}?passing=true"))
        .await
        .is_ok_and(|found| found.contains("\"ServiceName\""))
}

#[tokio::test]
#[ignore = "needs consul"]
async fn a_wiped_agent_has_the_service_back_and_no_watcher_saw_it_empty() {
    let mut agent = Agent::dev().await;
    let (one, two) = (registry(&agent.address()), registry(&agent.address()));
    let greeter = instance("greeter", "1");
    one.register(&greeter, &ttl(10)).await.unwrap();
    let followers = [Follower::new(one.watch(&name("greeter"))), Follower::new(two.watch(&name("greeter")))];
    let mut names = two.watch_services();
    assert!(within("names", names.next()).await.unwrap().unwrap().contains(&name("greeter")));
    for follower in &followers {
        until("first", || async { follower.has("1").then_some(()) }).await;
    }

    let renewing = async {
        let mut second = interval(Duration::from_secs(1));
        loop {
            second.tick().await;
            let _ = one.register(&greeter, &ttl(10)).await;
        }
    };
    let wiping = async {
        let mut worst = Duration::ZERO;
        for _ in 0..3 {
            agent.kill();
            sleep(Duration::from_millis(700)).await;
            agent.start();
            agent.ready().await;
            let answering = Instant::now();
            until("back", || async { is_passing(&agent, "greeter").await.then_some(()) }).await;
            worst = worst.max(answering.elapsed());
        }
        worst
    };
    let worst = tokio::select! { () = renewing => unreachable!(), worst = wiping => worst };
    println!("wiped three times: back, passing, at worst {worst:?} after the agent answered");
    assert!(worst < Duration::from_secs(2), "{worst:?}");
    for follower in &followers {
        assert!(follower.has("1"));
        let seen = follower.seen.lock().unwrap();
        assert_eq!((seen.empty_after_first, seen.unhealthy), (0, 0));
        assert!(seen.errors > 0, "the outage was told");
    }
    // The names never lacked it either.
    while let Ok(Some(item)) = tokio::time::timeout(Duration::from_millis(300), names.next()).await {
        assert!(item.map_or(true, |names| names.contains(&name("greeter"))));
    }
    // And the watches are alive.
    two.register(&instance("greeter", "2"), &RegisterOptions::new()).await.unwrap();
    for follower in &followers {
        until("the next change", || async { follower.has("2").then_some(()) }).await;
    }
}

#[tokio::test]
#[ignore = "needs consul"]
async fn an_agent_that_is_away_is_an_error_and_comes_back() {
    let mut agent = Agent::dev().await;
    let registry = registry(&agent.address());
    let greeter = instance("greeter", "1");
    for options in [ttl(10), RegisterOptions::new()] {
        registry.register(&greeter, &options).await.unwrap();
        agent.kill();
        for error in [
            registry.lookup(&name("greeter")).await.map(drop).unwrap_err(),
            registry.services().await.map(drop).unwrap_err(),
            registry.register(&greeter, &options).await.unwrap_err(),
            registry.deregister(&instance("greeter", "other").key()).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            assert!(error.message().starts_with("cannot connect to 127.0.0.1:"), "{error}");
        }
        agent.start();
        agent.ready().await;
        assert!(registry.lookup(&name("greeter")).await.unwrap().is_empty());
        // With a TTL as without: the next call puts it back.
        registry.register(&greeter, &options).await.unwrap();
        assert_eq!(ids(&registry.lookup(&name("greeter")).await.unwrap()), ["1"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs consul"]
async fn a_leader_killed_under_load_fails_no_live_view_and_lapses_no_ttl() {
    let mut agents = Agent::cluster().await;
    let leader = agents[0].get("/v1/status/leader").await.unwrap();
    let leader = agents.iter().position(|agent| leader.contains(&agent.raft_address())).unwrap();
    let (near, far) = ((leader + 1) % 3, (leader + 2) % 3);
    let writer = registry(&agents[near].address());
    let readers = [
        builder(&agents[near].address()).build().unwrap(),
        // One that was on the leader, and has somewhere to go.
        builder(&agents[leader].address()).address(&agents[far].address()).build().unwrap(),
    ];
    let greeter = instance("greeter", "1");
    let keep = ttl(3);
    writer.register(&greeter, &keep).await.unwrap();
    let views = readers.each_ref().map(|reader| Follower::new(reader.watch(&name("greeter"))));
    for view in &views {
        until("first", || async { view.has("1").then_some(()) }).await;
    }

    let (mut lookups, mut failed_renewals, mut slowest) = (0_u32, 0_u32, Duration::ZERO);
    let load = async {
        let mut tick = interval(Duration::from_millis(10));
        loop {
            tick.tick().await;
            for view in &views {
                assert!(view.has("1"), "a lookup through a live view failed");
                lookups += 1;
            }
        }
    };
    let renewals = async {
        let mut tick = interval(Duration::from_millis(500));
        loop {
            tick.tick().await;
            let started = Instant::now();
            failed_renewals += u32::from(writer.register(&greeter, &keep).await.is_err());
            slowest = slowest.max(started.elapsed());
        }
    };
    let failure = async {
        sleep(Duration::from_secs(1)).await;
        agents[leader].kill();
        let killed = Instant::now();
        until("a new leader", || async {
            let answer = agents[far].get("/v1/health/service/greeter?consistent").await;
            answer.ok().filter(|found| found.contains("\"ServiceName\""))
        })
        .await;
        let elected = killed.elapsed();
        sleep(Duration::from_secs(5)).await;
        elected
    };
    let elected = tokio::select! {
        () = async { tokio::join!(load, renewals); } => unreachable!(),
        elected = failure => elected,
    };
    for view in &views {
        let seen = view.seen.lock().unwrap();
        assert_eq!((seen.empty_after_first, seen.unhealthy), (0, 0), "a TTL lapsed or the set was empty");
    }
    println!(
        "leader killed: a new one after {elected:?}; {lookups} lookups in live views, none failed; \
         {failed_renewals} renewals failed, the slowest took {slowest:?}; errors told: {:?}",
        views.each_ref().map(|view| view.seen.lock().unwrap().errors)
    );
    // Recovered by itself: changes arrive again.
    writer.register(&instance("greeter", "2"), &RegisterOptions::new()).await.unwrap();
    for view in &views {
        until("the next change", || async { view.has("2").then_some(()) }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs consul"]
async fn without_a_leader_reads_fail_in_words_and_stale_ones_go_on() {
    let mut agents = Agent::cluster().await;
    let leader = agents[0].get("/v1/status/leader").await.unwrap();
    let leader = agents.iter().position(|agent| leader.contains(&agent.raft_address())).unwrap();
    let left = (leader + 1) % 3;
    let normal = registry(&agents[left].address());
    let stale =
        builder(&agents[left].address()).consistency(switchboard_consul::Consistency::Stale).build().unwrap();
    let greeter = instance("greeter", "1");
    normal.register(&greeter, &ttl(30)).await.unwrap();
    until("replicated", || async { (stale.lookup(&name("greeter")).await.ok()?.len() == 1).then_some(()) })
        .await;
    agents[leader].kill();
    agents[(leader + 2) % 3].kill();
    until("no leader", || async {
        agents[left].get("/v1/status/leader").await.ok().filter(|leader| leader.trim() == "\"\"")
    })
    .await;
    assert_eq!(ids(&stale.lookup(&name("greeter")).await.unwrap()), ["1"]);
    // An agent keeps what it is told until there is a leader again, and says so after 7 to 25 s.
    let changed = greeter.to_builder().tag("x").build().unwrap();
    let (service, options) = (name("greeter"), ttl(30));
    let (error, registered) = tokio::join!(normal.lookup(&service), normal.register(&changed, &options));
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    registered.unwrap();
    agents[leader].start();
    until("the change", || async {
        let found = normal.lookup(&name("greeter")).await.ok()?;
        found.all().first().filter(|instance| instance.tags().contains("x"))?;
        Some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs consul"]
async fn a_registration_moves_to_another_agent_and_is_never_there_twice() {
    let mut agents = Agent::cluster().await;
    let leader = agents[0].get("/v1/status/leader").await.unwrap();
    let leader = agents.iter().position(|agent| leader.contains(&agent.raft_address())).unwrap();
    let (home, other) = ((leader + 1) % 3, leader);
    let registry = builder(&agents[home].address())
        .address(&agents[other].address())
        .move_after(Duration::from_secs(1))
        .build()
        .unwrap();
    let reader = crate::support::registry(&agents[other].address());
    let greeter = instance("greeter", "1");
    let options = ttl(20);
    registry.register(&greeter, &options).await.unwrap();
    agents[home].kill();
    assert!(registry.register(&greeter, &options).await.is_err(), "not at the first failure");
    until("it moved", || async { registry.register(&greeter, &options).await.ok() }).await;
    let found = until("the moved one counts", || async {
        let found = reader.lookup(&name("greeter")).await.ok()?;
        (found.healthy().count() == 1).then_some(found)
    })
    .await;
    assert_eq!(ids(&found), ["1"], "one, though two nodes may list it");

    agents[home].start();
    agents[home].ready().await;
    until("only one is left", || async {
        registry.register(&greeter, &options).await.ok()?;
        let all = agents[other].get("/v1/catalog/service/greeter").await.ok()?;
        (all.matches("\"ServiceID\"").count() == 1).then_some(())
    })
    .await;
    registry.close().await.unwrap();
    until("none is left", || async {
        let all = agents[other].get("/v1/catalog/service/greeter").await.ok()?;
        (!all.contains("\"ServiceID\"")).then_some(())
    })
    .await;
}
