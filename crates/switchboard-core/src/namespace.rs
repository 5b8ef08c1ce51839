use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{StreamExt, once};

use crate::{
    Error, Instance, InstanceKey, IntoRegistry, Invalid, NamesStream, RegisterOptions, Registry, Result,
    ServiceName, Snapshot, SnapshotStream,
};

/// What stands between a namespace and a service's name.
const SEPARATOR: &str = "--";

/// As long as a label of DNS.
const MAX_BYTES: usize = 63;

/// A part of a registry that those in other parts do not see: `orders` in the namespace `alice` is not `orders` in `bob`, nor
/// `orders` outside of any.
///
/// In the registry beneath, and for every other tool that reads it, the service is called `alice--orders`, which is valid
/// wherever a name of letters, digits and hyphens is, DNS too. What is in no namespace sees it under that name. A
/// namespace is no protection: who may write to the registry may write there.
///
/// The URL parameter `namespace` of every scheme, and the environment variable `SWITCHBOARD_NAMESPACE`, make one of these.
///
/// ```
/// use std::sync::Arc;
/// use switchboard_core::{Instance, MemoryRegistry, Namespace, RegisterOptions, Registry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), switchboard_core::Error> {
/// let shared = Arc::new(MemoryRegistry::new());
/// let (alice, bob) = (Namespace::new(&shared, "alice")?, Namespace::new(&shared, "bob")?);
///
/// let orders = Instance::builder("orders").address("10.0.0.1:80").build()?;
/// alice.register(&orders, &RegisterOptions::new()).await?;
/// assert_eq!(alice.lookup(orders.service()).await?.len(), 1);
/// assert_eq!(bob.lookup(orders.service()).await?.len(), 0);
/// assert_eq!(shared.lookup(&"alice--orders".parse()?).await?.len(), 1);
/// # Ok(())
/// # }
/// ```
pub struct Namespace {
    inner: Arc<dyn Registry>,
    name: Arc<str>,
}

impl Namespace {
    /// The namespace `name` of `registry`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a name that is not 1 to 63 letters, digits, and single hyphens
    /// between them.
    pub fn new(registry: impl IntoRegistry, name: &str) -> Result<Self> {
        Self::check(name).map_err(|invalid| Error::invalid("", "connect", &invalid))?;
        Ok(Self { inner: registry.into_registry(), name: name.into() })
    }

    /// Whether `name` may be one.
    ///
    /// # Errors
    ///
    /// [`Invalid`], as for [`new`](Self::new).
    pub fn check(name: &str) -> Result<(), Invalid> {
        let refuse = |why| Err(Invalid::quoting("namespace", name, why));
        if name.is_empty() {
            refuse("is empty")
        } else if name.len() > MAX_BYTES {
            refuse("is longer than 63 bytes")
        } else if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            refuse("has something other than letters, digits and hyphens")
        } else if name.starts_with('-') || name.ends_with('-') || name.contains(SEPARATOR) {
            refuse("has a hyphen at an end or two in a row")
        } else {
            Ok(())
        }
    }

    /// The namespace and the service that a name in a registry stands for, where it stands for any.
    ///
    /// ```
    /// use switchboard_core::Namespace;
    ///
    /// assert_eq!(Namespace::split("alice--orders"), Some(("alice", "orders")));
    /// assert_eq!(Namespace::split("orders"), None);
    /// ```
    pub fn split(name: &str) -> Option<(&str, &str)> {
        let (namespace, service) = name.split_once(SEPARATOR)?;
        (Self::check(namespace).is_ok() && !service.is_empty()).then_some((namespace, service))
    }

    /// What `service` of `namespace` is called in the registry beneath.
    ///
    /// ```
    /// use switchboard_core::Namespace;
    ///
    /// # fn main() -> Result<(), switchboard_core::Invalid> {
    /// assert_eq!(Namespace::join("alice", &"orders".parse()?)?.as_str(), "alice--orders");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Invalid`] for a type of DNS-SD, which has no namespace, and for what is longer than a name may be.
    pub fn join(namespace: &str, service: &ServiceName) -> Result<ServiceName, Invalid> {
        if service.as_str().starts_with('_') {
            let why =
                "is a DNS-SD type, which is shared by all of the link; leave out the namespace to use it";
            return Err(Invalid::quoting("service name", service.as_str(), why));
        }
        ServiceName::new(format!("{namespace}{SEPARATOR}{service}"))
    }

    fn outer(&self, operation: &'static str, service: &ServiceName) -> Result<ServiceName> {
        Self::join(&self.name, service).map_err(|invalid| Error::invalid("", operation, &invalid))
    }

    fn outer_key(&self, operation: &'static str, key: &InstanceKey) -> Result<InstanceKey> {
        Ok(InstanceKey::new(self.outer(operation, key.service())?, key.id().clone()))
    }
}

/// The names in this namespace, as they are called there.
fn inner_names(namespace: &str, names: &BTreeSet<ServiceName>) -> BTreeSet<ServiceName> {
    let inner = |name: &ServiceName| {
        let inner = name.as_str().strip_prefix(namespace)?.strip_prefix(SEPARATOR)?;
        // In the registry there may be what no program of this namespace can have called its own.
        ServiceName::new(inner).ok().filter(|inner| !inner.as_str().starts_with('_'))
    };
    names.iter().filter_map(inner).collect()
}

#[async_trait]
impl Registry for Namespace {
    async fn register(&self, instance: &Instance, options: &RegisterOptions) -> Result<()> {
        let service = self.outer("register", instance.service())?;
        self.inner.register(&instance.clone().with_service(service), options).await
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<()> {
        self.inner.deregister(&self.outer_key("deregister", key)?).await
    }

    async fn lookup(&self, service: &ServiceName) -> Result<Snapshot> {
        let found = self.inner.lookup(&self.outer("lookup", service)?).await?;
        Ok(found.with_service(service))
    }

    async fn services(&self) -> Result<BTreeSet<ServiceName>> {
        Ok(inner_names(&self.name, &self.inner.services().await?))
    }

    async fn snapshots(&self) -> Result<Vec<Snapshot>> {
        let all = self.inner.snapshots().await?;
        let inner = |found: Snapshot| {
            let names = inner_names(&self.name, &BTreeSet::from([found.service().clone()]));
            names.first().map(|name| found.with_service(name))
        };
        Ok(all.into_iter().filter_map(inner).collect())
    }

    fn watch(&self, service: &ServiceName) -> SnapshotStream {
        let service = service.clone();
        match self.outer("watch", &service) {
            Ok(outer) => {
                let inner = move |said: Result<Snapshot>| said.map(|found| found.with_service(&service));
                self.inner.watch(&outer).map(inner).boxed()
            }
            Err(error) => once(async { Err(error) }).boxed(),
        }
    }

    fn watch_services(&self) -> NamesStream {
        let namespace = self.name.clone();
        // What changes in other namespaces is no news here.
        let mut last = None;
        let news = move |said: Result<BTreeSet<ServiceName>>| {
            let said = said.map(|names| inner_names(&namespace, &names));
            let is_news = match (&last, &said) {
                (Some(last), Ok(names)) => last != names,
                _ => true,
            };
            last = said.as_ref().ok().cloned();
            std::future::ready(is_news.then_some(said))
        };
        self.inner.watch_services().filter_map(news).boxed()
    }

    async fn suspect(&self, key: &InstanceKey) {
        if let Ok(key) = self.outer_key("suspect", key) {
            self.inner.suspect(&key).await;
        }
    }

    async fn set_maintenance(&self, key: &InstanceKey, reason: Option<&str>) -> Result<()> {
        self.inner.set_maintenance(&self.outer_key("set_maintenance", key)?, reason).await
    }

    async fn local_ip(&self) -> Option<IpAddr> {
        self.inner.local_ip().await
    }

    fn parts(&self) -> Vec<Arc<dyn Registry>> {
        let part = |inner| Arc::new(Self { inner, name: self.name.clone() }) as _;
        self.inner.parts().into_iter().map(part).collect()
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.inner.to_string();
        let separator = if inner.contains('?') { '&' } else { '?' };
        write!(f, "{inner}{separator}namespace={}", self.name)
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Namespace").field("name", &self.name).field("registry", &self.inner).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ErrorKind, MemoryRegistry};

    fn instance(service: &str) -> Instance {
        Instance::builder(service).id("1").address("h:1").build().unwrap()
    }

    fn name(text: &str) -> ServiceName {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn those_of_other_namespaces_do_not_see_each_other() {
        let shared = Arc::new(MemoryRegistry::new());
        let of = |name| Namespace::new(&shared, name).unwrap();
        let (alice, bob, al) = (of("alice"), of("bob"), of("al"));
        alice.register(&instance("orders"), &RegisterOptions::new()).await.unwrap();
        shared.register(&instance("orders"), &RegisterOptions::new()).await.unwrap();

        assert_eq!(alice.lookup(&name("orders")).await.unwrap().all()[0].service().as_str(), "orders");
        assert_eq!(alice.services().await.unwrap(), [name("orders")].into());
        assert_eq!(alice.snapshots().await.unwrap().len(), 1);
        for other in [&bob, &al] {
            assert!(other.lookup(&name("orders")).await.unwrap().is_empty());
            assert!(other.services().await.unwrap().is_empty());
            assert!(other.snapshots().await.unwrap().is_empty());
        }
        assert_eq!(shared.services().await.unwrap(), [name("alice--orders"), name("orders")].into());
        bob.deregister(&instance("orders").key()).await.unwrap();
        assert_eq!(alice.lookup(&name("orders")).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn what_changes_in_another_namespace_is_no_news() {
        let shared = Arc::new(MemoryRegistry::new());
        let of = |name| Namespace::new(&shared, name).unwrap();
        let (alice, bob) = (of("alice"), of("bob"));
        let mut names = alice.watch_services();
        assert!(names.next().await.unwrap().unwrap().is_empty());
        bob.register(&instance("bills"), &RegisterOptions::new()).await.unwrap();
        assert!(futures::poll!(names.next()).is_pending());
        alice.register(&instance("orders"), &RegisterOptions::new()).await.unwrap();
        assert_eq!(names.next().await.unwrap().unwrap(), [name("orders")].into());
    }

    #[tokio::test]
    async fn names_are_refused_with_the_reason() {
        let of =
            |name: &str| Namespace::new(MemoryRegistry::new(), name).map(|namespace| namespace.to_string());
        assert_eq!(of("a1-B").unwrap(), "memory:?namespace=a1-B");
        for (name, why) in [
            ("", "namespace \"\": is empty"),
            ("a b", "namespace \"a b\": has something other than letters, digits and hyphens"),
            ("a--b", "namespace \"a--b\": has a hyphen at an end or two in a row"),
            ("-a", "namespace \"-a\": has a hyphen at an end or two in a row"),
        ] {
            assert_eq!(of(name).unwrap_err().message(), why);
        }
        assert!(of(&"a".repeat(64)).unwrap_err().message().ends_with("is longer than 63 bytes"));

        let alice = Namespace::new(MemoryRegistry::new(), "alice").unwrap();
        for (service, why) in [
            ("_http._tcp".to_owned(), "is a DNS-SD type"),
            ("s".repeat(249), "is 256 bytes long, the limit is 255"),
        ] {
            let error = alice.lookup(&name(&service)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.message().contains(why), "{error}");
            assert!(alice.watch(&name(&service)).next().await.unwrap().is_err());
        }
        assert!(alice.lookup(&name(&"s".repeat(248))).await.is_ok());
    }
}
