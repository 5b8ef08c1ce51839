//! What the log and the metrics are told.

use std::cell::RefCell;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Once};

use switchboard_registrar::Running;
use tracing::level_filters::LevelFilter;

use crate::support::{Mood, Scripted, is_registered, is_withdrawn, registrar, seconds, until};

thread_local! {
    static LOG: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Takes what is logged on this thread. One for the whole process: with one for each thread, what a thread without logs first
/// is logged by none.
fn listen() {
    static LISTEN: Once = Once::new();
    LISTEN.call_once(|| {
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(LevelFilter::INFO)
            .with_writer(|| Log)
            .with_target(false)
            .with_ansi(false)
            .without_time();
        tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
    });
    LOG.take();
}

/// The lines at INFO on this thread, without their fields.
fn infos() -> Vec<String> {
    let text = LOG.with_borrow(|log| String::from_utf8(log.clone()).unwrap());
    let info =
        |line: &str| Some(line.trim_start().strip_prefix("INFO ")?.split(" instance=").next()?.to_owned());
    text.lines().filter_map(info).collect()
}

struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.with_borrow_mut(|log| log.write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn start(registry: &Arc<Scripted>, well: &Arc<AtomicBool>) -> Running {
    let well = well.clone();
    let check = move || {
        let verdict = if well.load(Relaxed) { Ok(()) } else { Err("the disk is full") };
        async move { verdict }
    };
    registrar(registry).check(check).start().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn each_change_is_logged_once() {
    listen();
    let (registry, well) = (Scripted::new(), Arc::new(AtomicBool::new(true)));
    let running = start(&registry, &well).await;
    // Renewals and checks that go well are no news.
    tokio::time::sleep(seconds(300)).await;
    assert_eq!(infos(), ["registered"]);

    registry.set(Mood::Down);
    until(&running, |status| !is_registered(status)).await;
    tokio::time::sleep(seconds(300)).await;
    registry.set(Mood::Well);
    until(&running, is_registered).await;
    well.store(false, Relaxed);
    until(&running, is_withdrawn).await;
    tokio::time::sleep(seconds(300)).await;
    well.store(true, Relaxed);
    until(&running, is_registered).await;
    running.shutdown().await.unwrap();
    assert_eq!(
        infos(),
        [
            "registered",
            "recovered: renewals go well again",
            "withdrawn by its check",
            "recovered: its check passes, and it is registered again",
            "stopped",
        ]
    );
}

#[cfg(feature = "metrics")]
#[test]
fn the_metrics_are_told_how_each_registration_stands() {
    use crate::recorded::Told::{Count, Level};
    use crate::recorded::{expected, recorded};

    recorded("switchboard.registrar.", async |mut heard| {
        let (registry, well) = (Scripted::new(), Arc::new(AtomicBool::new(true)));
        let running = [start(&registry, &well).await, start(&registry, &well).await];
        let registered =
            [("registrations greeter registered", Level(2.0)), ("renewals greeter success", Count(2))];
        assert_eq!(heard.all(), expected(registered), "of both");

        well.store(false, Relaxed);
        for running in &running {
            until(running, is_withdrawn).await;
        }
        let mut all = heard.all();
        all.remove("renewals greeter success");
        assert_eq!(all, expected([("registrations greeter withdrawn", Level(2.0))]));

        well.store(true, Relaxed);
        for running in &running {
            until(running, is_registered).await;
        }
        heard.all();
        registry.set(Mood::Down);
        for running in &running {
            until(running, |status| !is_registered(status)).await;
        }
        let mut all = heard.all();
        assert!(matches!(all.remove("renewals greeter failure"), Some(Count(2..))));
        all.remove("renewals greeter success");
        assert_eq!(all, expected([("registrations greeter failing", Level(2.0))]));

        registry.set(Mood::Well);
        for running in running {
            running.shutdown().await.unwrap();
        }
        let mut all = heard.all();
        all.retain(|name, _| name.starts_with("registrations"));
        assert_eq!(all, expected([]), "stopped, they are none any more");
    });
}
