//! The services that there are. Nobody's mere asking makes a watch, a series of metrics, or anything else that stays.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use switchboard::selector::{Balancer, Selector};
use switchboard::{Error, ErrorKind, Registry, ServiceName};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::measures::Measures;
use super::problem::Problem;

/// So many lookups of names that may be nobody's go on at a time.
const LOOKUPS: usize = 16;

/// A name that nobody has is not looked up again for so long.
const UNKNOWN: Duration = Duration::from_secs(1);

/// More such names are not remembered.
const MANY: usize = 1024;

pub(crate) struct Known {
    registry: Arc<dyn Registry>,
    selector: Selector,
    limit: Duration,
    services: RwLock<HashMap<ServiceName, Arc<Service>>>,
    unknown: Mutex<HashMap<ServiceName, Instant>>,
    lookups: Semaphore,
}

/// A service that has, or has had, instances.
pub(crate) struct Service {
    /// Held, so that what is known and learned of it stays.
    _balancer: Balancer,
    pub(crate) measures: Measures,
}

impl Known {
    /// The registry may take `limit` to answer.
    pub(crate) fn new(registry: Arc<dyn Registry>, selector: Selector, limit: Duration) -> Self {
        let lookups = Semaphore::new(LOOKUPS);
        let (services, unknown) = Default::default();
        Self { registry, selector, limit, services, unknown, lookups }
    }

    /// The service of this name, looked up the first time.
    pub(crate) async fn service(&self, name: &ServiceName) -> Result<Arc<Service>, Problem> {
        if let Some(service) = self.get(name) {
            return Ok(service);
        }
        let found = timeout(self.limit, self.find(name)).await.unwrap_or_else(|_| {
            let limit = humantime::format_duration(self.limit);
            Err(Error::new(
                ErrorKind::Unavailable,
                "switchboard",
                "lookup",
                format!("the registry did not answer within {limit}"),
            ))
        });
        match found {
            Ok(Some(service)) => Ok(service),
            Ok(None) => Err(Problem::unknown(name)),
            Err(error) => Err(Problem::not_heard(name, &error)),
        }
    }

    /// The registry has no instance of it any more.
    pub(crate) fn forget(&self, name: &ServiceName) {
        self.services.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    fn get(&self, name: &ServiceName) -> Option<Arc<Service>> {
        self.services.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    async fn find(&self, name: &ServiceName) -> Result<Option<Arc<Service>>, Error> {
        let _turn = self.lookups.acquire().await;
        // Others may have asked meanwhile.
        if let Some(service) = self.get(name) {
            return Ok(Some(service));
        }
        if self.unknown().get(name).is_some_and(|since| since.elapsed() < UNKNOWN) {
            return Ok(None);
        }
        if self.registry.lookup(name).await?.is_empty() {
            let mut unknown = self.unknown();
            if unknown.len() >= MANY {
                unknown.retain(|_, since| since.elapsed() < UNKNOWN);
            }
            if unknown.len() < MANY {
                unknown.insert(name.clone(), Instant::now());
            }
            return Ok(None);
        }
        let balancer = self.selector.service(name)?;
        let mut view = balancer.view().clone();
        // On mDNS a lookup listens longer than a view does before it calls a service absent.
        while view.ready().await?.is_empty() {
            view.changed().await;
        }
        balancer.ready().await?;
        let service = Arc::new(Service { _balancer: balancer, measures: Measures::new(name) });
        self.services.write().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), service.clone());
        Ok(Some(service))
    }

    fn unknown(&self) -> MutexGuard<'_, HashMap<ServiceName, Instant>> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use switchboard::watcher::Directory;
    use switchboard::{Instance, MemoryRegistry, RegisterOptions};

    use super::*;

    fn known(registry: &Arc<MemoryRegistry>) -> Known {
        let registry: Arc<dyn Registry> = registry.clone();
        let selector = Selector::new(Directory::new(registry.clone()));
        Known::new(registry, selector, Duration::from_secs(10))
    }

    fn name(text: &str) -> ServiceName {
        ServiceName::new(text).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_looked_up_until_it_is_somebodys() {
        let registry = Arc::new(MemoryRegistry::new());
        let known = known(&registry);
        let status = |problem: Option<Problem>| problem.map(|problem| problem.status().as_u16());
        assert_eq!(status(known.service(&name("web")).await.err()), Some(404));
        let web = Instance::builder("web").address("127.0.0.1:1").build().unwrap();
        registry.register(&web, &RegisterOptions::new()).await.unwrap();
        assert_eq!(status(known.service(&name("web")).await.err()), Some(404), "not asked again at once");
        tokio::time::advance(UNKNOWN).await;
        assert!(known.service(&name("web")).await.is_ok());

        registry.fail(Error::new(ErrorKind::Unavailable, "memory", "lookup", "it restarts"));
        assert!(known.service(&name("web")).await.is_ok(), "what is known stays");
        let problem = known.service(&name("db")).await.err();
        assert_eq!(status(problem), Some(503));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_nobodys_is_not_kept() {
        let registry = Arc::new(MemoryRegistry::new());
        let known = known(&registry);
        for number in 0..2 * MANY {
            assert!(known.service(&name(&format!("n{number}"))).await.is_err());
        }
        assert_eq!(known.unknown().len(), MANY);
        assert_eq!(known.selector.directory().watched(), 0);
    }
}
