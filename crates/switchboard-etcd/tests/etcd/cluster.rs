//! Three members, and what happens to them.

use std::time::Duration;

use switchboard_core::{ErrorKind, Registry};
use switchboard_tests::etcd::Member;
use tokio::time::{Instant, sleep};

use crate::support::{Told, builder, instance, name, register, ttl, until};
use switchboard_tests::proxy::Proxy;

const COUNT: usize = 10;

/// Who leads, of those that run.
async fn leader(members: &[Member; 3]) -> usize {
    until("a leader", async || {
        for (number, member) in members.iter().enumerate() {
            if member.leads().await {
                return Some(number);
            }
        }
        None
    })
    .await
}

fn addresses(members: &[Member; 3]) -> Vec<String> {
    members.iter().map(Member::address).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn a_killed_leader_costs_a_moment() {
    let mut members = Member::three().await;
    let registry = builder(&addresses(&members)).open().unwrap();
    for number in 0..COUNT {
        registry.register(&instance("a", number), &ttl(30)).await.unwrap();
    }
    // A handle for each member, so that one of them watches at the leader.
    let handles = members.each_ref().map(|member| builder(&[member.address()]).open().unwrap());
    let told = [
        Told::by(&registry, "a"),
        Told::by(&handles[0], "a"),
        Told::by(&handles[1], "a"),
        Told::by(&handles[2], "a"),
    ];
    for told in &told {
        told.until(COUNT).await;
    }

    let dead = leader(&members).await;
    members[dead].kill();
    let killed = Instant::now();
    register(&registry, &instance("a", "new"), &ttl(30)).await;
    println!("leader killed: registered after {:?}", killed.elapsed());
    let seen = told[0].until(COUNT + 1).await;
    println!("  the watch has it after {:?}; it told {}", seen - killed, told[0].story());
    for (number, told) in told[1..].iter().enumerate().filter(|(number, _)| *number != dead) {
        let seen = told.until(COUNT + 1).await;
        println!("  that of member {number} after {:?}; it told {}", seen - killed, told.story());
        assert_eq!(told.fewest(), COUNT);
    }
    // At the dead member alone: an error, and what stood stands.
    told[1 + dead].until_error().await;
    members[dead].start();
    told[1 + dead].until(COUNT + 1).await;
    assert!(told.iter().all(|told| told.fewest() == COUNT));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn without_a_quorum_what_stood_stands() {
    let mut members = Member::three().await;
    let registry = builder(&addresses(&members)).open().unwrap();
    for number in 0..COUNT {
        registry.register(&instance("a", number), &ttl(15)).await.unwrap();
    }
    let told = Told::by(&registry, "a");
    told.until(COUNT).await;

    members[0].kill();
    members[1].kill();
    let lost = Instant::now();
    let error = told.until_error().await;
    println!("quorum lost: told after {:?}: {error}", lost.elapsed());
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let lookup = registry.lookup(&name("a")).await.unwrap_err();
    assert_eq!(lookup.kind(), ErrorKind::Unavailable, "{lookup}");
    assert!(registry.register(&instance("a", "new"), &ttl(15)).await.is_err());
    // Longer than the TTL: nobody counts it meanwhile.
    sleep(Duration::from_secs(20).saturating_sub(lost.elapsed())).await;
    members[0].start();
    members[1].start();
    let back = Instant::now();
    let seen = told.until(COUNT).await;
    println!("  back: the watch has all after {:?}; it told {}", seen - back, told.story());
    assert_eq!(told.fewest(), COUNT);
    register(&registry, &instance("a", "new"), &ttl(15)).await;
    println!("  registered after {:?}", back.elapsed());
    told.until(COUNT + 1).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn a_wiped_member_takes_nothing_with_it() {
    let mut members = Member::three().await;
    let registry = builder(&addresses(&members)).open().unwrap();
    for number in 0..COUNT {
        registry.register(&instance("a", number), &ttl(60)).await.unwrap();
    }
    let at = builder(&[members[0].address()]).open().unwrap();
    let told = [Told::by(&registry, "a"), Told::by(&at, "a")];
    for told in &told {
        told.until(COUNT).await;
    }
    members[0].wipe();
    let wiped = Instant::now();
    told[1].until_error().await;
    let leader = leader(&members).await;
    let (wiped_member, others) = members.split_first_mut().unwrap();
    wiped_member.rejoin(&others[leader - 1]);
    wiped_member.ready().await;
    println!("a member wiped: it is back after {:?}", wiped.elapsed());
    told[1].until(COUNT).await;
    register(&registry, &instance("a", "new"), &ttl(60)).await;
    for told in &told {
        told.until(COUNT + 1).await;
        println!("  a watch told {}", told.story());
        assert_eq!(told.fewest(), COUNT);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn compaction_while_cut_off_loses_nothing() {
    let member = Member::alone().await;
    let proxy = Proxy::to(member.address()).await;
    let near = builder(&[member.address()]).open().unwrap();
    let far = builder(std::slice::from_ref(&proxy.address)).open().unwrap();
    for number in 0..COUNT {
        near.register(&instance("a", number), &ttl(60)).await.unwrap();
    }
    let told = Told::by(&far, "a");
    told.until(COUNT).await;
    proxy.cut();
    told.until_error().await;
    for number in 0..3 {
        near.deregister(&instance("a", number).key()).await.unwrap();
    }
    // One is enough: the revision that the watch has is behind the compaction then.
    for number in 0..10 {
        member.ctl(&format!("put other {number}"));
    }
    let revision = member.ctl("get other -w fields");
    let revision = revision.lines().find_map(|line| line.strip_prefix("\"Revision\" : ")).unwrap().to_owned();
    member.ctl(&format!("compact {revision}"));
    proxy.mend();
    let mended = Instant::now();
    let seen = told.until(COUNT - 3).await;
    println!("compacted while cut off: right after {:?}; told {}", seen - mended, told.story());
    assert_eq!(told.fewest(), COUNT - 3);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn a_member_that_hangs_is_left() {
    let members = Member::three().await;
    let follower = (leader(&members).await + 1) % 3;
    let registry = builder(&[members[follower].address(), members[(follower + 1) % 3].address()])
        .timeout(Duration::from_secs(4))
        .open()
        .unwrap();
    registry.register(&instance("a", 1), &ttl(60)).await.unwrap();
    let told = Told::by(&registry, "a");
    told.until(1).await;
    // Whichever of the two is spoken to, it is one of these.
    for number in [follower, (follower + 1) % 3] {
        members[number].hang();
        let hung = Instant::now();
        let id = format!("during {number}");
        register(&registry, &instance("a", &id), &ttl(60)).await;
        println!("member {number} hangs: registered after {:?}", hung.elapsed());
        until("found", async || {
            registry.lookup(&name("a")).await.ok().filter(|found| found.contains_id(&id))
        })
        .await;
        members[number].go_on();
    }
    let seen = told.until(3).await;
    println!("  the watch has both after {:?}; it told {}", seen.elapsed(), told.story());
}

trait ContainsId {
    fn contains_id(&self, id: &str) -> bool;
}

impl ContainsId for switchboard_core::Snapshot {
    fn contains_id(&self, id: &str) -> bool {
        self.all().iter().any(|instance| instance.id().as_str() == id)
    }
}
