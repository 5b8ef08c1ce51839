//! The loop of a call, for those who speak to the instance themselves.
#![cfg(feature = "caller")]
#![allow(clippy::unwrap_used)] // in helpers of tests too

mod support;

use std::future::{pending, ready};
use std::time::Duration;

use support::{instance, register};
use switchboard_client::{Attempt, Call, Caller, NotCalled, Options, Retry, TimedOut, is_timeout};
use switchboard_core::{Error, ErrorKind, MemoryRegistry};
use switchboard_selector::{FailureKind, RoundRobin, Selector};
use switchboard_watcher::Directory;

async fn caller(ids: &[&str]) -> (Caller, Selector) {
    let registry = MemoryRegistry::new();
    for id in ids {
        register(&registry, &instance("hello", id, &format!("127.0.0.1:{}", id.len()))).await;
    }
    let selector = Selector::builder(Directory::new(registry)).strategy(RoundRobin).build();
    (Caller::new(selector.clone()), selector)
}

async fn attempt(call: &mut Call) -> Attempt {
    call.attempt(false).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_call_goes_to_one_after_the_other_until_one_answers() {
    let (caller, selector) = caller(&["a", "b", "c"]).await;
    let balancer = selector.service("hello").unwrap();
    let mut call = caller.begin("hello", Options::new()).unwrap();
    let mut tried = Vec::new();
    for _ in 0..2 {
        let attempt = attempt(&mut call).await;
        tried.push(attempt.instance().id().to_string());
        call.fail(attempt, Some(FailureKind::Connection), "refused");
        assert!(call.again(false).await);
    }
    let last = attempt(&mut call).await;
    tried.push(last.instance().id().to_string());
    tried.sort();
    assert_eq!(tried, ["a", "b", "c"], "none twice");
    assert!(call.to_string().starts_with("call to service \"hello\" failed: "), "{call}");
    assert_eq!(call.to_string().matches("127.0.0.1:1: refused").count(), 2, "{call}");

    let id = last.instance().id().clone();
    let in_flight = call.answered(last);
    let of = |id| balancer.report().into_iter().find(|report| report.instance.id() == id).unwrap();
    assert_eq!(of(&id).in_flight, 1, "until the answer has ended");
    in_flight.finish(Ok(()));
    assert_eq!((of(&id).in_flight, of(&id).consecutive_failures), (0, 0));
    let failures: u32 = balancer.report().iter().map(|report| report.consecutive_failures).sum();
    assert_eq!(failures, 2);
}

#[tokio::test(start_paused = true)]
async fn what_has_reached_an_instance_counts_as_a_retry() {
    let (caller, _) = caller(&["a", "b", "c"]).await;
    let caller = caller.retry(Retry::new().most(1));
    let mut call = caller.begin("hello", Options::new()).unwrap();
    let first = attempt(&mut call).await;
    call.fail(first, None, "broke off");
    assert!(call.again(true).await);
    let second = attempt(&mut call).await;
    call.fail(second, None, "broke off");
    assert!(!call.again(true).await, "one retry");
    assert!(!call.again(true).await, "nothing has failed since");
}

#[tokio::test(start_paused = true)]
async fn its_time_bounds_all_of_it() {
    let (caller, _) = caller(&["a"]).await;
    let second = Duration::from_secs(1);
    let caller = caller.options(Options::new().per_try_timeout(second * 2));
    let mut call = caller.begin("hello", Options::new().timeout(second * 3)).unwrap();
    let first = attempt(&mut call).await;
    let over = first.wait(ready(()), pending::<()>()).await.unwrap_err();
    assert_eq!(over, TimedOut::Try(second * 2));
    assert_eq!(first.timeout(), Some(FailureKind::Timeout));
    call.fail(first, Some(FailureKind::Timeout), over.to_string());
    assert!(call.again(true).await);
    let second_one = attempt(&mut call).await;
    let over = second_one.wait(ready(()), pending::<()>()).await.unwrap_err();
    assert_eq!(over, TimedOut::Call(second * 3));
    assert_eq!(second_one.timeout(), None, "it had a second of three");
    call.fail(second_one, None, over.to_string());
    assert!(!call.again(true).await && !call.again(false).await);
    assert!(call.to_string().ends_with("the call is not over after 3s"), "{call}");
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_not_heard_is_waited_for_as_long_as_the_call_lasts() {
    let registry = MemoryRegistry::new();
    registry.fail(Error::new(ErrorKind::Unavailable, "memory", "watch", "it restarts"));
    let caller = Caller::new(Selector::new(Directory::new(registry)));
    let mut call = caller.begin("hello", Options::new().timeout(Duration::from_secs(1))).unwrap();
    let error = call.attempt(true).await.unwrap_err();
    assert!(matches!(error, NotCalled::TimedOut { .. }) && is_timeout(&error), "{error:?}");
    assert!(error.to_string().ends_with("the call is not over after 1s"), "{error}");
}

#[tokio::test]
async fn nobody_to_call_is_told_at_once() {
    let (caller, _) = caller(&[]).await;
    let mut call = caller.begin("hello", Options::new()).unwrap();
    let error = call.attempt(true).await.unwrap_err();
    assert!(matches!(&error, NotCalled::Pick { source, .. } if source.is_nothing_known()), "{error:?}");
    assert!(error.to_string().contains("the registry has no instance of it"), "{error}");
    assert!(!call.again(true).await);
}
