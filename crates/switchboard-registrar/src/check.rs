//! The health check: run at an interval of its own, and judged over several runs.

use std::error::Error as StdError;
use std::future::{Future, pending};
use std::mem::discriminant;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::CheckFailures;
use crate::caught::Caught;
use crate::pause::early;
use crate::teller::Teller;

/// Checks come in the last fifth of the interval, but the second one at any time of it, so that those of a fleet started
/// together part at once.
const SPREAD: u32 = 5;

/// An interval of zero must not become a loop without a pause.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

/// Why a check failed, in whatever words; all that can be an error converts into it.
pub type CheckError = Box<dyn StdError + Send + Sync>;

/// What a check says of the server: well, or why not.
type Verdict = std::result::Result<(), CheckError>;

/// What is checked, how often, and how many results in a row count.
#[derive(Clone)]
pub(crate) struct Check {
    function: Option<Arc<dyn Fn() -> BoxFuture<'static, Verdict> + Send + Sync>>,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    pub(crate) unhealthy_after: u32,
    pub(crate) healthy_after: u32,
}

impl Default for Check {
    fn default() -> Self {
        Self {
            function: None,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            unhealthy_after: 3,
            healthy_after: 1,
        }
    }
}

impl Check {
    pub(crate) fn set<F, Fut, E>(&mut self, check: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = std::result::Result<(), E>> + Send + 'static,
        E: Into<CheckError>,
    {
        self.function = Some(Arc::new(move || check().map(|verdict| verdict.map_err(Into::into)).boxed()));
    }

    pub(crate) fn is_set(&self) -> bool {
        self.function.is_some()
    }

    /// Checks for as long as it is polled, one check after the other, and tells what comes of them. Receivers of
    /// `health` are woken when it turns.
    pub(crate) async fn run(&self, health: &watch::Sender<Health>, teller: &Teller) {
        let Some(function) = &self.function else { return pending().await };
        let mut spread = 1;
        loop {
            // From start to start, so that a check that hangs does not put off the next.
            let next = sleep(early(self.interval, spread).max(SHORTEST_INTERVAL));
            spread = SPREAD;
            // The closure may panic, its future, and the error when it is told.
            let checked = Caught::new(async { function().await.map_err(|error| error.to_string()) });
            let verdict = match timeout(self.timeout, checked).await {
                Ok(Some(verdict)) => verdict,
                Ok(None) => Err("the check panicked".into()),
                Err(_) => Err(format!("the check took longer than {:?}", self.timeout)),
            };
            health.send_if_modified(|health| health.record(verdict, self));
            teller.change(|status| status.checked(&health.borrow()));
            next.await;
        }
    }
}

/// What the checks so far say of the server.
#[derive(Clone, Debug)]
pub(crate) enum Health {
    /// Not checked yet.
    Unknown,
    /// Well, though the last checks may have failed.
    Well(Option<CheckFailures>),
    /// Too many checks failed in a row; since then, so many have passed in a row.
    Unwell { failures: CheckFailures, passes: u32 },
}

impl Health {
    /// Before the first check: what is never checked is well.
    pub(crate) fn before(check: &Check) -> Self {
        if check.is_set() { Self::Unknown } else { Self::Well(None) }
    }

    /// Checks that failed in a row.
    pub(crate) fn failures(&self) -> Option<&CheckFailures> {
        match self {
            Self::Unknown => None,
            Self::Well(failures) => failures.as_ref(),
            Self::Unwell { failures, .. } => Some(failures),
        }
    }

    /// Takes note of a verdict; whether health turns with it.
    fn record(&mut self, verdict: Result<(), String>, check: &Check) -> bool {
        let next = match (&*self, verdict) {
            (Self::Unwell { failures, passes }, Ok(())) => {
                let (failures, passes) = (failures.clone(), passes.saturating_add(1));
                if passes < check.healthy_after {
                    Self::Unwell { failures, passes }
                } else {
                    Self::Well(None)
                }
            }
            (_, Ok(())) => Self::Well(None),
            (before, Err(why)) => {
                let failures = CheckFailures::after(before.failures(), check.unhealthy_after, why);
                match before {
                    Self::Well(_) if failures.count < failures.limit => Self::Well(Some(failures)),
                    // The first check of all decides alone, as in Envoy.
                    _ => Self::Unwell { failures, passes: 0 },
                }
            }
        };
        let turned = discriminant(self) != discriminant(&next);
        *self = next;
        turned
    }
}

impl CheckFailures {
    /// One more, after the `earlier` ones.
    fn after(earlier: Option<&Self>, limit: u32, why: String) -> Self {
        let (count, since) = earlier.map_or((0, Instant::now()), |earlier| (earlier.count, earlier.since));
        Self { count: count.saturating_add(1), limit, since, why: why.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdicts, `.` for a pass and `x` for a failure, and health after each: `+` well, `-` unwell.
    fn course(unhealthy_after: u32, healthy_after: u32, verdicts: &str) -> String {
        let check = Check { unhealthy_after, healthy_after, ..Check::default() };
        let mut health = Health::Unknown;
        verdicts
            .chars()
            .map(|verdict| {
                let before = discriminant(&health);
                let verdict = if verdict == '.' { Ok(()) } else { Err("bad".to_owned()) };
                let turned = health.record(verdict, &check);
                assert_eq!(turned, before != discriminant(&health));
                if matches!(health, Health::Well(_)) { '+' } else { '-' }
            })
            .collect()
    }

    #[test]
    fn so_many_in_a_row_turn_it_and_the_first_decides_alone() {
        assert_eq!(course(3, 1, ".xx.xxx.xx."), "++++++-++++");
        assert_eq!(course(3, 1, "x.xx.x"), "-+++++");
        assert_eq!(course(2, 3, ".xx..x...x"), "++------++");
        assert_eq!(course(1, 1, ".x.x"), "+-+-");
        assert_eq!(course(0, 0, ".x.x"), "+-+-", "zero is one");
        assert_eq!(course(u32::MAX, u32::MAX, ".xxxx"), "+++++");
    }
}
