//! Waiting for enough instances, as programs do at their start and tests before each step.

use std::fmt::Write;
use std::time::Duration;

use switchboard_core::{Error, ErrorKind, Result};
use tokio::select;
use tokio::time::{Instant, sleep_until, timeout};

use crate::Balancer;

impl Balancer {
    /// Waits until at least so many instances are [in use](crate::Standing::is_in_use): known, healthy, let pass by the
    /// filters, and not ejected.
    ///
    /// ```
    /// # use switchboard_core::{Instance, MemoryRegistry, RegisterOptions, Registry};
    /// # use switchboard_selector::Selector;
    /// # use switchboard_watcher::Directory;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), switchboard_core::Error> {
    /// # let registry = MemoryRegistry::new();
    /// # let instance = Instance::builder("greeter").address("127.0.0.1:8080").build()?;
    /// # registry.register(&instance, &RegisterOptions::new()).await?;
    /// # let selector = Selector::new(Directory::new(registry));
    /// let greeter = selector.service("greeter")?;
    /// greeter.wait_for(1, std::time::Duration::from_secs(10)).await?;
    /// assert!(greeter.pick().is_ok());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when there are fewer after `limit`, which says how each instance stands and, if the
    /// registry is not heard, why. [`ErrorKind::Closed`] once the balancer's view is closed.
    pub async fn wait_for(&self, instances: usize, limit: Duration) -> Result<()> {
        timeout(limit, self.enough(instances)).await.unwrap_or_else(|_| Err(self.too_few(instances, limit)))
    }

    async fn enough(&self, instances: usize) -> Result<()> {
        let mut view = self.view().clone();
        loop {
            // What is due by the clock, such as the end of an ejection, changes no view.
            let due = self.group.refresh();
            if self.in_use() >= instances {
                return Ok(());
            }
            if view.is_closed() {
                return Err(Error::closed("selector", "wait_for"));
            }
            select! {
                () = view.changed() => {}
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
    }

    fn in_use(&self) -> usize {
        self.report().iter().filter(|report| report.standing.is_in_use()).count()
    }

    fn too_few(&self, wanted: usize, limit: Duration) -> Error {
        let mut message = format!(
            "{} of {wanted} instances of service {:?} are in use after {limit:?}",
            self.in_use(),
            self.service()
        );
        for report in self.report().iter().filter(|report| !report.standing.is_in_use()) {
            // Writing to a string does not fail.
            let _ = write!(message, "; {} is {}", report.instance.id(), report.standing);
        }
        let status = self.view().status();
        if !status.is_fresh() {
            let _ = write!(message, "; the registry: {status}");
        }
        message += "; `switchboard doctor` tells what the registry has";
        let error = Error::new(ErrorKind::Unavailable, "selector", "wait_for", message);
        match status.error() {
            Some(cause) => error.with_source(cause.clone()),
            None => error,
        }
    }
}
