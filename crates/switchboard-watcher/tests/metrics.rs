//! What is measured, with the feature `metrics`.

#![cfg(feature = "metrics")]
#![allow(clippy::unwrap_used)] // in helpers of tests too
#![allow(clippy::disallowed_types, reason = "what is told is a moment of the calendar")]

#[path = "support/recorded.rs"]
mod recorded;
mod support;

use std::time::{Duration, SystemTime};

use recorded::Told::{Count, Level};
use recorded::{expected, recorded};
use support::{Scripted, settle, snapshot, unavailable};
use switchboard_watcher::Directory;
use tokio::time::sleep;

#[test]
fn views_updates_outages_and_reconnects_are_told() {
    recorded("switchboard.watcher.", async |mut heard| {
        let registry = Scripted::new();
        let directory = Directory::builder(registry.clone()).linger(Duration::ZERO).build();
        let view = directory.service("a").unwrap();
        assert_eq!(heard.all(), expected([("views a pending", Level(1.0))]));

        registry.say(Ok(snapshot("a", &["1"])));
        view.ready().await.unwrap();
        registry.say(Ok(snapshot("a", &["1"])));
        registry.say(Ok(snapshot("a", &["1", "2"])));
        settle().await;
        assert_eq!(heard.all(), expected([("views a fresh", Level(1.0)), ("updates a", Count(2))]));

        let before = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64().floor();
        for _ in 0..2 {
            registry.say(Err(unavailable("gone")));
            settle().await;
            // Longer than an error is rested from.
            sleep(Duration::from_secs(1)).await;
        }
        let mut all = heard.all();
        let Some(Level(since)) = all.remove("stale_since a") else { panic!("{all:?}") };
        assert!((before..before + 3600.0).contains(&since), "{since} {before}");
        assert_eq!(all, expected([("views a stale", Level(1.0)), ("outages a", Count(1))]));

        registry.say(Ok(snapshot("a", &["1", "2"])));
        settle().await;
        sleep(Duration::from_secs(1)).await;
        assert_eq!(heard.all(), expected([("views a fresh", Level(1.0)), ("reconnects a", Count(1))]));

        registry.say(Err(unavailable("gone")));
        settle().await;
        drop(view);
        settle().await;
        assert_eq!(heard.all(), expected([("outages a", Count(1))]), "nothing is left of a view");
    });
}
