//! How many retries a service has earned.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use switchboard_core::ServiceName;
use tokio::time::Instant;

use crate::metrics::Metrics;

/// Each call earns a part of a retry, and each second some; what was earned and spent counts for 10 s. As Finagle's
/// `RetryBudget`; tower's `TpsBudget` rounds to a retry for each whole number of calls, so that 60 % are 100.
#[derive(Debug)]
pub(crate) struct Budget {
    /// What a call earns, in parts of a retry.
    earned: i64,
    /// What every 10 s earn.
    reserve: i64,
    began: Instant,
    window: Mutex<Window>,
    pub(crate) metrics: Metrics,
}

/// What was earned less what was spent, in each of the last seconds.
#[derive(Debug, Default)]
struct Window {
    seconds: [i64; SECONDS as usize],
    now: u64,
}

/// How long calls and retries count.
const SECONDS: u32 = 10;
/// A retry, in the parts that are counted.
const RETRY: u32 = 1_000_000;

impl Budget {
    #[allow(clippy::cast_possible_truncation)] // from 0 to a million, rounded
    pub(crate) fn new(service: &ServiceName, Rate { fraction, per_second }: Rate) -> Self {
        Self {
            earned: (fraction * f64::from(RETRY)).round() as i64,
            reserve: i64::from(per_second) * i64::from(SECONDS) * i64::from(RETRY),
            began: Instant::now(),
            window: Mutex::default(),
            metrics: Metrics::new(service),
        }
    }

    /// A call is made.
    pub(crate) fn deposit(&self) {
        let mut window = self.window();
        *window.current() += self.earned;
    }

    /// A call wants to be tried again.
    pub(crate) fn withdraw(&self) -> bool {
        let mut window = self.window();
        let granted = window.seconds.iter().sum::<i64>() + self.reserve >= i64::from(RETRY);
        if granted {
            *window.current() -= i64::from(RETRY);
        }
        granted
    }

    /// Whether it is as one made now.
    fn is_new(&self) -> bool {
        self.window().seconds == [0; SECONDS as usize]
    }

    /// The window as of now.
    fn window(&self) -> MutexGuard<'_, Window> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.began.elapsed().as_secs();
        let passed = now.saturating_sub(window.now);
        window.now = window.now.max(now);
        for _ in 0..passed.min(u64::from(SECONDS)) {
            window.seconds.rotate_right(1);
            window.seconds[0] = 0;
        }
        window
    }
}

impl Window {
    fn current(&mut self) -> &mut i64 {
        &mut self.seconds[0]
    }
}

/// How retries are earned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    /// For each call, from 0 to 1.
    pub(crate) fraction: f64,
    pub(crate) per_second: u32,
}

/// A budget for each service.
#[derive(Debug)]
pub(crate) struct Budgets {
    rate: Rate,
    services: Mutex<Services>,
}

#[derive(Debug)]
struct Services {
    budgets: HashMap<ServiceName, Arc<Budget>>,
    /// With so many, those are forgotten that nothing would be lost with: each time there are twice as many as were kept, so
    /// that it costs a new service the same however many there are.
    forget_at: usize,
}

/// Fewer are not worth forgetting any.
const MANY: usize = 1024;

impl Budgets {
    pub(crate) fn new(rate: Rate) -> Self {
        let services = Services { budgets: HashMap::new(), forget_at: MANY };
        Self { rate, services: Mutex::new(services) }
    }

    pub(crate) fn of(&self, service: &ServiceName) -> Arc<Budget> {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(budget) = services.budgets.get(service) {
            return budget.clone();
        }
        services.forget();
        let budget = Arc::new(Budget::new(service, self.rate));
        services.budgets.insert(service.clone(), budget.clone());
        budget
    }
}

impl Services {
    fn forget(&mut self) {
        if self.budgets.len() >= self.forget_at {
            self.budgets.retain(|_, budget| Arc::strong_count(budget) > 1 || !budget.is_new());
            self.forget_at = MANY.max(2 * self.budgets.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn budget(fraction: f64, per_second: u32) -> Budget {
        Budget::new(&ServiceName::new("hello").unwrap(), Rate { fraction, per_second })
    }

    fn granted(budget: &Budget) -> usize {
        (0..10_000).take_while(|_| budget.withdraw()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_fraction_is_what_it_says() {
        for (fraction, expected) in [(0.0, 0), (0.01, 10), (0.2, 200), (0.3, 300), (0.6, 600), (1.0, 1000)] {
            let budget = budget(fraction, 0);
            (0..1000).for_each(|_| budget.deposit());
            assert_eq!(granted(&budget), expected, "{fraction}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_earned_and_spent_counts_for_ten_seconds() {
        let budget = budget(0.5, 1);
        assert_eq!(granted(&budget), 10, "for 10 s");
        tokio::time::advance(Duration::from_secs(5)).await;
        (0..10).for_each(|_| budget.deposit());
        assert_eq!(granted(&budget), 5);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(granted(&budget), 10, "what was spent 10 s ago is there again");
        (0..10).for_each(|_| budget.deposit());
        tokio::time::advance(Duration::from_secs(1_000_000)).await;
        assert!(budget.is_new());
        assert_eq!(granted(&budget), 10, "what was earned is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn budgets_of_services_long_quiet_are_forgotten_each_time_there_are_twice_as_many() {
        let budgets = Budgets::new(Rate { fraction: 1.0, per_second: 0 });
        let name = |number: usize| ServiceName::new(format!("service-{number}")).unwrap();
        let call = |number| budgets.of(&name(number)).deposit();
        let known = || budgets.services.lock().unwrap().budgets.len();
        (0..=MANY).for_each(call);
        assert_eq!(known(), MANY + 1, "nobody is quiet yet");
        let held = budgets.of(&name(0));
        tokio::time::advance(Duration::from_secs(10)).await;
        // To look at all for each new service would be quadratic work.
        (MANY + 1..2 * MANY).for_each(call);
        assert_eq!(known(), 2 * MANY);
        call(2 * MANY);
        assert_eq!(known(), MANY + 1, "held, and those of late");
        assert!(Arc::ptr_eq(&held, &budgets.of(&name(0))));
        drop(held);
        tokio::time::advance(Duration::from_secs(10)).await;
        (3 * MANY..4 * MANY).for_each(call);
        assert!(known() <= 2 * MANY);
    }
}
