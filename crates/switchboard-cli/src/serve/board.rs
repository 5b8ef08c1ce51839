//! What readers are shown: the world, brought up to date at a pace.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use switchboard::Registry;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::failure::Failure;
use crate::network::{Event, Network, may_pass};
use crate::world::World;

/// The least time between two states: however much changes, readers have no more to do than this often.
const PACE: Duration = Duration::from_millis(250);

/// How often it is looked whether anything of others can be heard at all.
const TICK: Duration = Duration::from_secs(1);

/// So many events are taken in before anything else has its turn.
const AT_ONCE: usize = 1000;

/// The newest state, and nothing before it: a slow reader misses what was between.
pub(crate) type States = watch::Receiver<Arc<World>>;

#[derive(Debug)]
pub(crate) struct Board {
    world: World,
    /// Whether all there was at the beginning has been heard: until then readers would take a part for the whole.
    whole: bool,
    shown: watch::Sender<Arc<World>>,
}

impl Board {
    /// With nothing on it yet.
    pub(crate) fn new(registry: String) -> Self {
        let world = World::new(registry);
        Self { whole: false, shown: watch::Sender::new(Arc::new(world.clone())), world }
    }

    /// They end when the board is dropped.
    pub(crate) fn states(&self) -> States {
        self.shown.subscribe()
    }

    /// Shows what the registry tells, until `stop`. An error is one that waiting does not cure.
    pub(crate) async fn follow(
        mut self,
        registry: &dyn Registry,
        alone: impl Fn() -> Option<&'static str>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), Failure> {
        let mut network = Network::all(registry);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stop = pin!(stop);
        let (mut last, mut due) = (None::<Instant>, None);
        loop {
            let news = tokio::select! {
                () = &mut stop => return Ok(()),
                Some(event) = network.next() => {
                    self.take(event)?;
                    for _ in 0..AT_ONCE {
                        let Some(Some(event)) = network.next().now_or_never() else { break };
                        self.take(event)?;
                    }
                    self.whole |= network.is_whole();
                    true
                }
                _ = ticks.tick() => {
                    let before = std::mem::replace(&mut self.world.alone, alone());
                    before != self.world.alone
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.show();
                    (last, due) = (Some(Instant::now()), None);
                    false
                }
            };
            if news && due.is_none() {
                // At once after a time of quiet.
                due = Some(last.map_or_else(Instant::now, |last| last + PACE));
            }
        }
    }

    fn take(&mut self, event: Event) -> Result<(), Failure> {
        if let Event::Failed(None, error) = &event
            && !may_pass(error)
        {
            return Err(error.clone().into());
        }
        self.world.take(event);
        Ok(())
    }

    fn show(&self) {
        let mut world = self.world.clone();
        world.heard &= self.whole;
        self.shown.send_replace(Arc::new(world));
    }
}
