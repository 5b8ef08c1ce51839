//! What can happen to mdns-sd's thread, brought about: it ends by a panic, or is busy for long. Tests only.

use std::collections::BTreeSet;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use futures::StreamExt;
use futures::future::AbortHandle;
use mdns_sd::{IfKind, IfPredicate};
use switchboard_core::{ErrorKind, Instance, RegisterOptions, Registry, Snapshot, SnapshotStream};
use tokio::time::timeout;

use crate::MdnsRegistry;
use crate::daemon::Daemon;

const LIMIT: Duration = Duration::from_secs(20);

impl Daemon {
    /// Ends the thread as a defect of mdns-sd would: without a goodbye and without a word.
    fn crash(&self) {
        let crash = IfPredicate::new(|_| panic!("a test ends the mDNS thread"));
        self.inner().enable_interface(IfKind::Predicate(crash)).unwrap();
    }

    /// Keeps the thread busy and its queue full, so that it takes no command, until the sender is dropped.
    fn stall(&self) -> mpsc::Sender<()> {
        let (release, released) = mpsc::channel::<()>();
        let (enter, entered) = mpsc::channel();
        let released = std::sync::Mutex::new(released);
        let stalled = IfPredicate::new(move |_| {
            // Nobody listens to the second interface's.
            let _ = enter.send(());
            released.lock().unwrap().recv().is_ok()
        });
        self.inner().enable_interface(IfKind::Predicate(stalled)).unwrap();
        entered.recv().unwrap();
        while self.inner().status().is_ok() {}
        release
    }
}

/// A UDP port that nobody has, so that tests do not hear each other: below the range of which the system gives to whoever asks
/// for any.
fn free_port() -> u16 {
    let is_free = |port: &u16| std::net::UdpSocket::bind(("0.0.0.0", *port)).is_ok();
    std::iter::repeat_with(|| fastrand::u16(30_000..32_000)).find(is_free).unwrap()
}

/// With a settle window that makes an outage long enough to be noticed on a busy machine.
async fn open(port: u16) -> MdnsRegistry {
    let builder = MdnsRegistry::builder().interface("lo").port(port).settle(Duration::from_secs(1));
    builder.open().await.unwrap()
}

fn instance(service: &str, id: &str) -> Instance {
    Instance::builder(service).id(id).address("127.0.0.1:80").build().unwrap()
}

/// With an id that needs no probing.
fn random(service: &str, number: u16) -> Instance {
    let builder = Instance::builder(service).address(format!("127.0.0.1:{}", 8000 + number));
    builder.build().unwrap()
}

async fn next(watch: &mut SnapshotStream) -> switchboard_core::Result<Snapshot> {
    timeout(LIMIT, watch.next()).await.expect("something is told in time").expect("it goes on")
}

/// Ends the thread and the task that would start another; calling what it gives starts that task again.
async fn die(registry: &MdnsRegistry) -> impl FnOnce() -> AbortOnDrop {
    let shared = registry.shared.clone();
    let events = shared.daemon.monitor().await.unwrap();
    registry.task.abort();
    shared.daemon.crash();
    while !shared.daemon.has_ended() {
        tokio::task::yield_now().await;
    }
    move || {
        let own = Arc::downgrade(&shared.own);
        let (run, task) = futures::future::abortable(shared.announcer.clone().run(events, own));
        tokio::spawn(run);
        AbortOnDrop(task)
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test]
async fn a_daemon_that_ended_is_told_and_another_takes_its_place() {
    let port = free_port();
    let (here, there) = (open(port).await, open(port).await);
    let (mine, theirs) = (instance("greeter", "mine"), instance("greeter", "theirs"));
    let web = instance("_http._tcp", "web");
    here.register(&mine, &RegisterOptions::new()).await.unwrap();
    for instance in [&theirs, &web] {
        there.register(instance, &RegisterOptions::new()).await.unwrap();
    }
    let mut watches = [here.watch(mine.service()), here.watch(web.service())];
    let before = [next(&mut watches[0]).await.unwrap(), next(&mut watches[1]).await.unwrap()];
    assert_eq!(before.each_ref().map(Snapshot::len), [2, 1]);
    let mut names = here.watch_services();
    assert_eq!(names.next().await.unwrap().unwrap().len(), 1);

    here.shared.daemon.crash();
    for watch in &mut watches {
        let error = next(watch).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("the mDNS thread has ended"), "{error}");
    }
    assert!(names.next().await.unwrap().is_err());
    // Nothing has changed, and that is told again.
    for (watch, before) in watches.iter_mut().zip(&before) {
        assert_eq!(next(watch).await.unwrap(), *before);
    }
    assert_eq!(timeout(LIMIT, names.next()).await.unwrap().unwrap().unwrap().len(), 1);
    // What was registered is there still, what goes is seen to go, and nothing was gone in between.
    there.deregister(&theirs.key()).await.unwrap();
    let after = next(&mut watches[0]).await.unwrap();
    assert_eq!(after, Snapshot::new(mine.service().clone(), [Arc::new(mine.clone())]));
    let fresh = open(port).await;
    assert_eq!(fresh.lookup(mine.service()).await.unwrap(), after);
    here.deregister(&mine.key()).await.unwrap();
    assert!(next(&mut watches[0]).await.unwrap().is_empty());
    here.close().await.unwrap();
    assert_eq!(next(&mut watches[0]).await.unwrap_err().kind(), ErrorKind::Closed);
    assert!(watches[0].next().await.is_none());
}

#[tokio::test]
async fn what_went_during_an_outage_is_gone_after_it() {
    let port = free_port();
    let (here, there) = (open(port).await, open(port).await);
    let theirs = instance("greeter", "theirs");
    there.register(&theirs, &RegisterOptions::new()).await.unwrap();
    let mut watch = here.watch(theirs.service());
    assert_eq!(next(&mut watch).await.unwrap().len(), 1);
    here.shared.daemon.crash();
    // Without a goodbye: the new daemon never hears of it.
    there.task.abort();
    there.shared.daemon.crash();
    assert!(next(&mut watch).await.is_err());
    assert_eq!(next(&mut watch).await.unwrap().len(), 1, "not heard again is not gone");
    assert!(next(&mut watch).await.unwrap().is_empty());
}

#[tokio::test]
async fn while_nothing_is_heard_a_lookup_fails_and_a_refused_registration_stays_away() {
    let here = open(free_port()).await;
    let first = instance("greeter", "1");
    here.register(&first, &RegisterOptions::new()).await.unwrap();
    let mut watch = here.watch(first.service());
    assert_eq!(next(&mut watch).await.unwrap().len(), 1);
    here.task.abort();
    here.shared.daemon.crash();
    assert!(next(&mut watch).await.is_err());
    for error in [
        here.lookup(first.service()).await.unwrap_err(),
        here.services().await.unwrap_err(),
        here.register(&instance("greeter", "2"), &RegisterOptions::new()).await.unwrap_err(),
        here.deregister(&first.key()).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
    assert!(next(&mut here.watch(first.service())).await.is_err(), "an error is never an empty snapshot");
    drop(here);
    assert_eq!(next(&mut watch).await.unwrap_err().kind(), ErrorKind::Closed);
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn a_goodbye_that_failed_is_said_by_the_next_try() {
    let port = free_port();
    let (here, there) = (open(port).await, open(port).await);
    let instance = instance("greeter", "1");
    here.register(&instance, &RegisterOptions::new()).await.unwrap();
    let mut watch = there.watch(instance.service());
    assert_eq!(next(&mut watch).await.unwrap().len(), 1);

    // No help from the task that tries again by itself.
    here.task.abort();
    let stalled = here.shared.daemon.stall();
    assert_eq!(here.deregister(&instance.key()).await.unwrap_err().kind(), ErrorKind::Unavailable);
    drop(stalled);
    here.deregister(&instance.key()).await.unwrap();
    assert!(next(&mut watch).await.unwrap().is_empty());
    here.deregister(&instance.key()).await.unwrap();
}

#[tokio::test]
async fn closing_is_bounded_in_whole_when_the_daemon_takes_no_command() {
    let here = open(free_port()).await;
    let all: Vec<Instance> = (0..20).map(|n| random("greeter", n)).collect();
    for instance in &all {
        here.register(instance, &RegisterOptions::new()).await.unwrap();
    }
    here.task.abort();
    let _stalled = here.shared.daemon.stall();
    // From here on the clock jumps while nothing happens. Each goodbye alone would wait for 5 s.
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    assert_eq!(here.close().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_type_is_forgotten_though_the_queue_was_full_when_its_last_reader_left() {
    let port = free_port();
    let (here, there) = (open(port).await, open(port).await);
    let web = instance("_http._tcp", "web");
    there.register(&web, &RegisterOptions::new()).await.unwrap();
    let mut watch = here.watch(web.service());
    assert_eq!(next(&mut watch).await.unwrap().len(), 1);
    // What it says again a second after the first time would be kept, for as long as its TTL, if it came after the end.
    let _ended = die(&there).await;
    let stalled = here.shared.daemon.stall();
    drop(watch);
    drop(stalled);
    let forgotten = async {
        loop {
            let metrics = here.shared.daemon.inner().get_metrics();
            let counts = match metrics {
                Ok(counts) => counts.recv_async().await.unwrap(),
                Err(_) => std::collections::HashMap::default(),
            };
            // Every record of it is dropped with its type.
            if counts.get("cached-srv") == Some(&0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, forgotten).await.expect("nothing is kept of a type that nobody reads");
}

#[tokio::test]
async fn a_goodbye_that_failed_is_said_later_without_being_asked_for() {
    let port = free_port();
    let (here, there) = (open(port).await, open(port).await);
    let instance = instance("greeter", "1");
    here.register(&instance, &RegisterOptions::new()).await.unwrap();
    let mut watch = there.watch(instance.service());
    assert_eq!(next(&mut watch).await.unwrap().len(), 1);

    let stalled = here.shared.daemon.stall();
    assert!(here.deregister(&instance.key()).await.is_err());
    drop(stalled);
    assert!(next(&mut watch).await.unwrap().is_empty());

    // And it can be registered again, for good.
    here.register(&instance, &RegisterOptions::new()).await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap().len(), 1);
    assert!(timeout(Duration::from_secs(2), watch.next()).await.is_err(), "nothing withdraws it later");
}

#[tokio::test]
async fn a_goodbye_that_the_end_of_the_thread_prevented_is_said_by_the_next() {
    let port = free_port();
    let (here, there) = (open(port).await, open(port).await);
    let instance = instance("greeter", "1");
    here.register(&instance, &RegisterOptions::new()).await.unwrap();
    let mut watch = there.watch(instance.service());
    assert_eq!(next(&mut watch).await.unwrap().len(), 1);
    let revive = die(&here).await;
    assert_eq!(here.deregister(&instance.key()).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let _task = revive();
    assert!(next(&mut watch).await.unwrap().is_empty());
    here.deregister(&instance.key()).await.unwrap();
}

#[tokio::test]
async fn what_was_refused_in_an_outage_does_not_come_up_after_it() {
    let port = free_port();
    let (here, there) = (open(port).await, open(port).await);
    let [first, refused, last] = ["1", "2", "3"].map(|id| instance("greeter", id));
    here.register(&first, &RegisterOptions::new()).await.unwrap();
    let mut watch = there.watch(first.service());
    assert_eq!(next(&mut watch).await.unwrap().len(), 1);

    let revive = die(&here).await;
    assert!(here.register(&refused, &RegisterOptions::new()).await.is_err());
    let _task = revive();
    let registering = async {
        while here.register(&last, &RegisterOptions::new()).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    // Whatever comes up until then.
    let watching = async {
        let mut ids = BTreeSet::new();
        while !ids.contains("3") {
            let state = next(&mut watch).await.unwrap();
            ids.extend(state.all().iter().map(|found| found.id().to_string()));
        }
        ids
    };
    let both = timeout(LIMIT, async { tokio::join!(registering, watching).1 });
    let seen = both.await.expect("a daemon takes the place of the one that ended");
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["1", "3"]);
}

#[tokio::test]
async fn a_label_that_a_conflict_gave_is_kept_by_the_next_daemon() {
    let port = free_port();
    let (here, there) = (open(port).await, open(port).await);
    let (theirs, mine) = (instance("greeter", "same"), instance("other", "same"));
    there.register(&theirs, &RegisterOptions::new()).await.unwrap();
    here.register(&mine, &RegisterOptions::new()).await.unwrap();
    assert_eq!(here.label(&mine.key()).as_deref(), Some("same (2)"));
    let mut watches = [here.watch(mine.service()), here.watch(theirs.service())];
    for watch in &mut watches {
        assert_eq!(next(watch).await.unwrap().len(), 1);
    }

    here.shared.daemon.crash();
    for watch in &mut watches {
        assert!(next(watch).await.is_err());
    }
    for watch in &mut watches {
        assert_eq!(next(watch).await.unwrap().len(), 1);
    }
    assert_eq!(here.label(&mine.key()).as_deref(), Some("same (2)"));
    let fresh = open(port).await;
    for instance in [&mine, &theirs] {
        assert_eq!(fresh.lookup(instance.service()).await.unwrap().all()[0].as_ref(), instance);
    }
    // Its goodbye is its own.
    here.deregister(&mine.key()).await.unwrap();
    assert!(next(&mut watches[0]).await.unwrap().is_empty());
    assert_eq!(fresh.lookup(theirs.service()).await.unwrap().len(), 1);
}

#[cfg(feature = "metrics")]
#[test]
fn a_thread_that_took_the_place_of_another_is_counted() {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    let recorder = DebuggingRecorder::new();
    let counted = recorder.snapshotter();
    let restarts = || {
        let all = counted.snapshot().into_vec();
        let found = all.into_iter().find(|(key, ..)| key.key().name() == "switchboard.mdns.restarts");
        let Some((.., DebugValue::Counter(count))) = found else { panic!("no such counter") };
        count
    };
    let crash = async {
        let registry = open(free_port()).await;
        assert_eq!(restarts(), 0);
        registry.shared.daemon.crash();
        let restarted = async {
            while restarts() != 1 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(LIMIT, restarted).await.expect("it is counted");
    };
    metrics::with_local_recorder(&recorder, || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(crash);
    });
}
