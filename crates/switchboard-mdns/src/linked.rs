//! How far the network is heard, over time.

use std::time::{Duration, Instant};

use crate::interface::Reach;

/// mdns-sd looks for new interfaces every two seconds; by then it has joined one that has come back.
const JOINS_WITHIN: Duration = Duration::from_millis(2500);

/// How far mdns-sd hears, as far as one can tell.
#[derive(Debug, Default)]
pub(crate) struct Linked {
    reach: Reach,
    /// It is to be further, since then, which mdns-sd may not have noticed yet.
    again: Option<(Reach, Instant)>,
}

/// What has just changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is less than before: this.
    Lost(Reach),
    /// It is more than before. Listening begins anew.
    Back,
}

impl Linked {
    pub(crate) fn reach(&self) -> Reach {
        self.reach
    }

    /// Takes in how far the interfaces reach now.
    pub(crate) fn look(&mut self, reach: Reach, now: Instant) -> Option<Change> {
        if reach <= self.reach {
            self.again = None;
            return (std::mem::replace(&mut self.reach, reach) != reach).then_some(Change::Lost(reach));
        }
        match self.again {
            Some((again, since)) if again == reach => (now.saturating_duration_since(since) >= JOINS_WITHIN)
                .then(|| {
                    *self = Self { reach, again: None };
                    Change::Back
                }),
            _ => {
                self.again = Some((reach, now));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Reach::{Links, Machine, Nowhere};
    use super::*;

    #[test]
    fn is_back_when_mdns_sd_has_had_time_to_join() {
        let start = Instant::now();
        let mut linked = Linked::default();
        let mut look = |reach, ms| linked.look(reach, start + Duration::from_millis(ms));
        assert_eq!(look(Links, 0), None);
        assert_eq!(look(Nowhere, 1000), Some(Change::Lost(Nowhere)));
        assert_eq!(look(Nowhere, 2000), None);
        assert_eq!(look(Links, 3000), None);
        assert_eq!(look(Nowhere, 4000), None, "it flaps");
        assert_eq!(look(Links, 5000), None);
        assert_eq!(look(Links, 7000), None);
        assert_eq!(look(Links, 8000), Some(Change::Back));
        assert_eq!(look(Links, 9000), None);
    }

    #[test]
    fn loopback_is_less_than_a_link_and_more_than_nothing() {
        let start = Instant::now();
        let mut linked = Linked::default();
        let mut look = |reach, ms| linked.look(reach, start + Duration::from_millis(ms));
        assert_eq!(look(Machine, 0), Some(Change::Lost(Machine)));
        assert_eq!(look(Nowhere, 1000), Some(Change::Lost(Nowhere)));
        assert_eq!(look(Machine, 2000), None);
        assert_eq!(look(Links, 4000), None, "the link has only just come");
        assert_eq!(look(Links, 6000), None);
        assert_eq!(look(Machine, 6100), None);
        assert_eq!(look(Machine, 8600), Some(Change::Back));
        assert_eq!(look(Links, 9000), None);
        assert_eq!(look(Links, 11_500), Some(Change::Back));
    }
}
