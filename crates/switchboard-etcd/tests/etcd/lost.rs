//! What etcd has lost, and what puts it back; servers that are killed.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use switchboard_core::{RegisterOptions, Registry};
use switchboard_registrar::Registrar;
use switchboard_tests::etcd::Member;
use tokio::time::{Instant, sleep};

use crate::support::{Told, builder, instance, name, registry, ttl, until, within};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn a_renewal_puts_back_what_went() {
    let member = Member::alone().await;
    let registry = registry(&member);
    let one = instance("a", 1);
    registry.register(&one, &ttl(60)).await.unwrap();
    let told = Told::by(&registry, "a");
    told.until(1).await;

    // The lease, with the key on it.
    let lease = member.ctl("lease list").lines().last().unwrap().to_owned();
    member.ctl(&format!("lease revoke {lease}"));
    told.until(0).await;
    registry.register(&one, &ttl(60)).await.unwrap();
    told.until(1).await;

    // The key alone, by somebody else.
    member.ctl("del --prefix switchboard/");
    told.until(0).await;
    registry.register(&one, &ttl(60)).await.unwrap();
    told.until(1).await;
    let key = "switchboard/a/1";
    let lease = |member: &Member| {
        let told = member.ctl(&format!("get {key} -w fields"));
        told.lines().find_map(|line| line.strip_prefix("\"Lease\" : ")).unwrap().to_owned()
    };
    assert_ne!(lease(&member), "0", "it would stay for ever");

    // Its value, likewise: then it is on no lease.
    member.ctl(&format!("put {key} nonsense"));
    told.until(0).await;
    registry.register(&one, &ttl(60)).await.unwrap();
    told.until(1).await;
    assert_ne!(lease(&member), "0");
    assert_eq!(**registry.lookup(&name("a")).await.unwrap().all().first().unwrap(), one);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn what_a_wiped_cluster_misses_is_kept_for_a_while() {
    let mut member = Member::alone().await;
    let grace = Duration::from_secs(4);
    let registry = builder(&[member.address()]).rejoin_grace(grace).open().unwrap();
    for number in 0..3 {
        registry.register(&instance("a", number), &ttl(60)).await.unwrap();
    }
    let told = Told::by(&registry, "a");
    told.until(3).await;
    member.wipe();
    told.until_error().await;
    member.start();
    member.ready().await;
    told.until(3).await;
    registry.register(&instance("a", 0), &ttl(60)).await.unwrap();
    // The others do not come back: that is told when the time is over.
    let gone = told.until(1).await;
    println!("told {}; {:?} ago", told.story(), gone.elapsed());
    assert_eq!(registry.lookup(&name("a")).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn a_hundred_registrars_and_a_wiped_cluster() {
    const COUNT: usize = 100;
    let mut member = Member::alone().await;
    let address = member.address();
    let interval = Duration::from_secs(5);
    // What is asked is whether the wiped are ever told as gone. With the usual three intervals, a machine that stands still for 10 s
    // lets new leases lapse as well, and those have to be told.
    let ttl = interval * 12;
    let registrars = (0..COUNT).map(|number| {
        let registry = Arc::new(builder(std::slice::from_ref(&address)).open().unwrap());
        Registrar::new(registry, instance("a", number)).interval(interval).ttl(ttl).start()
    });
    let registrars: Vec<_> = join_all(registrars).await.into_iter().map(Result::unwrap).collect();
    let watcher = registry(&member);
    let told = Told::by(&watcher, "a");
    told.until(COUNT).await;

    member.wipe();
    told.until_error().await;
    member.start();
    member.ready().await;
    let back = Instant::now();
    let stop = AtomicBool::new(false);
    let asked = async {
        let count = async || member.figure("grpc_server_started_total", "etcdserverpb").await;
        let (mut before, mut worst, mut at) = (count().await, 0.0_f64, Instant::now());
        while !stop.load(Ordering::Relaxed) {
            sleep(Duration::from_secs(1)).await;
            let now = count().await;
            worst = worst.max((now - before) / at.elapsed().as_secs_f64());
            (before, at) = (now, Instant::now());
        }
        worst
    };
    let all = async {
        let looker = registry(&member);
        until("all back", async || looker.lookup(&name("a")).await.ok().filter(|found| found.len() == COUNT))
            .await;
        let took = back.elapsed();
        sleep(interval * 2).await;
        stop.store(true, Ordering::Relaxed);
        took
    };
    let (worst, took) = tokio::join!(asked, all);
    println!(
        "{COUNT} registrars renewing every {interval:?}: all back {took:?} after etcd; at the worst {worst:.0} requests in a second"
    );
    println!("  the watch told {}", told.story());
    assert_eq!(told.fewest(), COUNT);
    assert!(worst < 2000.0, "{worst}");
    within(
        "leaving",
        join_all(registrars.into_iter().map(|registrar| async move { registrar.shutdown().await.unwrap() })),
    )
    .await;
    told.until(0).await;
}

/// Where the server that is killed registers, and with what TTL.
const SERVER: &str = "SWITCHBOARD_TEST_ETCD_SERVER";

#[tokio::test]
#[ignore = "needs etcd"]
async fn server_that_is_killed() {
    let Ok(given) = std::env::var(SERVER) else { return };
    let (address, seconds) = given.split_once(' ').unwrap();
    let registry = builder(&[address.to_owned()]).open().unwrap();
    let options = match seconds.parse().unwrap() {
        0 => RegisterOptions::new(),
        seconds => ttl(seconds),
    };
    loop {
        registry.register(&instance("killed", seconds), &options).await.unwrap();
        sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn a_killed_server_is_gone_after_its_ttl() {
    let member = Member::alone().await;
    let watcher = registry(&member);
    let told = Told::by(&watcher, "killed");
    told.until(0).await;
    for (seconds, limit) in [(5, 7), (0, 33)] {
        let mut server = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "lost::server_that_is_killed"])
            .env(SERVER, format!("{} {seconds}", member.address()))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        told.until(1).await;
        sleep(Duration::from_secs(3)).await;
        server.kill().unwrap();
        let killed = Instant::now();
        server.wait().unwrap();
        let gone = told.until(0).await - killed;
        println!("killed with a TTL of {seconds} s (0: none): gone after {gone:?}");
        assert!(gone < Duration::from_secs(limit * 2), "{gone:?}");
    }
}
