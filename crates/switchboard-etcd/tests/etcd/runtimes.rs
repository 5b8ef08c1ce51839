//! A handle that several runtimes use, one of which ends.

use std::sync::Arc;
use std::thread;

use futures::StreamExt;
use switchboard_core::Registry;
use switchboard_tests::etcd::Member;
use tokio::runtime::Runtime;

use crate::support::{instance, name, registry, ttl, within};

#[test]
#[ignore = "needs etcd"]
fn a_watch_outlives_the_runtime_that_began_it() {
    let (first, second) = (Runtime::new().unwrap(), Runtime::new().unwrap());
    let member = second.block_on(Member::alone());
    let registry = Arc::new(registry(&member));
    // The connection, the stream of watches and the following task are the first runtime's.
    let mut early = first.block_on(async {
        let mut watch = registry.watch(&name("a"));
        assert_eq!(watch.next().await.unwrap().unwrap().len(), 0);
        watch
    });
    second.block_on(async {
        let mut late = registry.watch(&name("a"));
        assert_eq!(within("a first state", late.next()).await.unwrap().unwrap().len(), 0);
        thread::spawn(move || drop(first)).join().unwrap();
        within("registered", registry.register(&instance("a", 1), &ttl(60))).await.unwrap();
        for watch in [&mut early, &mut late] {
            let told = async { while !watch.next().await.unwrap().is_ok_and(|found| found.len() == 1) {} };
            within("the change", told).await;
        }
        within("closing", registry.close()).await.unwrap();
    });
}
