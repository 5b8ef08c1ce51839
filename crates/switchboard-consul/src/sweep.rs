//! When to read everything again, because something changed and nothing said what.
//!
//! The catalog's index moves with every registration. Where an instance with a check comes or goes, the checks say which
//! service that was, and where a name or a tag does, the names. Anything else (other metadata, an instance without
//! checks beside others) shows nowhere, and neither does one that happens in the same moment as something that shows.

use std::time::Duration;

use tokio::time::Instant;

/// How far apart the two answers that tell of one registration come at most, or the index is not explained.
const TOGETHER: Duration = Duration::from_millis(250);
/// How long what was explained may have hidden something else.
const HIDDEN: Duration = Duration::from_secs(30);
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
    /// When the checks last told of a registration.
    explained: Option<Instant>,
}

impl Sweep {
    pub(crate) fn new() -> Self {
        Self { soon: None, late: None, paid: Instant::now(), explained: None }
    }

    /// The catalog's index moved, and the names do not say why.
    pub(crate) fn unexplained(&mut self) {
        let now = Instant::now();
        if self.explained.is_some_and(|at| now < at + TOGETHER) {
            self.explain();
        } else {
            self.soon.get_or_insert(now + TOGETHER);
        }
    }

    /// The checks, or the names, told of a registration.
    pub(crate) fn explain(&mut self) {
        let now = Instant::now();
        self.explained = Some(now);
        self.late.get_or_insert(now + HIDDEN);
        if self.soon.is_some_and(|due| due > now) {
            self.soon = None;
        }
    }

    /// Everything may have changed.
    pub(crate) fn now(&mut self) {
        self.soon = Some(Instant::now());
    }

    /// When everything is to be read again.
    pub(crate) fn due(&self) -> Option<Instant> {
        let due = self.soon.into_iter().chain(self.late).min()?;
        Some(due.max(self.paid))
    }

    /// Everything is read, so many services.
    pub(crate) fn done(&mut self, services: usize) {
        (self.soon, self.late) = (None, None);
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
        sweep.unexplained();
        assert_eq!(sweep.due(), Some(start + TOGETHER));
        advance(TOGETHER / 2).await;
        sweep.explain();
        assert_eq!(sweep.due(), Some(start + TOGETHER / 2 + HIDDEN), "in whichever order they come");
        sweep.unexplained();
        assert_eq!(sweep.due(), Some(start + TOGETHER / 2 + HIDDEN));

        advance(TOGETHER).await;
        sweep.unexplained();
        advance(TOGETHER).await;
        sweep.explain();
        assert_eq!(sweep.due(), Some(start + TOGETHER * 5 / 2), "too late to explain it");
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
