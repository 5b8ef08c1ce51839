//! When to ask the network again.
//!
//! A browse asks often at first and then ever less, down to once an hour (RFC 6762 §5.2). After a link was cut and has healed,
//! neither side says anything by itself, so an hour may pass until they see each other. Asking again now and then bounds
//! that; while something has recently been lost, more often. Each question costs the link an answer from every instance, so
//! where there are thousands it is asked less often.

use std::time::{Duration, Instant};

/// The bound on how long a healed link goes unnoticed while something is missed, with up to 500 instances.
const WHILE_MISSING: Duration = Duration::from_secs(5);

/// How long something lost is missed.
const MISSED_FOR: Duration = Duration::from_secs(600);

/// The bound otherwise.
const ALWAYS: Duration = Duration::from_secs(60);

/// How many answers a second the questions may cost on average.
const ANSWERS_PER_SECOND: u32 = 100;

/// The schedule of one browse.
#[derive(Debug)]
pub(crate) struct Requery {
    asked: Instant,
    missing_until: Instant,
    wanted: Option<Instant>,
    /// The least time between two questions that nobody asked for.
    spacing: Duration,
}

impl Default for Requery {
    fn default() -> Self {
        let now = Instant::now();
        Self { asked: now, missing_until: now, wanted: None, spacing: Duration::ZERO }
    }
}

impl Requery {
    /// An instance went away: it said goodbye, or its link is cut; the two look the same.
    pub(crate) fn lost(&mut self, now: Instant) {
        self.missing_until = now + MISSED_FOR;
    }

    /// There is a reason to ask at `at`.
    pub(crate) fn at(&mut self, at: Instant) {
        self.wanted = Some(self.wanted.map_or(at, |wanted| wanted.min(at)));
    }

    /// So many instances will answer.
    pub(crate) fn known(&mut self, instances: usize) {
        let instances = u32::try_from(instances).unwrap_or(u32::MAX);
        self.spacing = Duration::from_secs((instances / ANSWERS_PER_SECOND).into());
    }

    /// When to ask next.
    pub(crate) fn due(&self) -> Instant {
        let missing = self.asked + WHILE_MISSING.max(self.spacing);
        let due = if missing <= self.missing_until { missing } else { self.asked + ALWAYS.max(self.spacing) };
        self.wanted.map_or(due, |wanted| wanted.min(due))
    }

    /// Whether it is time; if so, the asking counts as done.
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        let due = self.due() <= now;
        if due {
            self.asked = now;
            self.wanted = None;
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
    fn asks_every_minute_and_more_often_for_ten_minutes_after_a_loss() {
        let mut requery = Requery::default();
        let start = requery.asked;
        assert_eq!(asked(&mut requery, start, 0, 601), 10);
        requery.lost(start + Duration::from_secs(601));
        assert_eq!(asked(&mut requery, start, 601, 606), 1, "the first within five seconds");
        assert_eq!(asked(&mut requery, start, 606, 1201), 119);
        assert_eq!(asked(&mut requery, start, 1206, 1506), 5);
    }

    #[test]
    fn asks_when_there_is_a_reason_and_once_for_it() {
        let mut requery = Requery::default();
        let start = requery.asked;
        requery.at(start + Duration::from_secs(3));
        requery.at(start + Duration::from_secs(4));
        assert_eq!(asked(&mut requery, start, 0, 3), 0);
        assert_eq!(asked(&mut requery, start, 3, 60), 1);
    }

    #[test]
    fn asks_thousands_less_often() {
        let mut requery = Requery::default();
        let start = requery.asked;
        requery.lost(start);
        requery.known(5000);
        assert_eq!(asked(&mut requery, start, 0, 501), 10);
        requery.known(50);
        assert_eq!(asked(&mut requery, start, 501, 551), 10);
    }
}
