//! How soon another daemon takes the place of one that has ended by itself.

use std::time::Duration;

use tokio::time::Instant;

/// The pause before a restart: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// A daemon that has lived for this long ended for a new reason.
const CALM: Duration = Duration::from_secs(60);

/// Grows from restart to restart: what ended one daemon, such as a packet, may be about to end the next.
#[derive(Default)]
pub(crate) struct Restarts {
    last: Option<(Instant, Duration)>,
}

impl Restarts {
    /// How long to wait before the next restart, with half of it left to chance.
    pub(crate) fn pause(&mut self) -> Duration {
        let now = Instant::now();
        let pause = match self.last {
            Some((at, pause)) if now - at < pause + CALM => PAUSE.1.min(pause * 2),
            _ => PAUSE.0,
        };
        self.last = Some((now, pause));
        pause.mul_f64(0.5 + 0.5 * fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_pause_grows_to_its_limit_and_begins_again_after_a_calm_minute() {
        let mut restarts = Restarts::default();
        let mut longest = PAUSE.0;
        for _ in 0..20 {
            let pause = restarts.pause();
            assert!(longest / 2 <= pause && pause <= longest, "{pause:?} of {longest:?}");
            longest = PAUSE.1.min(longest * 2);
            tokio::time::advance(pause).await;
        }
        tokio::time::advance(PAUSE.1 + CALM).await;
        assert!(restarts.pause() <= PAUSE.0);
    }
}
