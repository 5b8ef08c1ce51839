//! Whether there is a network to hear, over time.

use std::time::{Duration, Instant};

/// mdns-sd looks for new interfaces every two seconds; by then it has joined one that has come back.
const JOINS_WITHIN: Duration = Duration::from_millis(2500);

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum Linked {
    #[default]
    Yes,
    /// There is no interface.
    No,
    /// There is one again, since then, which mdns-sd may not have noticed yet.
    Again(Instant),
}

/// What has just changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Lost,
    /// Listening begins anew.
    Back,
}

impl Linked {
    /// Takes in whether there is an interface now.
    pub(crate) fn look(&mut self, there: bool, now: Instant) -> Option<Change> {
        match self {
            Self::Yes if !there => {
                *self = Self::No;
                Some(Change::Lost)
            }
            Self::No if there => {
                *self = Self::Again(now);
                None
            }
            Self::Again(_) if !there => {
                *self = Self::No;
                None
            }
            Self::Again(since) if now.saturating_duration_since(*since) >= JOINS_WITHIN => {
                *self = Self::Yes;
                Some(Change::Back)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_back_when_mdns_sd_has_had_time_to_join() {
        let start = Instant::now();
        let mut linked = Linked::default();
        let mut look = |there, ms| linked.look(there, start + Duration::from_millis(ms));
        assert_eq!(look(true, 0), None);
        assert_eq!(look(false, 1000), Some(Change::Lost));
        assert_eq!(look(false, 2000), None);
        assert_eq!(look(true, 3000), None);
        assert_eq!(look(false, 4000), None, "it flaps");
        assert_eq!(look(true, 5000), None);
        assert_eq!(look(true, 7000), None);
        assert_eq!(look(true, 8000), Some(Change::Back));
        assert_eq!(look(true, 9000), None);
    }
}
