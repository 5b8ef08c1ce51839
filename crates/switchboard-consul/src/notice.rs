//! What is left out of what others registered, said once.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{LazyLock, Mutex, PoisonError};

use switchboard_core::{Error, InstanceKey, Invalid};

/// So many different things are said in the life of a process. What others register must not fill the log, nor the
/// memory that keeps it from being filled.
const MOST: usize = 4096;

/// Logs that something about `id` of `service` is left out, and why, unless it was logged before.
pub(crate) fn left_out(service: &str, id: &str, why: &Invalid) {
    if is_new(&SAID, &(service, id, why.what(), why.why())) {
        tracing::warn!(service, id, %why, "left out of what is registered");
    }
}

/// Logs that Consul also found instances of a service whose name differs in case, unless it was logged before.
pub(crate) fn other_case(asked: &str, found: &str) {
    if is_new(&SAID, &(asked, found)) {
        tracing::warn!(asked, found, "Consul finds a service of other case, which is another one; left out");
    }
}

/// Logs that what is registered under this id cannot be seen, so that it is renewed whatever it is, unless it was logged before.
pub(crate) fn unseen(instance: &InstanceKey, error: &Error) {
    if is_new(&SAID, &("unseen", instance)) {
        tracing::warn!(%instance, %error, "cannot see whether another program has registered this id, and renews it all the same");
    }
}

/// Hashes keyed at random: nobody can choose what collides.
type Said = LazyLock<(RandomState, Mutex<HashSet<u64>>)>;

static SAID: Said = LazyLock::new(Default::default);

fn is_new(said: &Said, what: &impl std::hash::Hash) -> bool {
    let (hasher, said) = &**said;
    let hash = hasher.hash_one(what);
    // Nothing panics while it is held.
    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
    said.len() < MOST && said.insert(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_is_new_once_and_not_for_ever_many() {
        static HERE: Said = LazyLock::new(Default::default);
        assert!(is_new(&HERE, &("a", "1")));
        assert!(!is_new(&HERE, &("a", "1")));
        let new = (0..2 * MOST).filter(|number| is_new(&HERE, &("b", number))).count();
        assert_eq!(new, MOST - 1);
    }
}
