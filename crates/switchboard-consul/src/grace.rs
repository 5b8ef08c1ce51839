//! What a watch keeps after an outage, and for how long.
//!
//! Who answers again may have forgotten what still lives: an agent that began anew knows an instance when that next renews,
//! servers that lost their state when the agents next compare with them, and a leader may answer before it has read all
//! that it has on disk. TTLs that ended meanwhile say nothing about who could not renew.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;

use switchboard_core::Error;
use tokio::time::Instant;

use crate::answer::Failure;
use crate::query::Query;

/// Agents compare what they have with the catalog once in 1 to 2 minutes (98 to 108 s were measured), where the grace is
/// for renewals: so it is longer by this when the servers themselves began anew.
const SERVERS_ANEW: u32 = 3;
/// The part of the grace for which everything must have been there for it to be over: what is read first may be from before.
const SETTLED: u32 = 4;

/// The grace of one watch.
#[derive(Debug)]
pub(crate) struct Grace<K> {
    length: Duration,
    /// The index of the last good answer, whatever failed since.
    reached: u64,
    /// There was an outage since.
    shaken: bool,
    /// What goes missing until then is kept.
    ends: Option<Instant>,
    /// What is missing, and until when it is kept: an outage that comes after it does not make that longer, unless that is
    /// one after which the servers began anew.
    missing: HashMap<K, Instant>,
    /// Since when nothing is missing.
    whole_since: Option<Instant>,
}

impl<K: Clone + Eq + Hash> Grace<K> {
    pub(crate) fn new(length: Duration) -> Self {
        Self { length, reached: 0, shaken: false, ends: None, missing: HashMap::new(), whole_since: None }
    }

    /// Notes that Consul could not be read well.
    pub(crate) fn shake(&mut self) {
        self.shaken = true;
    }

    /// Notes why Consul could not be read. Behind an agent that answers with an error its servers may have lost everything.
    pub(crate) fn failed(&mut self, failure: Failure) -> Error {
        if !failure.answered || failure.error.is_transient() {
            self.shake();
        }
        failure.error
    }

    /// How long something that was kept still is, if anything is.
    pub(crate) fn left(&self, now: Instant) -> Option<Duration> {
        self.missing.values().min().map(|end| end.saturating_duration_since(now))
    }

    /// What is to be told for what was `read` at `index`, when `last` was told before.
    pub(crate) fn keep<Q: Query<Key = K>>(
        &mut self,
        index: u64,
        last: Option<&Q::Item>,
        read: Q::Item,
        now: Instant,
    ) -> Q::Item {
        let anew = index < std::mem::replace(&mut self.reached, index);
        if anew {
            tracing::debug!(index, "Consul's index went back: it began anew");
        }
        let shaken = std::mem::take(&mut self.shaken);
        if (anew || shaken) && !self.length.is_zero() {
            let length = if anew { self.length.saturating_mul(SERVERS_ANEW) } else { self.length };
            // What began anew is not over because something else failed since.
            self.ends = self.ends.max(Some(now + length));
            self.whole_since = None;
        }
        if let (true, Some(longer)) = (anew, self.ends) {
            self.missing.values_mut().for_each(|end| *end = longer);
        }
        let (Some(last), Some(end)) = (last, self.ends) else { return read };
        let settled = self.whole_since.is_some_and(|since| now >= since + self.length / SETTLED);
        let forgotten = if settled { HashSet::new() } else { Q::forgotten(last, &read) };
        self.missing.retain(|key, _| forgotten.contains(key));
        for key in forgotten {
            self.missing.entry(key).or_insert(end);
        }
        // Those whose time is over stay noted until they are told gone: nothing remembers them after that.
        let kept: HashSet<K> =
            self.missing.iter().filter(|(_, end)| now < **end).map(|(key, _)| key.clone()).collect();
        self.missing.retain(|key, _| kept.contains(key));
        self.whole_since = if kept.is_empty() { self.whole_since.or(Some(now)) } else { None };
        if settled || (kept.is_empty() && now >= end) {
            (self.ends, self.whole_since) = (None, None);
        }
        Q::with(last, read, &kept)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::client::Request;

    /// A query whose answers are sets of numbers.
    struct Numbers;

    impl Query for Numbers {
        type Item = BTreeSet<u32>;
        type Key = u32;

        fn request(&self) -> &Request {
            unreachable!("nothing is asked")
        }

        fn decode(&mut self, body: &[u8]) -> serde_json::Result<BTreeSet<u32>> {
            serde_json::from_slice(body)
        }

        fn is_empty(item: &BTreeSet<u32>) -> bool {
            item.is_empty()
        }

        fn forgotten(older: &BTreeSet<u32>, newer: &BTreeSet<u32>) -> HashSet<u32> {
            older.difference(newer).copied().collect()
        }

        fn with(_: &BTreeSet<u32>, mut newer: BTreeSet<u32>, kept: &HashSet<u32>) -> BTreeSet<u32> {
            newer.extend(kept);
            newer
        }
    }

    const LENGTH: Duration = Duration::from_secs(40);

    struct Watch {
        grace: Grace<u32>,
        last: BTreeSet<u32>,
        begun: Instant,
    }

    impl Watch {
        /// One that was told `numbers` at index 100.
        fn of(numbers: &[u32]) -> Self {
            let (mut grace, begun) = (Grace::new(LENGTH), Instant::now());
            let last = grace.keep::<Numbers>(100, None, numbers.iter().copied().collect(), begun);
            Self { grace, last, begun }
        }

        /// What is told for `numbers` read after that many seconds.
        fn told(&mut self, seconds: u64, index: u64, numbers: &[u32]) -> Vec<u32> {
            let (read, now) = (numbers.iter().copied().collect(), self.begun + Duration::from_secs(seconds));
            self.last = self.grace.keep::<Numbers>(index, Some(&self.last), read, now);
            self.last.iter().copied().collect()
        }
    }

    #[test]
    fn without_an_outage_what_goes_is_gone() {
        let mut watch = Watch::of(&[1, 2]);
        assert_eq!(watch.told(1, 101, &[2]), [2]);
        assert!(watch.told(2, 102, &[]).is_empty());
    }

    #[test]
    fn after_an_outage_what_is_missing_is_kept_until_the_grace_is_over() {
        let mut watch = Watch::of(&[1, 2]);
        watch.grace.shake();
        assert_eq!(watch.told(1, 101, &[]), [1, 2]);
        assert_eq!(watch.told(30, 102, &[3]), [1, 2, 3]);
        assert_eq!(watch.grace.left(watch.begun + Duration::from_secs(31)), Some(Duration::from_secs(10)));
        assert_eq!(watch.told(41, 102, &[3]), [3]);
        assert_eq!(watch.grace.left(watch.begun + Duration::from_secs(41)), None);
        assert!(watch.told(42, 103, &[]).is_empty());
    }

    #[test]
    fn all_must_have_been_back_for_a_while() {
        let mut watch = Watch::of(&[1, 2]);
        watch.grace.shake();
        assert_eq!(watch.told(1, 101, &[1, 2]), [1, 2], "as it was before the outage");
        assert_eq!(watch.told(2, 102, &[1]), [1, 2]);
        assert_eq!(watch.told(3, 103, &[1, 2]), [1, 2]);
        assert_eq!(watch.grace.left(watch.begun), None, "nothing is missing");
        assert_eq!(watch.told(13, 104, &[2]), [2], "ten seconds later what goes is gone");
    }

    #[test]
    fn servers_that_began_anew_have_longer() {
        let mut watch = Watch::of(&[1, 2]);
        watch.grace.shake();
        assert_eq!(watch.told(1, 7, &[]), [1, 2]);
        watch.grace.shake();
        assert_eq!(watch.told(2, 8, &[]), [1, 2]);
        assert_eq!(watch.told(120, 9, &[1]), [1, 2]);
        assert_eq!(watch.told(121, 9, &[1]), [1]);
    }

    #[test]
    fn servers_that_are_known_to_have_begun_anew_only_later_have_longer_all_the_same() {
        let mut watch = Watch::of(&[1, 2]);
        watch.grace.shake();
        assert_eq!(watch.told(1, 101, &[1]), [1, 2], "an agent's last word");
        assert_eq!(watch.told(2, 7, &[1]), [1, 2]);
        assert_eq!(watch.told(121, 8, &[1]), [1, 2]);
        assert_eq!(watch.told(122, 8, &[1]), [1]);
    }

    #[test]
    fn an_outage_keeps_nobody_longer_who_was_missing_before() {
        let mut watch = Watch::of(&[1, 2, 3]);
        watch.grace.shake();
        assert_eq!(watch.told(1, 101, &[2, 3]), [1, 2, 3]);
        for seconds in [20, 35] {
            watch.grace.shake();
            assert_eq!(watch.told(seconds, 102, &[2, 3]), [1, 2, 3]);
        }
        assert_eq!(
            watch.told(40, 103, &[2]),
            [1, 2, 3],
            "which goes after the last of them has its own time"
        );
        assert_eq!(watch.told(41, 103, &[2]), [2, 3]);
        assert_eq!(watch.told(74, 103, &[2]), [2, 3]);
        assert_eq!(watch.told(75, 103, &[2]), [2]);
    }

    #[test]
    fn without_a_grace_nothing_is_kept() {
        let mut grace = Grace::<u32>::new(Duration::ZERO);
        grace.shake();
        let told = grace.keep::<Numbers>(1, Some(&BTreeSet::from([1])), BTreeSet::new(), Instant::now());
        assert!(told.is_empty());
    }
}
