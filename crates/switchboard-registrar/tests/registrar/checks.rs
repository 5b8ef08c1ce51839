//! Checks: when they run, and what comes of them.

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use switchboard_core::{Instance, MemoryRegistry, Registry};
use switchboard_registrar::{Registrar, Running, Status};
use tokio::time::{Instant, sleep};

use crate::support::{
    Bursts, Call, Mood, Scripted, instance, is_registered, is_withdrawn, registrar, seconds, until,
};

/// Something that servers depend on, and that their checks ask.
#[derive(Default)]
struct Dependency {
    way: Mutex<Way>,
    asked: Mutex<Vec<Instant>>,
    asking: AtomicUsize,
    most_at_once: AtomicUsize,
}

#[derive(Clone, Copy, Default)]
enum Way {
    #[default]
    Well,
    Fails,
    Takes(Duration),
    Hangs,
}

impl Dependency {
    fn set(&self, way: Way) {
        *self.way.lock().unwrap() = way;
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    async fn ask(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.asked.lock().unwrap().push(Instant::now());
        self.most_at_once.fetch_max(self.asking.fetch_add(1, Relaxed) + 1, Relaxed);
        let _asking = Asking(&self.asking);
        let way = *self.way.lock().unwrap();
        match way {
            Way::Well => Ok(()),
            Way::Fails => Err("the disk is full".into()),
            Way::Takes(time) => {
                sleep(time).await;
                Ok(())
            }
            Way::Hangs => pending().await,
        }
    }
}

/// Counts a question as asked until it is answered or given up.
struct Asking<'a>(&'a AtomicUsize);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

fn checking(registrar: Registrar, dependency: &Arc<Dependency>) -> Registrar {
    let dependency = dependency.clone();
    registrar.check(move || {
        let dependency = dependency.clone();
        async move { dependency.ask().await }
    })
}

/// Twenty servers that share what they depend on.
async fn fleet(
    registry: &Arc<Scripted>,
    dependency: &Arc<Dependency>,
    settings: impl Fn(Registrar) -> Registrar,
) -> Vec<Running> {
    let mut fleet = Vec::new();
    for number in 0..20 {
        let instance = Instance::builder("greeter").id(number.to_string()).address("h:1").build().unwrap();
        let registrar = settings(Registrar::new(registry.clone(), instance));
        fleet.push(checking(registrar, dependency).start().await.unwrap());
    }
    fleet
}

async fn listed(registry: &Scripted) -> usize {
    registry.memory.lookup(instance().service()).await.unwrap().all().len()
}

#[tokio::test(start_paused = true)]
async fn a_dependency_that_is_slow_for_one_check_takes_nobody_out() {
    let (registry, dependency) = (Scripted::new(), Arc::new(Dependency::default()));
    let fleet = fleet(&registry, &dependency, |registrar| registrar).await;
    for slow in [Way::Hangs, Way::Fails, Way::Takes(seconds(30))] {
        sleep(seconds(60)).await;
        let asked = dependency.asked();
        dependency.set(slow);
        sleep(seconds(10)).await;
        dependency.set(Way::Well);
        assert!(dependency.asked() >= asked + 20, "each has asked");
        let failing =
            |running: &Running| matches!(running.status(), Status::Registered { check: Some(_), .. });
        assert!(fleet.iter().any(failing));
        for _ in 0..30 {
            assert_eq!(listed(&registry).await, 20);
            sleep(seconds(1)).await;
        }
        assert!(
            fleet.iter().all(|running| matches!(running.status(), Status::Registered { check: None, .. }))
        );
    }
    assert_eq!(registry.deregistrations(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_dependency_that_fails_for_longer_takes_all_out_and_they_come_back() {
    for (healthy_after, way) in [(1, Way::Fails), (1, Way::Hangs), (3, Way::Fails)] {
        let (registry, dependency) = (Scripted::new(), Arc::new(Dependency::default()));
        let fleet = fleet(&registry, &dependency, |registrar| registrar.healthy_after(healthy_after)).await;
        sleep(seconds(60)).await;
        dependency.set(way);
        // The second failure is over by then, at most; the third has not begun.
        sleep(seconds(16)).await;
        assert_eq!(listed(&registry).await, 20);
        // Three intervals, and the time that the last check takes.
        sleep(seconds(19)).await;
        assert_eq!(listed(&registry).await, 0);
        let registrations = registry.registrations();
        sleep(seconds(300)).await;
        assert_eq!(registry.registrations(), registrations, "while withdrawn, no renewal registers");
        assert!(fleet.iter().all(|running| is_withdrawn(&running.status())));

        dependency.set(Way::Well);
        let passes = u64::from(healthy_after);
        // As many checks have not begun by then, unless one is enough.
        let too_soon = seconds(8 * (passes - 1));
        sleep(too_soon).await;
        assert!(passes == 1 || listed(&registry).await == 0);
        sleep(seconds(10 * passes).saturating_sub(too_soon)).await;
        assert_eq!(listed(&registry).await, 20);
        assert!(fleet.iter().all(|running| running.status().is_ready()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_fleet_does_not_check_in_lockstep() {
    fastrand::seed(1);
    let (registry, dependency) = (Scripted::new(), Arc::new(Dependency::default()));
    let fleet = fleet(&registry, &dependency, |registrar| registrar).await;
    // From the second check on.
    for _ in 0..10 {
        let before = dependency.asked();
        sleep(seconds(10)).await;
        let mut at: Vec<Instant> = dependency.asked.lock().unwrap()[before..].to_vec();
        at.dedup();
        assert!(at.len() >= fleet.len() - 2, "nearly all at moments of their own: {at:?}");
        assert!(at[at.len() - 1] - at[0] > seconds(5), "spread over the interval: {at:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn checks_keep_their_own_interval_after_failures_and_hangs_too() {
    for way in [Way::Well, Way::Fails, Way::Hangs, Way::Takes(seconds(4))] {
        let dependency = Arc::new(Dependency::default());
        let running = checking(registrar(&Scripted::new()), &dependency).interval(seconds(7));
        let running = running.check_timeout(seconds(6)).start().await.unwrap();
        dependency.set(way);
        sleep(seconds(300)).await;
        let asked = dependency.asked.lock().unwrap().clone();
        let gaps: Vec<Duration> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
        // The clock of a sleep has steps of a millisecond.
        let usual = seconds(8)..=seconds(10) + Duration::from_millis(1);
        assert!(gaps[0] <= *usual.end(), "at a random moment, so that those started together part");
        assert!(gaps[1..].iter().all(|gap| usual.contains(gap)), "{gaps:?}");
        assert!(gaps.windows(2).any(|pair| pair[0] != pair[1]));
        running.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_registration_waits_for_a_check_that_passes() {
    let (registry, dependency) = (Scripted::new(), Arc::new(Dependency::default()));
    dependency.set(Way::Takes(seconds(3)));
    let started = Instant::now();
    // One is enough at the start, and later several.
    let running = checking(registrar(&registry), &dependency).healthy_after(3).start().await.unwrap();
    assert_eq!(started.elapsed(), seconds(3));
    assert_eq!(registry.times(), [Instant::now()]);
    running.shutdown().await.unwrap();

    let registry = Scripted::new();
    dependency.set(Way::Fails);
    let running = checking(registrar(&registry), &dependency).start().await.unwrap();
    assert_eq!(running.status().to_string(), "withdrawn for 0 s by its check: the disk is full");
    sleep(seconds(100)).await;
    assert_eq!(registry.registrations(), 0);
    dependency.set(Way::Well);
    let passes = Instant::now();
    until(&running, is_registered).await;
    assert!(passes.elapsed() <= seconds(10));
}

#[tokio::test(start_paused = true)]
async fn start_gives_up_on_a_first_check_that_takes_longer_than_it_may() {
    let registry = Scripted::new();
    let dependency = Arc::new(Dependency::default());
    dependency.set(Way::Hangs);
    let slow = checking(registrar(&registry), &dependency).check_timeout(seconds(100));
    let error = slow.start_limit(seconds(4)).start().await.unwrap_err();
    assert_eq!(error.message(), "greeter/1 was not registered within 4s");
    assert_eq!((registry.registrations(), dependency.asking.load(Relaxed)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_check_that_panics_or_hangs_has_failed() {
    let registry = Scripted::new();
    let panics = registrar(&registry).check(|| async { panics() }).start().await.unwrap();
    assert!(panics.status().to_string().ends_with("the check panicked"));
    let panics =
        registrar(&registry).check(|| -> std::future::Ready<Result<(), String>> { panic!("on purpose") });
    let panics = panics.start().await.unwrap();
    assert!(panics.status().to_string().ends_with("the check panicked"));
    let hangs = registrar(&registry)
        .check(pending::<Result<(), String>>)
        .check_timeout(seconds(2))
        .start()
        .await
        .unwrap();
    assert!(hangs.status().to_string().ends_with("the check took longer than 2s"));
    assert_eq!(registry.registrations(), 0);
}

#[tokio::test(start_paused = true)]
async fn renewals_go_on_while_a_check_hangs_and_checks_never_overlap() {
    let (registry, dependency) = (Scripted::new(), Arc::new(Dependency::default()));
    let running = checking(registrar(&registry), &dependency)
        .interval(seconds(10))
        .check_interval(seconds(1))
        .check_timeout(seconds(100))
        .unhealthy_after(2)
        .start()
        .await
        .unwrap();
    dependency.set(Way::Hangs);
    let hangs = Instant::now();
    let mut before = registry.registrations();
    while hangs.elapsed() < seconds(99) {
        sleep(seconds(11)).await;
        assert!(registry.registrations() > before, "a renewal within each interval");
        before = registry.registrations();
        assert_eq!((dependency.asking.load(Relaxed), dependency.asked()), (1, 2), "one check, which hangs");
    }
    sleep(seconds(20)).await;
    assert_eq!(dependency.asked(), 3, "the first was ended by its timeout, and the next has begun");
    assert_eq!(dependency.most_at_once.load(Relaxed), 1);
    let withdrawn = until(&running, is_withdrawn).await;
    assert!(withdrawn.to_string().ends_with("the check took longer than 100s"), "{withdrawn}");
    running.shutdown().await.unwrap();
    assert_eq!(dependency.asking.load(Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn the_status_tells_how_often_it_has_failed_and_how_often_it_has_passed() {
    let (registry, dependency) = (Scripted::new(), Arc::new(Dependency::default()));
    let running = checking(registrar(&registry), &dependency).healthy_after(2).interval(seconds(2));
    let running = running.start().await.unwrap();
    dependency.set(Way::Fails);
    let count = |wanted| {
        move |status: &Status| match status {
            Status::Registered { check: Some(failures), .. } => failures.count == wanted,
            _ => false,
        }
    };
    let first = until(&running, count(1)).await;
    assert!(first.is_ready());
    assert!(
        first.to_string().ends_with("s; its check has failed 1 of 3 times, for 0 s: the disk is full"),
        "{first}"
    );
    let second = until(&running, count(2)).await.to_string();
    assert!(second.starts_with("registered for "), "{second}");
    let ends = ["8", "9", "10"].map(|since| format!("2 of 3 times, for {since} s: the disk is full"));
    assert!(ends.iter().any(|end| second.ends_with(end)), "{second}");

    // Renewals that fail hide neither.
    registry.set(Mood::Down);
    let failing = |status: &Status| matches!(status, Status::Failing { check: Some(_), .. });
    let failing = until(&running, failing).await.to_string();
    assert!(failing.contains(": is down; its check has failed 2 of 3 times"), "{failing}");
    registry.set(Mood::Well);

    let withdrawn = until(&running, is_withdrawn).await;
    assert!(!withdrawn.is_ready());
    assert_eq!(withdrawn.to_string(), "withdrawn for 0 s by its check: the disk is full");
    dependency.set(Way::Well);
    let passed = until(&running, |status| matches!(status, Status::Withdrawn { passes: 1, .. })).await;
    assert!(passed.to_string().ends_with("which has passed 1 times since: the disk is full"), "{passed}");
    dependency.set(Way::Fails);
    until(&running, |status| matches!(status, Status::Withdrawn { passes: 0, .. })).await;
    dependency.set(Way::Well);
    let back = until(&running, is_registered).await;
    assert_eq!(back.to_string(), "registered for 0 s");
}

#[tokio::test(start_paused = true)]
async fn what_registers_only_once_is_withdrawn_and_comes_back_too() {
    let (registry, dependency) = (Scripted::new(), Arc::new(Dependency::default()));
    let once = checking(registrar(&registry), &dependency).interval(Duration::ZERO);
    let running = once.start().await.unwrap();
    sleep(seconds(1000)).await;
    dependency.set(Way::Fails);
    until(&running, is_withdrawn).await;
    sleep(seconds(1000)).await;
    assert_eq!(registry.calls(), [Call::Register { ttl: None }, Call::Deregister]);
    dependency.set(Way::Well);
    until(&running, is_registered).await;
    assert!(registry.is_listed(&instance()).await);
}

#[tokio::test(start_paused = true)]
async fn without_withdrawal_the_ttl_takes_it_out() {
    let (registry, dependency) = (Scripted::new(), Arc::new(Dependency::default()));
    let running = checking(registrar(&registry), &dependency).withdraw(false).start().await.unwrap();
    dependency.set(Way::Fails);
    until(&running, is_withdrawn).await;
    assert!(registry.is_listed(&instance()).await);
    sleep(seconds(90)).await;
    assert!(!registry.is_listed(&instance()).await);
    assert_eq!(registry.deregistrations(), 0);
    dependency.set(Way::Well);
    until(&running, is_registered).await;
    assert!(registry.is_listed(&instance()).await);
}

#[tokio::test(start_paused = true)]
async fn a_withdrawal_that_fails_or_hangs_is_tried_again() {
    for mood in [Mood::Down, Mood::Hangs] {
        let (registry, dependency) = (Scripted::new(), Arc::new(Dependency::default()));
        let running =
            checking(registrar(&registry), &dependency).ttl(seconds(10_000)).interval(seconds(9990));
        let running = running.shutdown_limit(Duration::MAX).start().await.unwrap();
        registry.set(mood);
        dependency.set(Way::Fails);
        until(&running, is_withdrawn).await;
        sleep(seconds(20)).await;
        assert!(registry.deregistrations() > 1, "{mood:?}");
        registry.set(Mood::Well);
        // A call that hangs takes 5 s, and no pause is longer than 30.
        sleep(seconds(35)).await;
        assert!(!registry.is_listed(&instance()).await);
        assert!(is_withdrawn(&running.status()));
        running.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_that_passes_during_the_withdrawal_registers_after_it() {
    let (registry, dependency) = (Scripted::new(), Arc::new(Dependency::default()));
    let running = checking(registrar(&registry), &dependency).unhealthy_after(1).start().await.unwrap();
    sleep(seconds(25)).await;
    registry.set(Mood::Slow(seconds(14)));
    dependency.set(Way::Fails);
    while registry.deregistrations() == 0 {
        sleep(Duration::from_millis(100)).await;
    }
    dependency.set(Way::Well);
    until(&running, is_withdrawn).await;
    registry.set(Mood::Well);
    let back = until(&running, is_registered).await;
    assert_eq!(back.to_string(), "registered for 0 s", "it was gone for a moment");
    assert!(registry.is_listed(&instance()).await);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_does_not_hold_up_a_withdrawal_however_long_the_ttl() {
    for ttl in [seconds(24 * 60 * 60), Duration::MAX] {
        let (registry, dependency) = (Scripted::new(), Arc::new(Dependency::default()));
        let running = checking(registrar(&registry).ttl(ttl), &dependency).start().await.unwrap();
        registry.set(Mood::Hangs);
        // A renewal has been made by now, and hangs.
        sleep(seconds(31)).await;
        assert_eq!(registry.registrations(), 2);
        registry.set(Mood::Well);
        dependency.set(Way::Fails);
        sleep(seconds(90)).await;
        assert!(!registry.is_listed(&instance()).await, "{ttl:?}: {}", running.status());
    }
}

#[tokio::test(start_paused = true)]
async fn shutdown_during_a_check_ends_it_and_registers_nothing_more() {
    let (registry, dependency) = (Scripted::new(), Arc::new(Dependency::default()));
    let running = checking(registrar(&registry), &dependency).start().await.unwrap();
    dependency.set(Way::Takes(seconds(4)));
    while dependency.asking.load(Relaxed) == 0 {
        sleep(Duration::from_millis(100)).await;
    }
    let (registrations, asked) = (registry.registrations(), dependency.asked());
    running.shutdown().await.unwrap();
    assert_eq!(dependency.asking.load(Relaxed), 0);
    sleep(seconds(100)).await;
    assert_eq!((registry.registrations(), dependency.asked()), (registrations, asked));
    assert!(!registry.is_listed(&instance()).await);
}

/// An error that cannot be told.
#[derive(Debug)]
struct Untellable;

impl std::fmt::Display for Untellable {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("on purpose")
    }
}

impl std::error::Error for Untellable {}

#[tokio::test(start_paused = true)]
async fn a_check_that_panics_as_it_ends_has_failed() {
    let registry = Scripted::new();
    let running = registrar(&registry).check(|| async { Err(Untellable) }).start().await.unwrap();
    assert!(running.status().to_string().ends_with("the check panicked"), "{}", running.status());

    let bursts = || async {
        let _bursts = Bursts;
        pending::<Result<(), String>>().await
    };
    let running = registrar(&registry).check(bursts).check_timeout(seconds(2)).start().await.unwrap();
    let status = running.status().to_string();
    assert!(status.ends_with("the check took longer than 2s"), "{status}");
    assert_eq!(registry.registrations(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_panics_when_shutdown_ends_it_hinders_no_deregistration() {
    let (registry, asked) = (Scripted::new(), Arc::new(AtomicUsize::new(0)));
    let check = asked.clone();
    let check = move || {
        let first = check.fetch_add(1, Relaxed) == 0;
        async move {
            if first {
                return Ok(());
            }
            let _bursts = Bursts;
            pending::<Result<(), String>>().await
        }
    };
    let running = registrar(&registry).check(check).start().await.unwrap();
    while asked.load(Relaxed) < 2 {
        sleep(Duration::from_millis(10)).await;
    }
    running.shutdown().await.unwrap();
    assert!(!registry.is_listed(&instance()).await);
}

#[tokio::test(start_paused = true)]
async fn any_error_that_converts_is_told_in_its_words() {
    async fn anyhow() -> anyhow::Result<()> {
        anyhow::bail!("no disk")
    }
    async fn string() -> Result<(), String> {
        Err("no disk".into())
    }
    async fn str() -> Result<(), &'static str> {
        Err("no disk")
    }
    async fn boxed() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Err("no disk".into())
    }
    async fn io() -> std::io::Result<()> {
        Err(std::io::Error::other("no disk"))
    }

    let registry = Scripted::new();
    let new = || registrar(&registry);
    for registrar in [new().check(anyhow), new().check(string), new().check(str), new().check(boxed)] {
        let running = registrar.start().await.unwrap();
        assert_eq!(running.status().to_string(), "withdrawn for 0 s by its check: no disk");
    }
    let running = new().check(io).start().await.unwrap();
    assert_eq!(running.status().to_string(), "withdrawn for 0 s by its check: no disk");
}

#[tokio::test]
async fn a_registry_is_taken_as_it_is_or_shared() {
    let shared: Arc<dyn Registry> = Arc::new(MemoryRegistry::new());
    let concrete = Arc::new(MemoryRegistry::new());
    for registrar in [
        Registrar::new(&shared, instance()),
        Registrar::new(shared.clone(), instance()),
        Registrar::new(&concrete, instance()),
        Registrar::new(concrete.clone(), instance()),
        Registrar::new(MemoryRegistry::new(), instance()),
    ] {
        registrar.start().await.unwrap().shutdown().await.unwrap();
    }
}

fn panics() -> Result<(), String> {
    panic!("on purpose")
}
