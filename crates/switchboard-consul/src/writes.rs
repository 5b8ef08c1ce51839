//! Whose write an agent gets next.
//!
//! An agent does one write after the other. Without a leader each takes it 7 to 45 s, since it first tries to tell the
//! servers everything that they do not know yet, and a write that its client has given up is done all the same: what is
//! sent beyond need holds up what is urgent. So few are under way at a time, and of those that wait the one whose
//! registration lapses first comes next.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use switchboard_core::Error;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How many writes an agent is given at a time. It does one; the other is on its way, and gets through should the first hang.
/// With more the time grows from when an agent renews a TTL to when it says so, which comes after all that it was given.
const UNDER_WAY: usize = 2;

/// The turns of one agent.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    queue: Arc<Mutex<Queue>>,
}

#[derive(Debug, Default)]
struct Queue {
    under_way: usize,
    /// By when each must be done, and of the same moment in the order they came.
    waiting: BTreeMap<Place, oneshot::Sender<Result<Turn, Error>>>,
    number: u64,
}

type Place = (Instant, u64);

impl Turns {
    /// Waits for its turn to do what must be done by `due`.
    ///
    /// # Errors
    ///
    /// Why the agent gives no answers, if that is found out meanwhile.
    pub(crate) async fn take(&self, due: Instant) -> Result<Turn, Error> {
        let (place, turn) = {
            let mut queue = lock(&self.queue);
            if queue.under_way < UNDER_WAY {
                queue.under_way += 1;
                return Ok(Turn { queue: Some(self.queue.clone()) });
            }
            queue.number += 1;
            let place = (due, queue.number);
            let (sender, turn) = oneshot::channel();
            queue.waiting.insert(place, sender);
            (place, turn)
        };
        let _leaves = Leaves { queue: &self.queue, place };
        // Nobody else takes the sender away without a word: this holds the queue.
        turn.await.unwrap_or(Ok(Turn { queue: None }))
    }

    /// Tells all who wait that there will be no turn, and why.
    pub(crate) fn give_up(&self, error: &Error) {
        give_up(&self.queue, error);
    }
}

fn give_up(queue: &Mutex<Queue>, error: &Error) {
    let waiting = std::mem::take(&mut lock(queue).waiting);
    for sender in waiting.into_values() {
        // Who does not listen any more needs no telling.
        let _ = sender.send(Err(error.clone()));
    }
}

/// Takes its place out of the queue when nobody waits there any more.
struct Leaves<'a> {
    queue: &'a Mutex<Queue>,
    place: Place,
}

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        let left = lock(self.queue).waiting.remove(&self.place);
        // Outside of the lock.
        drop(left);
    }
}

/// The right to give the agent a write; dropped when that is answered.
#[derive(Debug)]
pub(crate) struct Turn {
    queue: Option<Arc<Mutex<Queue>>>,
}

impl Turn {
    /// Tells all who wait that the agent gives no answers: each would find that out for itself, one after the other.
    pub(crate) fn unanswered(&self, error: &Error) {
        if let Some(queue) = &self.queue {
            give_up(queue, error);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(queue) = self.queue.take() else { return };
        let mut held = lock(&queue);
        held.under_way -= 1;
        while held.under_way < UNDER_WAY {
            let Some((_, next)) = held.waiting.pop_first() else { return };
            held.under_way += 1;
            if let Err(Ok(mut unwanted)) = next.send(Ok(Turn { queue: Some(queue.clone()) })) {
                unwanted.queue = None;
                held.under_way -= 1;
            }
        }
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    // Nothing panics while holding it, and it is whole even if something did.
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::poll;
    use switchboard_core::ErrorKind;

    use super::*;

    async fn full() -> (Turns, Vec<Turn>) {
        let (turns, mut taken) = (Turns::default(), Vec::new());
        for _ in 0..UNDER_WAY {
            taken.push(turns.take(Instant::now()).await.unwrap());
        }
        (turns, taken)
    }

    fn due(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    #[tokio::test]
    async fn what_lapses_first_comes_first_and_who_left_is_passed_over() {
        let (turns, mut taken) = full().await;
        let (late, soon, gone) = (turns.take(due(90)), turns.take(due(10)), turns.take(due(1)));
        let (mut late, mut soon, mut gone) = (Box::pin(late), Box::pin(soon), Box::pin(gone));
        assert!(poll!(&mut late).is_pending() && poll!(&mut soon).is_pending());
        assert!(poll!(&mut gone).is_pending());
        drop(gone);
        taken.pop();
        assert!(poll!(&mut late).is_pending());
        let soon = soon.await.unwrap();
        drop(soon);
        drop(late.await.unwrap());
        drop(taken);
        assert_eq!(lock(&turns.queue).under_way, 0);
    }

    #[tokio::test]
    async fn a_turn_given_to_who_has_just_left_is_given_on() {
        let (turns, mut taken) = full().await;
        let (mut first, mut second) = (Box::pin(turns.take(due(1))), Box::pin(turns.take(due(2))));
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        taken.pop();
        // It has its turn, and has not looked yet.
        drop(first);
        drop(second.await.unwrap());
        drop(taken);
        assert_eq!(lock(&turns.queue).under_way, 0);
    }

    #[tokio::test]
    async fn all_who_wait_learn_that_the_agent_gives_no_answers() {
        let (turns, taken) = full().await;
        let (mut one, mut two) = (Box::pin(turns.take(due(1))), Box::pin(turns.take(due(2))));
        assert!(poll!(&mut one).is_pending() && poll!(&mut two).is_pending());
        taken[0].unanswered(&Error::new(ErrorKind::Unavailable, "consul", "register", "away"));
        for waiting in [one, two] {
            assert_eq!(waiting.await.unwrap_err().message(), "away");
        }
        drop(taken);
        assert_eq!(lock(&turns.queue).under_way, 0);
        turns.take(due(0)).await.unwrap();
    }
}
