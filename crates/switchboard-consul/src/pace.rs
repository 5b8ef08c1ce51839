//! How fast a watch may ask: as fast as there is news, but bounded whatever the server answers.

use std::time::Duration;

use tokio::time::Instant;

/// What an answer with news costs: in the long run 500 a second.
const NEWS: Duration = Duration::from_millis(2);
/// What an answer without news costs. Consul wakes some watches for changes elsewhere.
const WAKE: Duration = Duration::from_millis(5);
/// How many of those in a row are believed.
const BELIEVED: u32 = 10;
/// What each costs after that: in the long run 2 a second.
const NO_NEWS: Duration = Duration::from_millis(500);
/// What may be spent ahead.
const BURST: Duration = Duration::from_secs(5);

/// A bucket that answers are paid from, kept as the time at which it will be full again.
#[derive(Debug)]
pub(crate) struct Pace {
    full_at: Instant,
    without_news: u32,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self { full_at: Instant::now(), without_news: 0 }
    }

    /// Notes an answer.
    pub(crate) fn spend(&mut self, news: bool) {
        self.without_news = if news { 0 } else { self.without_news.saturating_add(1) };
        let cost = match self.without_news {
            0 => NEWS,
            1..=BELIEVED => WAKE,
            _ => NO_NEWS,
        };
        self.full_at = self.full_at.max(Instant::now()) + cost;
    }

    /// When the next request may be made.
    pub(crate) fn next(&self) -> Instant {
        self.full_at.checked_sub(BURST).unwrap_or(self.full_at)
    }
}

const FIRST: Duration = Duration::from_millis(100);
const LAST: Duration = Duration::from_secs(5);

/// The pauses after failures in a row: doubling from 0.1 s to 5 s, each shortened by up to half at random.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    pub(crate) fn next(&mut self) -> Duration {
        let full = FIRST.saturating_mul(1 << self.failures.min(10)).min(LAST);
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests made in a minute by a watch that is always answered at once.
    async fn in_a_minute(news: bool) -> u32 {
        let (mut pace, end, mut made) = (Pace::new(), Instant::now() + Duration::from_secs(60), 0);
        loop {
            tokio::time::sleep_until(pace.next()).await;
            if Instant::now() >= end {
                return made;
            }
            pace.spend(news);
            made += 1;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn useless_answers_are_bounded_and_news_hardly() {
        let useless = in_a_minute(false).await;
        assert!((135..=145).contains(&useless), "{useless}");
        let news = in_a_minute(true).await;
        assert!((32_000..=33_000).contains(&news), "{news}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_bucket_fills_again() {
        let mut pace = Pace::new();
        for _ in 0..20 {
            pace.spend(false);
        }
        assert!(pace.next() > Instant::now());
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(pace.next() <= Instant::now());
    }

    #[test]
    fn pauses_grow_to_a_limit_and_start_again() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..2000).map(|_| backoff.next()).collect();
        assert!(pauses[0] <= FIRST && pauses[0] >= FIRST / 2);
        assert!(pauses[3] > FIRST * 2);
        assert!(pauses.iter().all(|pause| *pause <= LAST));
        assert!(pauses[1000] >= LAST / 2);
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }
}
