//! When to ask the network again.
//!
//! A browse asks often at first and then ever less, down to once an hour (RFC 6762 §5.2). After a link was cut and has healed,
//! neither side says anything by itself, so an hour may pass until they see each other. Asking again now and then bounds
//! that; while something has recently been lost, more often.

use std::time::{Duration, Instant};

/// The bound on how long a healed link goes unnoticed while something is missed.
const WHILE_MISSING: Duration = Duration::from_secs(5);

/// How long something lost is missed.
const MISSED_FOR: Duration = Duration::from_secs(600);

/// The bound otherwise.
const ALWAYS: Duration = Duration::from_secs(60);

/// The schedule of one browse.
#[derive(Debug)]
pub(crate) struct Requery {
    asked: Instant,
    missing_until: Instant,
    soon: bool,
}

impl Default for Requery {
    fn default() -> Self {
        let now = Instant::now();
        Self { asked: now, missing_until: now, soon: false }
    }
}

impl Requery {
    /// An instance went away: it said goodbye, or its link is cut; the two look the same.
    pub(crate) fn lost(&mut self, now: Instant) {
        self.missing_until = now + MISSED_FOR;
    }

    /// An interface came back.
    pub(crate) fn soon(&mut self) {
        self.soon = true;
    }

    /// When to ask next.
    pub(crate) fn due(&self) -> Instant {
        let missing = self.asked + WHILE_MISSING;
        if self.soon {
            self.asked
        } else if missing <= self.missing_until {
            missing
        } else {
            self.asked + ALWAYS
        }
    }

    /// Whether it is time; if so, the asking counts as done.
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        let due = self.due() <= now;
        if due {
            self.asked = now;
            self.soon = false;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often it asks between two moments, looked at every second.
    fn asked(requery: &mut Requery, start: Instant, from: u64, to: u64) -> usize {
        (from..to).filter(|second| requery.is_due(start + Duration::from_secs(*second))).count()
    }

    #[test]
    fn asks_every_minute_and_more_often_for_ten_after_a_loss() {
        let mut requery = Requery::default();
        let start = requery.asked;
        assert_eq!(asked(&mut requery, start, 0, 601), 10);
        requery.lost(start + Duration::from_secs(601));
        assert_eq!(asked(&mut requery, start, 601, 606), 1, "the first within five seconds");
        assert_eq!(asked(&mut requery, start, 606, 1201), 119);
        assert_eq!(asked(&mut requery, start, 1206, 1506), 5);
    }

    #[test]
    fn asks_at_once_when_an_interface_returns() {
        let mut requery = Requery::default();
        let start = requery.asked;
        requery.soon();
        assert!(requery.is_due(start));
        assert!(!requery.is_due(start));
    }
}
