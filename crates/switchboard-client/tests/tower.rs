//! The tower adapter.

#![cfg(feature = "tower")]
#![allow(clippy::unwrap_used)] // in helpers of tests too

mod support;

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use support::{LIMIT, Silent, instance, register, selector, standing, until};
use switchboard_client::tower::{Balance, CallError, Discover, FromExtensions};
use switchboard_client::{Options, TimedOut, is_timeout};
use switchboard_core::{Health, Instance, MemoryRegistry, Registry};
use switchboard_selector::{ConsistentHash, FailureKind, Filter, Selector};
use switchboard_watcher::Directory;
use tower::discover::Change;
use tower::{Service, ServiceExt, service_fn};

/// Answers with its instance's id, or fails, or never answers, as the request says.
fn server(
    instance: &Instance,
) -> impl Service<&'static str, Response = String, Error = String, Future: Send> + Clone + use<> {
    let id = instance.id().to_string();
    service_fn(move |request: &'static str| {
        let id = id.clone();
        async move {
            match request {
                "fail" => Err(id),
                "hang" => pending().await,
                _ => Ok(id),
            }
        }
    })
}

async fn two() -> MemoryRegistry {
    let registry = MemoryRegistry::new();
    for id in ["a", "b"] {
        register(&registry, &instance("greeter", id, "127.0.0.1:1")).await;
    }
    registry
}

#[tokio::test]
async fn each_request_goes_to_a_picked_instance() {
    let registry = two().await;
    let mut service = Balance::new(selector(&registry).service("greeter").unwrap(), server);
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(service.ready().await.unwrap().call("hello").await.unwrap());
    }
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 2);
    assert_ne!(seen[0], seen[1]);
    assert_eq!(service.connected(), 2);
}

#[tokio::test]
async fn outcomes_are_fed_back_and_a_dropped_call_counts_as_neither() {
    let registry = MemoryRegistry::new();
    register(&registry, &instance("greeter", "a", "127.0.0.1:1")).await;
    let service = Balance::new(selector(&registry).service("greeter").unwrap(), server);
    let balancer = service.balancer().clone();

    let failed = service.clone().oneshot("fail").await.unwrap_err();
    assert_eq!(failed.to_string(), "call to service \"greeter\" failed: a at 127.0.0.1:1: a");
    assert!(matches!(failed, CallError::Call { source, .. } if source == "a"));
    assert_eq!(standing(&balancer), [(0, 1)]);

    let mut hanging = Box::pin(service.clone().oneshot("hang"));
    assert!(hanging.as_mut().now_or_never().is_none());
    assert_eq!(standing(&balancer), [(1, 1)]);
    drop(hanging);
    assert_eq!(standing(&balancer), [(0, 1)], "it neither failed nor went well, and is in flight no more");

    service.clone().oneshot("hello").await.unwrap();
    assert_eq!(standing(&balancer), [(0, 0)]);

    let strict = service.clone().classify(|_: &Result<String, String>| Some(Err(FailureKind::Response)));
    strict.oneshot("hello").await.unwrap();
    assert_eq!(standing(&balancer), [(0, 1)]);

    let registry = two().await;
    let lenient = Balance::new(selector(&registry).service("greeter").unwrap(), server)
        .classify(|_: &Result<String, String>| None);
    lenient.clone().oneshot("fail").await.unwrap_err();
    assert_eq!(standing(lenient.balancer()), [(0, 0), (0, 0)], "it says nothing");
}

#[tokio::test]
async fn a_function_says_what_a_request_wants() {
    let registry = MemoryRegistry::new();
    for (id, tag) in [("a", "eu"), ("b", "us"), ("c", "eu")] {
        let instance = Instance::builder("greeter").id(id).address("127.0.0.1:1").tag(tag).build().unwrap();
        register(&registry, &instance).await;
    }
    let by_key = Options::new().strategy(ConsistentHash);
    let service = Balance::new(selector(&registry).service("greeter").unwrap(), server)
        .options(move |request: &&'static str| by_key.clone().key(request));
    for request in ["Ada", "Grace", "Alan"] {
        let ask = async || service.clone().oneshot(request).await.unwrap();
        let first = ask().await;
        for _ in 0..10 {
            assert_eq!(ask().await, first);
        }
    }

    let echo = |instance: &Instance| {
        let id = instance.id().to_string();
        service_fn(move |_: http::Request<()>| {
            let id = id.clone();
            async move { Ok::<_, String>(id) }
        })
    };
    let service = Balance::new(selector(&registry).service("greeter").unwrap(), echo).options(FromExtensions);
    let mut request = http::Request::new(());
    request.extensions_mut().insert(Options::new().filter(Filter::tag("us")));
    for _ in 0..5 {
        assert_eq!(service.clone().oneshot(request.clone()).await.unwrap(), "b");
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_for_a_call_bounds_waiting_and_calling() {
    let limit = Duration::from_millis(300);
    let options = Options::new().timeout(limit);
    let registry = two().await;
    let call = options.clone();
    let service = Balance::new(selector(&registry).service("greeter").unwrap(), server)
        .options(move |_: &&'static str| call.clone());
    let hanging = tokio::time::timeout(LIMIT, service.clone().oneshot("hang")).await;
    let error = hanging.unwrap().unwrap_err();
    let over = "the call is not over after 300ms";
    let said = |id: &str| format!("call to service \"greeter\" failed: {id} at 127.0.0.1:1: {over}");
    assert!([said("a"), said("b")].contains(&error.to_string()), "{error}");
    let time = TimedOut::Call(limit);
    assert!(matches!(error, CallError::TimedOut { source, instance: Some(_), .. } if source == time));
    let mut standing = standing(service.balancer());
    standing.sort_unstable();
    assert_eq!(standing, [(0, 0), (0, 1)], "a time-out is a failure of the one that was called");

    let selector = Selector::new(Directory::new(Silent));
    let service = Balance::new(selector.service("greeter").unwrap(), server)
        .options(move |_: &&'static str| options.clone());
    let began = tokio::time::Instant::now();
    let error = service.oneshot("hello").await.unwrap_err();
    assert_eq!(error.to_string(), format!("call to service \"greeter\" failed: {over}"));
    assert!(matches!(error, CallError::TimedOut { instance: None, .. }));
    assert_eq!(began.elapsed(), limit);
}

#[test]
fn a_timeout_is_known_whoever_says_so() {
    let time = TimedOut::Try(Duration::from_secs(1));
    let instance = Arc::new(instance("greeter", "a", "127.0.0.1:1"));
    let service = instance.service().clone();
    assert!(is_timeout(&CallError::<std::io::Error>::TimedOut { service, instance: None, source: time }));
    assert!(is_timeout(&CallError::Call { instance: instance.clone(), source: time }));
    let other = CallError::Call { instance, source: std::io::Error::other("broken") };
    assert!(!is_timeout(&other));
    assert_eq!(other.to_string(), "call to service \"greeter\" failed: a at 127.0.0.1:1: broken");
}

#[tokio::test]
async fn services_go_with_their_instances_and_nothing_known_is_said() {
    let registry = two().await;
    let mut service = Balance::new(selector(&registry).service("greeter").unwrap(), server);
    for _ in 0..2 {
        service.ready().await.unwrap().call("hello").await.unwrap();
    }
    assert_eq!(service.connected(), 2);
    registry.deregister(&instance("greeter", "a", "h:1").key()).await.unwrap();
    until("one service is left", || service.connected() == 1).await;
    registry.deregister(&instance("greeter", "b", "h:1").key()).await.unwrap();
    until("no service is left", || service.connected() == 0).await;
    until("no instance is left", || service.balancer().pick().is_err()).await;
    let error = service.oneshot("hello").await.unwrap_err();
    assert!(matches!(&error, CallError::Pick(error) if error.is_nothing_known()), "{error}");
}

#[tokio::test]
async fn discover_tells_changes_of_use_and_nothing_else() {
    let registry = two().await;
    let directory = Directory::new(registry.handle());
    let view = directory.service("greeter").unwrap();
    let mut discover = Discover::new(&view, |instance| instance.address().port());
    let mut next = async || match discover.next().await.unwrap().unwrap() {
        Change::Insert(id, port) => format!("+{id}:{port}"),
        Change::Remove(id) => format!("-{id}"),
    };
    assert_eq!(next().await, "+a:1");
    assert_eq!(next().await, "+b:1");

    let (a, b) = (instance("greeter", "a", "127.0.0.1:2"), instance("greeter", "b", "127.0.0.1:1"));
    register(&registry, &a).await;
    assert_eq!(next().await, "+a:2");
    registry.set_health(&a.key(), Health::Warning);
    registry.set_health(&b.key(), Health::Critical);
    assert_eq!(next().await, "-b", "a warning changes nothing");
    registry.set_health(&b.key(), Health::Passing);
    assert_eq!(next().await, "+b:1");

    directory.close();
    assert!(discover.next().now_or_never().is_none(), "what is known stays");
}

#[tokio::test]
async fn towers_own_balancer_follows() {
    let registry = two().await;
    let view = Directory::new(registry.handle()).service("greeter").unwrap();
    let discover = Discover::new(&view, |instance| tower::load::Constant::new(server(instance), 1));
    let mut balance = tower::balance::p2c::Balance::new(discover);
    let mut seen = BTreeSet::new();
    for _ in 0..50 {
        seen.insert(balance.ready().await.unwrap().call("hello").await.unwrap());
    }
    assert_eq!(seen.len(), 2);
    registry.deregister(&instance("greeter", "a", "h:1").key()).await.unwrap();
    until("the view has heard", || view.snapshot().is_some_and(|snapshot| snapshot.len() == 1)).await;
    for _ in 0..20 {
        assert_eq!(balance.ready().await.unwrap().call("hello").await.unwrap(), "b");
    }
}
