//! When to read everything again, because something changed and nothing said what.
//!
//! The catalog's index moves with every registration. Where an instance with a check comes or goes, the state of the
//! checks says which service that was, and at which index; where a name or a tag does, the names do. Anything else (other
//! metadata, an instance without checks beside others) shows nowhere, and neither does one that one answer about the
//! catalog tells together with something that shows.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

/// How far apart the two answers that tell of one registration come at most, or the index is not explained.
const TOGETHER: Duration = Duration::from_millis(250);
/// How long what was explained may have hidden something else.
const HIDDEN: Duration = Duration::from_secs(10);
/// So many explanations are remembered.
const REMEMBERED: usize = 1000;
/// What each service costs: in the long run 100 reads a second.
const EACH: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(crate) struct Sweep {
    /// Since when one is wanted.
    soon: Option<Instant>,
    /// When one is due for what may have been hidden.
    late: Option<Instant>,
    /// When the last one is paid for.
    paid: Instant,
    /// Indexes that the checks explained, lately.
    explained: BTreeSet<u64>,
    /// Those of the catalog that nothing has explained yet, and when it is too late for that.
    open: BTreeSet<u64>,
    settled: Option<Instant>,
}

impl Sweep {
    pub(crate) fn new() -> Self {
        Self {
            soon: None,
            late: None,
            paid: Instant::now(),
            explained: BTreeSet::new(),
            open: BTreeSet::new(),
            settled: None,
        }
    }

    /// The catalog's index moved to `index`, and the names do not say why.
    pub(crate) fn moved(&mut self, index: u64) {
        if self.explained.contains(&index) {
            self.late();
        } else if self.open.len() < REMEMBERED {
            self.open.insert(index);
            self.settled.get_or_insert(Instant::now() + TOGETHER);
        }
    }

    /// The checks told of registrations at these indexes.
    pub(crate) fn explain(&mut self, indexes: impl IntoIterator<Item = u64>) {
        for index in indexes {
            self.open.remove(&index);
            self.explained.insert(index);
        }
        while self.explained.len() > REMEMBERED {
            self.explained.pop_first();
        }
        if self.open.is_empty() {
            self.settled = None;
        }
        self.late();
    }

    fn late(&mut self) {
        self.late.get_or_insert(Instant::now() + HIDDEN);
    }

    /// Everything may have changed.
    pub(crate) fn now(&mut self) {
        self.soon = Some(Instant::now());
    }

    /// When everything is to be read again.
    pub(crate) fn due(&self) -> Option<Instant> {
        let due = [self.soon, self.late, self.settled].into_iter().flatten().min()?;
        Some(due.max(self.paid))
    }

    /// Everything is read, so many services.
    pub(crate) fn done(&mut self, services: usize) {
        (self.soon, self.late, self.settled) = (None, None, None);
        self.open.clear();
        self.paid = Instant::now() + EACH.saturating_mul(u32::try_from(services).unwrap_or(u32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn what_is_explained_waits_and_what_is_not_does_not() {
        let start = Instant::now();
        let mut sweep = Sweep::new();
        assert_eq!(sweep.due(), None);
        sweep.moved(7);
        assert_eq!(sweep.due(), Some(start + TOGETHER));
        sweep.moved(9);
        advance(TOGETHER / 2).await;
        sweep.explain([7]);
        assert_eq!(sweep.due(), Some(start + TOGETHER), "of two, one is open");
        sweep.explain([8, 9]);
        assert_eq!(sweep.due(), Some(start + TOGETHER / 2 + HIDDEN));
        sweep.moved(8);
        assert_eq!(sweep.due(), Some(start + TOGETHER / 2 + HIDDEN), "in whichever order they come");
        sweep.done(0);
        assert_eq!(sweep.due(), None);
        sweep.moved(10);
        assert_eq!(sweep.due(), Some(Instant::now() + TOGETHER));
    }

    #[tokio::test(start_paused = true)]
    async fn reading_everything_is_bounded() {
        let (start, mut reads) = (Instant::now(), 0);
        let mut sweep = Sweep::new();
        while start.elapsed() < Duration::from_secs(60) {
            sweep.now();
            tokio::time::sleep_until(sweep.due().unwrap()).await;
            sweep.done(500);
            reads += 500;
        }
        assert!((6000..=6500).contains(&reads), "{reads}");
    }
}
