//! A watch in bad weather.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use futures::StreamExt;
use futures::stream::{BoxStream, unfold};
use switchboard_core::time::{later, until};
use switchboard_core::{ErrorKind, Result};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Outage, Sky, trouble};

/// How long an item is kept back that a newer one may replace.
const KEPT_BACK: Duration = Duration::from_secs(1);

/// `items`, troubled.
pub(super) fn follow<T: Clone + Send + 'static>(
    operation: &'static str,
    items: BoxStream<'static, Result<T>>,
    sky: &Arc<Sky>,
    dice: Rng,
) -> BoxStream<'static, Result<T>> {
    let follow = Follow {
        operation,
        items,
        outages: sky.outage.subscribe(),
        sky: sky.clone(),
        dice,
        heard: None,
        told: None,
        outage_told: 0,
        in_outage: false,
    };
    unfold(Some(follow), |follow| async move {
        let mut follow = follow?;
        let item = follow.next().await?;
        let ended = is_closed(&item);
        Some((item, (!ended).then_some(follow)))
    })
    .fuse()
    .boxed()
}

struct Follow<T> {
    operation: &'static str,
    items: BoxStream<'static, Result<T>>,
    outages: watch::Receiver<Outage>,
    sky: Arc<Sky>,
    dice: Rng,
    /// What came and is yet to be told.
    heard: Option<Heard<T>>,
    /// What was told last, troubles aside.
    told: Option<Result<T>>,
    /// The number of the outage that was told last.
    outage_told: u64,
    /// It has not been told yet that it is over.
    in_outage: bool,
}

struct Heard<T> {
    item: Result<T>,
    due: Instant,
    replaceable: bool,
    after_error: bool,
    twice: bool,
}

impl<T: Clone> Follow<T> {
    /// The next item; `None` when the registry's stream has ended, which it should not.
    async fn next(&mut self) -> Option<Result<T>> {
        loop {
            let Outage { number, lasts } = *self.outages.borrow_and_update();
            if lasts && self.outage_told != number {
                self.outage_told = number;
                self.in_outage = true;
                return Some(Err(trouble(self.operation)));
            }
            if !lasts && std::mem::take(&mut self.in_outage) && self.heard.is_none() {
                self.heard = self.told.clone().map(Heard::at_once);
            }
            let (takes, due) = match &self.heard {
                None => (true, None),
                Some(_) if lasts => (true, None),
                Some(heard) => (heard.replaceable, Some(heard.due)),
            };
            tokio::select! {
                biased;
                // No error: the sky holds the sender.
                _ = self.outages.changed() => {}
                item = self.items.next(), if takes => {
                    let item = item?;
                    if is_closed(&item) {
                        return Some(item);
                    }
                    self.hear(item);
                }
                () = until(due) => return self.tell(),
            }
        }
    }

    /// Draws what is to happen to an item.
    fn hear(&mut self, item: Result<T>) {
        let weather = *self.sky.weather();
        let mut happens = |share: f64| self.dice.f64() < share;
        let (replaceable, after_error, twice) =
            (happens(weather.losses), happens(weather.failures), happens(weather.repeats));
        let late = weather.delay.mul_f64(self.dice.f64());
        let late = if replaceable { late.max(KEPT_BACK) } else { late };
        // An item that replaces another is due when that one was.
        let due = self.heard.as_ref().map_or_else(|| later(Instant::now(), late), |replaced| replaced.due);
        self.heard = Some(Heard { item, due, replaceable, after_error, twice });
    }

    /// Tells what is due, or the trouble that comes before it.
    fn tell(&mut self) -> Option<Result<T>> {
        let heard = self.heard.take()?;
        if heard.after_error {
            self.heard = Some(Heard { after_error: false, replaceable: false, ..heard });
            return Some(Err(trouble(self.operation)));
        }
        if heard.twice {
            self.heard = Some(Heard::at_once(heard.item.clone()));
        }
        self.told = Some(heard.item.clone());
        Some(heard.item)
    }
}

impl<T> Heard<T> {
    fn at_once(item: Result<T>) -> Self {
        Self { item, due: Instant::now(), replaceable: false, after_error: false, twice: false }
    }
}

fn is_closed<T>(item: &Result<T>) -> bool {
    matches!(item, Err(error) if error.kind() == ErrorKind::Closed)
}
