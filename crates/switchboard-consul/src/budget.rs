//! What all watches of this process may hold of one agent.
//!
//! Consul takes 200 connections from one address (`http_max_conns_per_client`), for all programs on that host together.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use tokio::sync::Semaphore;

/// How many watches of a process wait in blocking queries of their own, one connection each.
pub(crate) const BLOCKING: usize = 32;
/// How many of the feeds' queries, two for each handle that needs one, wait so.
const FEEDS: usize = 8;
/// How many reads that wait for nothing watches have under way.
const READS: usize = 8;

/// The shares of one agent.
#[derive(Debug)]
pub(crate) struct Budget {
    pub(crate) blocking: Arc<Semaphore>,
    pub(crate) feeds: Arc<Semaphore>,
    pub(crate) reads: Arc<Semaphore>,
    /// How many of those reads were answered: as long as that grows, who waits for a turn waits for others, not in vain.
    pub(crate) answered: AtomicU64,
}

impl Budget {
    /// The one that all handles on the agent with this URL share.
    pub(crate) fn of(agent: &str) -> Arc<Self> {
        static ALL: LazyLock<Mutex<HashMap<String, Weak<Budget>>>> = LazyLock::new(Mutex::default);

        // Nothing panics while it is held.
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, budget| budget.strong_count() > 0);
        if let Some(budget) = all.get(agent).and_then(Weak::upgrade) {
            return budget;
        }
        let budget = Arc::new(Self {
            blocking: Arc::new(Semaphore::new(BLOCKING)),
            feeds: Arc::new(Semaphore::new(FEEDS)),
            reads: Arc::new(Semaphore::new(READS)),
            answered: AtomicU64::new(0),
        });
        all.insert(agent.to_owned(), Arc::downgrade(&budget));
        budget
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_on_one_agent_share_and_nothing_is_kept_for_ever() {
        let one = Budget::of("http://budget-test:1");
        assert!(Arc::ptr_eq(&one, &Budget::of("http://budget-test:1")));
        assert!(!Arc::ptr_eq(&one, &Budget::of("http://budget-test:2")));
        let permit = one.blocking.clone().try_acquire_owned().unwrap();
        drop(one);
        drop(permit);
        assert_eq!(Budget::of("http://budget-test:1").blocking.available_permits(), BLOCKING);
    }
}
