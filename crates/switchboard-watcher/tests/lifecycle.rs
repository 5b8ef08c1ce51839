//! Views on runtimes that end, and on registries that panic.

#![allow(clippy::unwrap_used)] // in helpers of tests too

mod support;

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use support::{Scripted, instance, snapshot};
use switchboard_core::{ErrorKind, MemoryRegistry, RegisterOptions, Registry};
use switchboard_watcher::{Directory, Freshness, View};
use tokio::runtime::{Builder, Runtime};

/// Far more than anything here takes; only a deadlock lasts as long.
const LIMIT: Duration = Duration::from_secs(60);

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

/// Does `work` on a thread of its own, so that a deadlock fails the test instead of stopping it.
fn within<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    result.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("{what}: never came back, or panicked"))
}

/// A world with one instance, and a directory on it.
fn directory() -> Directory {
    let registry = MemoryRegistry::new();
    runtime().block_on(registry.register(&instance("a", "1"), &RegisterOptions::new())).unwrap();
    Directory::new(registry)
}

fn ready(directory: &Directory, runtime: &Runtime) -> View {
    runtime.block_on(async {
        let view = directory.service("a").unwrap();
        assert_eq!(view.ready().await.unwrap().len(), 1);
        view
    })
}

#[test]
fn when_the_runtime_ends_the_view_says_so_and_the_next_one_lives() {
    within("views over two runtimes", || {
        let (directory, first, second) = (directory(), runtime(), runtime());
        let view = ready(&directory, &first);
        assert!(!view.is_closed());
        drop(first);
        assert!(view.is_closed() && matches!(view.status().freshness, Freshness::Closed));
        assert_eq!(view.snapshot().unwrap().len(), 1, "what was known stays");
        assert_eq!(directory.watched(), 0);

        let next = ready(&directory, &second);
        drop(view);
        second.block_on(async {
            directory.registry().register(&instance("a", "2"), &RegisterOptions::new()).await.unwrap();
            let mut next = next;
            while next.snapshot().unwrap().len() < 2 {
                next.changed().await;
            }
            assert!(next.status().is_fresh());
        });
        assert_eq!(directory.watched(), 1);
    });
}

#[test]
fn on_a_runtime_that_is_shut_down_a_view_is_closed_and_nothing_hangs() {
    within("a view on a dead runtime", || {
        let (directory, living) = (directory(), runtime());
        let hint = || directory.suspect(&instance("a", "1").key());
        let dead = runtime();
        assert!(dead.block_on(async { hint() }));
        let handle = dead.handle().clone();
        drop(dead);
        {
            let _entered = handle.enter();
            let view = directory.service("a").unwrap();
            assert!(view.is_closed() && view.snapshot().is_none());
            assert!(!hint(), "nobody takes a hint there");
        }
        assert!(living.block_on(async { hint() }));
        assert_eq!(directory.watched(), 0);
        ready(&directory, &living);
    });
}

#[test]
fn a_registry_whose_watch_panics_closes_the_view_and_nothing_hangs() {
    within("a view of a panicking registry", || {
        let registry = Scripted::new();
        registry.panic_on_watch(true);
        let directory = Directory::new(registry.clone());
        let runtime = runtime();
        runtime.block_on(async {
            let view = directory.service("a").unwrap();
            assert_eq!(view.ready().await.unwrap_err().kind(), ErrorKind::Closed);
            assert!(view.is_closed());
            assert_eq!(directory.watched(), 0);
            registry.panic_on_watch(false);
            registry.say(Ok(snapshot("a", &["1"])));
            assert_eq!(directory.service("a").unwrap().ready().await.unwrap().len(), 1);
        });
    });
}

#[test]
fn closing_while_views_are_asked_for_leaves_no_task() {
    within("closing in the middle", || {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
        for _ in 0..50 {
            let directory = Arc::new(directory());
            let asking = {
                let (directory, entered) = (directory.clone(), runtime.handle().clone());
                std::thread::spawn(move || {
                    let _entered = entered.enter();
                    (0..10_000)
                        .map_while(|index| directory.service(format!("s{index}")).ok())
                        .collect::<Vec<_>>()
                })
            };
            // In the middle of it.
            while directory.watched() < 5 {
                std::thread::yield_now();
            }
            directory.close();
            let views = asking.join().unwrap();
            runtime.block_on(async {
                for mut view in views {
                    while !view.is_closed() {
                        view.changed().await;
                    }
                }
            });
            assert_eq!(directory.watched(), 0);
        }
    });
}
