//! Many instances, many watches, and values of all kinds.

use std::time::Duration;

use futures::{StreamExt, stream};
use switchboard_core::Registry;
use switchboard_tests::etcd::Member;
use tokio::time::Instant;

use crate::support::{Told, instance, name, registry, ttl, until};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn ten_thousand_instances_come_in_pages() {
    const COUNT: usize = 10_000;
    let member = Member::alone().await;
    let registry = registry(&member);
    let start = Instant::now();
    let all = stream::iter(0..COUNT).map(|number| {
        let registry = &registry;
        async move { registry.register(&instance("many", number), &ttl(600)).await.unwrap() }
    });
    all.buffer_unordered(64).collect::<Vec<()>>().await;
    println!("{COUNT} registered in {:?}", start.elapsed());

    let other = crate::support::registry(&member);
    let start = Instant::now();
    assert_eq!(other.lookup(&name("many")).await.unwrap().len(), COUNT);
    println!("looked up in {:?}", start.elapsed());
    assert_eq!(other.services().await.unwrap().len(), 1);

    let start = Instant::now();
    let told = Told::by(&other, "many");
    println!("watched after {:?}", told.until(COUNT).await - start);
    let start = Instant::now();
    registry.register(&instance("many", "one more"), &ttl(600)).await.unwrap();
    println!("one change is told after {:?}", told.until(COUNT + 1).await - start);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn values_too_large_for_one_answer_come_in_smaller_pages() {
    const COUNT: usize = 40;
    let member = Member::alone().await;
    let large = "x".repeat(500_000);
    for number in 0..COUNT {
        // Not ours, so of any size; 20 MB in all.
        let value =
            format!(r#"{{"Op":0,"Addr":"10.0.0.1:{}","Metadata":null,"more":"{large}"}}"#, 1000 + number);
        member.ctl_given(&format!("put switchboard/large/{number}"), &value);
    }
    let registry = registry(&member);
    assert_eq!(registry.lookup(&name("large")).await.unwrap().len(), COUNT);
    let told = Told::by(&registry, "large");
    told.until(COUNT).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn a_thousand_watches_share_one_stream() {
    const COUNT: usize = 1000;
    let member = Member::alone().await;
    let watcher = registry(&member);
    let told: Vec<_> = (0..COUNT).map(|number| Told::by(&watcher, &format!("s{number}"))).collect();
    let start = Instant::now();
    for told in &told {
        told.until(0).await;
    }
    println!("{COUNT} watches told first after {:?}", start.elapsed());
    let streams = async || member.figure("grpc_server_started_total", r#"grpc_method="Watch""#).await;
    assert!((streams().await - 1.0).abs() < 0.5, "{}", streams().await);
    let writer = registry(&member);
    let start = Instant::now();
    for (number, told) in told.iter().enumerate() {
        writer.register(&instance(&format!("s{number}"), 1), &ttl(600)).await.unwrap();
        told.until(1).await;
    }
    println!("a change in each, one after the other, in {:?}", start.elapsed());
    let watching = async || member.figure("etcd_debugging_mvcc_watcher_total", "").await;
    until("all watches known to etcd", async || (watching().await >= 1000.0).then_some(())).await;
    // Half of them end, the others go on.
    let mut told = told;
    drop(told.split_off(COUNT / 2));
    for (number, told) in told.iter().enumerate().take(10) {
        writer.deregister(&instance(&format!("s{number}"), 1).key()).await.unwrap();
        told.until(0).await;
    }
    drop(told);
    until("all watches ended", async || (watching().await < 0.5).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn what_others_write_badly_is_left_out_and_the_rest_stays() {
    let member = Member::alone().await;
    let registry = registry(&member);
    registry.register(&instance("a", "good"), &ttl(600)).await.unwrap();
    let told = Told::by(&registry, "a");
    told.until(1).await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (number, value) in [
        "",
        "null",
        "{",
        "[]",
        "7",
        "\"",
        "\u{0}",
        r#"{"Addr":":"}"#,
        r#"{"nodes":[{}]}"#,
        r#"{"Addr":1}"#,
        &deep,
    ]
    .iter()
    .enumerate()
    {
        if value.is_empty() {
            member.ctl(&format!("put switchboard/a/bad{number} "));
        } else {
            member.ctl_given(&format!("put switchboard/a/bad{number}"), value);
        }
    }
    for key in [
        "switchboard/",
        "switchboard//",
        "switchboard/a",
        "switchboard/%ff/1",
        "switchboard/a/%",
        "switchboard/%2/%2",
    ] {
        member.ctl_given(&format!("put {key}"), "x");
    }
    registry.register(&instance("a", "last"), &ttl(600)).await.unwrap();
    told.until(2).await;
    assert_eq!(registry.lookup(&name("a")).await.unwrap().len(), 2);
    let names: Vec<_> = registry.services().await.unwrap().into_iter().map(|name| name.to_string()).collect();
    assert_eq!(names, ["a"]);
    assert_eq!(told.fewest(), 1);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn a_registration_given_up_half_way_goes_with_its_handle() {
    let member = Member::alone().await;
    let registry = registry(&member);
    let other = crate::support::registry(&member);
    for number in 0..200_u64 {
        let one = instance("half", number);
        let options = ttl(600);
        let registering = registry.register(&one, &options);
        let _ = tokio::time::timeout(Duration::from_micros(number * 20), registering).await;
    }
    registry.close().await.unwrap();
    assert_eq!(other.lookup(&name("half")).await.unwrap().len(), 0);
}
