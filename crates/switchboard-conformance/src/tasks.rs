use std::time::Duration;

use tokio::runtime::Handle as Runtime;
use tokio::time::{Instant, sleep};

use crate::world::World;

/// How many watches are opened and dropped, one after another: clearly more than the tasks a backend may share
/// among them or keep for a while, such as the one behind a pooled connection.
pub(crate) const WATCHES: usize = 6;
/// How many handles are opened and closed; more than the shared tasks too, and fewer because they cost more.
pub(crate) const HANDLES: usize = 4;
const SHARED: usize = 2;

/// The tasks alive on this runtime now.
pub(crate) fn alive() -> usize {
    Runtime::current().metrics().num_alive_tasks()
}

/// Waits until no more tasks are alive than `before`, but for a few shared ones.
pub(crate) async fn gone(world: &World<'_>, before: usize, what: &str) {
    let limit = world.profile().settle;
    let deadline = Instant::now() + limit;
    while alive() > before + SHARED {
        world.ensure(Instant::now() < deadline, || {
            format!("{what}, and {limit:?} later {} tasks are alive where {before} were before", alive())
        });
        // The runtime tells no event when a task ends.
        sleep(Duration::from_millis(10)).await;
    }
}
