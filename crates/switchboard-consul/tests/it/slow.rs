//! An agent that takes its time, as without a leader: a scripted server stands in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use switchboard_core::{ErrorKind, RegisterOptions, Registry};
use tokio::time::timeout;

use crate::support::scripted::{Asked, Reply, Server};
use crate::support::{builder, instance, registry, ttl, until, within};

/// What a registry waits for an answer, or a sign of life.
const TIMEOUT: Duration = Duration::from_millis(200);

fn is_write(asked: &Asked) -> bool {
    asked.method == "PUT"
}

/// The ids that were renewed, in the order they were asked about.
fn passed(server: &Server) -> Vec<String> {
    let id = |asked: Asked| asked.target.strip_prefix("/v1/agent/check/pass/service%3A").map(str::to_owned);
    server.asked().into_iter().filter_map(id).collect()
}

/// A server that takes all there is, and hangs on writes while it is stuck.
async fn sticking() -> (Server, Arc<AtomicBool>) {
    let stuck = Arc::new(AtomicBool::new(false));
    let state = stuck.clone();
    let server = Server::start(move |_, asked| {
        if is_write(asked) && state.load(Ordering::SeqCst) {
            Reply::Until(state.clone(), Box::new(Reply::status(200, "")))
        } else {
            Reply::status(200, "")
        }
    })
    .await;
    (server, stuck)
}

#[tokio::test]
async fn an_agent_that_lives_is_waited_for_longer_than_the_timeout() {
    let server = Server::start(|_, asked| {
        let done = Reply::status(200, "");
        if is_write(asked) { Reply::Late(TIMEOUT * 4, Box::new(done)) } else { done }
    })
    .await;
    let registry = builder(&server.address).timeout(TIMEOUT).build().unwrap();
    let one = instance("a", "1");
    registry.register(&one, &ttl(30)).await.unwrap();
    registry.register(&one, &ttl(30)).await.unwrap();
    registry.deregister(&one.key()).await.unwrap();
    let asked = server.asked();
    assert!(asked.iter().filter(|asked| asked.target == "/").count() > 4, "asked for signs of life");
    assert_eq!(asked.iter().filter(|asked| is_write(asked)).count(), 4, "and nothing is asked twice");
}

#[tokio::test]
async fn an_agent_without_a_sign_of_life_is_given_up_by_all_who_wait_for_it() {
    let server = Server::start(|_, _| Reply::Hang).await;
    let registry = builder(&server.address).timeout(TIMEOUT).build().unwrap();
    let all: Vec<_> = (0..50).map(|number| instance("a", &format!("{number}"))).collect();
    let options = RegisterOptions::new();
    let tried = join_all(all.iter().map(|instance| registry.register(instance, &options)));
    for failed in within("all", tried).await {
        let error = failed.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.message().starts_with("no answer from 127.0.0.1:"), "{error}");
    }
    let writes = server.asked().iter().filter(|asked| is_write(asked)).count();
    assert!(writes < 10, "not found out by each for itself: {writes}");
}

#[tokio::test]
async fn of_many_renewals_those_that_lapse_first_come_first() {
    let (server, stuck) = sticking().await;
    let registry = registry(&server.address);
    let long: Vec<_> = (0..20).map(|number| instance("a", &format!("long{number}"))).collect();
    let short = instance("a", "short");
    for one in &long {
        registry.register(one, &ttl(300)).await.unwrap();
    }
    registry.register(&short, &ttl(20)).await.unwrap();
    let before = passed(&server).len();

    stuck.store(true, Ordering::SeqCst);
    let (many, one) = (ttl(300), ttl(20));
    let renewals = join_all(long.iter().map(|one| registry.register(one, &many)));
    // It comes when all others are waiting already.
    let late = async {
        until("some are under way", || async { (passed(&server).len() > before).then_some(()) }).await;
        let release = async { stuck.store(false, Ordering::SeqCst) };
        let (renewed, ()) = tokio::join!(registry.register(&short, &one), release);
        renewed.unwrap();
    };
    let (renewed, ()) = within("all", async { tokio::join!(renewals, late) }).await;
    assert!(renewed.into_iter().all(|renewed| renewed.is_ok()));
    let order = passed(&server).split_off(before);
    let place = order.iter().position(|id| id == "short").unwrap();
    assert!(place <= 2, "only those under way are before it: {order:?}");
}

#[tokio::test]
async fn a_renewal_given_up_goes_on_and_the_next_is_content_with_it() {
    let (server, stuck) = sticking().await;
    let registry = registry(&server.address);
    let one = instance("a", "1");
    registry.register(&one, &ttl(30)).await.unwrap();
    let before = passed(&server).len();

    stuck.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let given_up = timeout(Duration::from_millis(100), registry.register(&one, &ttl(30))).await;
        assert!(given_up.is_err());
    }
    assert_eq!(passed(&server).len(), before + 1, "one is under way, and no other behind it");
    let options = ttl(30);
    let (renewed, ()) =
        tokio::join!(registry.register(&one, &options), async { stuck.store(false, Ordering::SeqCst) });
    renewed.unwrap();
    assert_eq!(passed(&server).len(), before + 1);

    // Deregistering waits for none that nobody wants any more.
    stuck.store(true, Ordering::SeqCst);
    assert!(timeout(Duration::from_millis(100), registry.register(&one, &ttl(30))).await.is_err());
    let key = one.key();
    let gone = registry.deregister(&key);
    let unstick = async {
        let asked =
            || async { server.asked().last().filter(|last| last.target.contains("deregister")).map(drop) };
        until("deregistering", asked).await;
        stuck.store(false, Ordering::SeqCst);
    };
    let (gone, ()) = within("gone", async { tokio::join!(gone, unstick) }).await;
    gone.unwrap();
}

#[tokio::test]
async fn a_new_check_is_passed_only_if_it_does_not_pass_already() {
    for (status, passes) in [("passing", 0), ("critical", 1)] {
        let health = format!(r#"{{"Checks":[{{"CheckID":"service:1","Status":"{status}"}}]}}"#);
        let server = Server::start(move |_, asked| {
            Reply::status(200, if asked.target.contains("/health/") { &health } else { "" })
        })
        .await;
        registry(&server.address).register(&instance("a", "1"), &ttl(30)).await.unwrap();
        assert_eq!(passed(&server).len(), passes, "{status}");
    }
}
