//! Two developers on one link, with all the same services.

use switchboard_tests::netns::World;

use crate::{LIMIT, greeter, instances, node_at, register, until_seen};

#[test]
#[ignore = "needs root"]
fn two_developers_with_the_same_services_do_not_meet() {
    let world = World::new();
    let (alice, bob) = (world.machine("alice", "10.0.0.1/24"), world.machine("bob", "10.0.0.2/24"));
    let third = world.machine("third", "10.0.0.3/24");
    // Even the ids are the same.
    let mut alices = node_at(&alice, "mdns:?namespace=alice");
    let mut bobs = node_at(&bob, "mdns:?namespace=bob");
    register(&mut alices, &greeter("greeter-1", "10.0.0.1:80"));
    register(&mut bobs, &greeter("greeter-1", "10.0.0.2:80"));

    for (machine, namespace, address) in
        [(&alice, "alice", "10.0.0.1:80"), (&bob, "bob", "10.0.0.2:80"), (&third, "alice", "10.0.0.1:80")]
    {
        let mut client = node_at(machine, &format!("mdns:?namespace={namespace}"));
        client.tell("watch greeter");
        let (seen, _) = until_seen(&mut client, "greeter", "greeter-1", LIMIT);
        assert_eq!(seen["addresses"][0], address);
        client.tell("services");
        let names = |event: &serde_json::Value| event["names"].as_array().cloned();
        assert_eq!(client.until("the names", LIMIT, names).0, ["greeter"]);
        let told = client.log().iter().filter_map(|event| instances(&event.value, "greeter"));
        assert!(told.into_iter().all(|told| told.iter().all(|one| one["addresses"][0] == address)));
    }

    // Who is in no namespace meets neither, and can see both.
    let mut operator = node_at(&third, "mdns:");
    operator.tell("watch greeter");
    let nobody = |event: &serde_json::Value| instances(event, "greeter")?.is_empty().then_some(());
    operator.until("nobody", LIMIT, nobody);
    for name in ["alice--greeter", "bob--greeter"] {
        operator.tell(format!("watch {name}"));
        until_seen(&mut operator, name, "greeter-1", LIMIT);
    }
}
