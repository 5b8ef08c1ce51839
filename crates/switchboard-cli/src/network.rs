//! Everything a registry knows, as it changes: the services, and the instances of each.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::stream::{AbortHandle, BoxStream, SelectAll, abortable};
use futures::{Stream, StreamExt};
use switchboard::{Change, Error, ErrorKind, NamesStream, Registry, Result, ServiceName, Snapshot};

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    Changed(Change),
    /// A service, or the list of services for `None`, has been heard; there may be no change in it.
    Heard(Option<ServiceName>),
    /// A service, or the list of services for `None`, cannot be heard at present; what is known stands.
    Failed(Option<ServiceName>, Error),
}

/// Whether waiting may cure an error: what was asked for can be had, though not at present.
pub(crate) fn may_pass(error: &Error) -> bool {
    !matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unsupported | ErrorKind::Closed)
}

/// A stream of all changes, everything known first as added. It never ends by itself.
pub(crate) struct Network<'a> {
    registry: &'a dyn Registry,
    /// `None` when only one service is followed.
    names: Option<NamesStream>,
    snapshots: SelectAll<BoxStream<'static, (ServiceName, Result<Snapshot>)>>,
    followed: BTreeMap<ServiceName, Followed>,
    ready: VecDeque<Event>,
}

struct Followed {
    known: Snapshot,
    watch: AbortHandle,
}

impl<'a> Network<'a> {
    /// Follows every service there is.
    pub(crate) fn all(registry: &'a dyn Registry) -> Self {
        Self {
            registry,
            names: Some(registry.watch_services()),
            snapshots: SelectAll::new(),
            followed: BTreeMap::new(),
            ready: VecDeque::new(),
        }
    }

    /// Follows one service.
    pub(crate) fn one(registry: &'a dyn Registry, service: ServiceName) -> Self {
        let mut network = Self { names: None, ..Self::all(registry) };
        network.follow(service);
        network
    }

    fn follow(&mut self, service: ServiceName) {
        let name = service.clone();
        let (watch, handle) = abortable(self.registry.watch(&service));
        self.snapshots.push(watch.map(move |snapshot| (name.clone(), snapshot)).boxed());
        self.followed.insert(service.clone(), Followed { known: Snapshot::empty(service), watch: handle });
    }

    fn named(&mut self, names: &BTreeSet<ServiceName>) {
        let gone: Vec<ServiceName> =
            self.followed.keys().filter(|known| !names.contains(*known)).cloned().collect();
        for service in gone {
            if let Some(Followed { known, watch }) = self.followed.remove(&service) {
                watch.abort();
                let empty = Snapshot::empty(service.clone());
                self.ready.extend(empty.diff(&known).into_iter().map(Event::Changed));
                // That it is gone has been heard; its own watch says nothing any more.
                self.ready.push_back(Event::Heard(Some(service)));
            }
        }
        for service in names {
            if !self.followed.contains_key(service) {
                self.follow(service.clone());
            }
        }
        self.ready.push_back(Event::Heard(None));
    }

    fn heard(&mut self, service: ServiceName, news: Result<Snapshot>) {
        // What was under way when the service went is old.
        let Some(followed) = self.followed.get_mut(&service) else { return };
        match news {
            Ok(snapshot) => {
                self.ready.extend(snapshot.diff(&followed.known).into_iter().map(Event::Changed));
                followed.known = snapshot;
                self.ready.push_back(Event::Heard(Some(service)));
            }
            Err(error) => self.ready.push_back(Event::Failed(Some(service), error)),
        }
    }
}

impl Stream for Network<'_> {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(Some(event));
            }
            let names = self.names.as_mut().map(|names| names.poll_next_unpin(context));
            match names {
                Some(Poll::Ready(Some(Ok(names)))) => self.named(&names),
                Some(Poll::Ready(Some(Err(error)))) => self.ready.push_back(Event::Failed(None, error)),
                Some(Poll::Ready(None)) => self.names = None,
                Some(Poll::Pending) | None => match self.snapshots.poll_next_unpin(context) {
                    Poll::Ready(Some((service, news))) => self.heard(service, news),
                    // An empty set of watches is no end: a service may come.
                    Poll::Ready(None) | Poll::Pending => return Poll::Pending,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use switchboard::{Instance, MemoryRegistry, RegisterOptions};

    fn instance(service: &str, id: &str, port: u16) -> Instance {
        Instance::builder(service).id(id).address(format!("h:{port}")).build().unwrap()
    }

    async fn next(network: &mut Network<'_>) -> Event {
        let next = tokio::time::timeout(std::time::Duration::from_secs(10), network.next());
        next.await.expect("an event").unwrap()
    }

    async fn change(network: &mut Network<'_>) -> String {
        loop {
            match next(network).await {
                Event::Changed(Change::Added(instance)) => return format!("+{}", instance.key()),
                Event::Changed(Change::Updated { new, .. }) => return format!("~{}", new.key()),
                Event::Changed(Change::Removed(instance)) => return format!("-{}", instance.key()),
                Event::Heard(_) => {}
                Event::Failed(_, error) => panic!("{error}"),
            }
        }
    }

    #[tokio::test]
    async fn services_and_instances_come_change_and_go() {
        let registry = MemoryRegistry::new();
        let options = RegisterOptions::new();
        registry.register(&instance("a", "1", 1), &options).await.unwrap();
        let mut network = Network::all(&registry);
        assert_eq!(change(&mut network).await, "+a/1");
        registry.register(&instance("b", "1", 1), &options).await.unwrap();
        assert_eq!(change(&mut network).await, "+b/1");
        registry.register(&instance("b", "1", 2), &options).await.unwrap();
        assert_eq!(change(&mut network).await, "~b/1");
        registry.deregister(&instance("b", "1", 2).key()).await.unwrap();
        assert_eq!(change(&mut network).await, "-b/1");
        registry.register(&instance("b", "2", 2), &options).await.unwrap();
        assert_eq!(change(&mut network).await, "+b/2");
        assert_eq!(network.followed.len(), 2);
    }

    #[tokio::test]
    async fn one_service_is_followed_before_it_exists() {
        let registry = MemoryRegistry::new();
        let mut network = Network::one(&registry, ServiceName::new("a").unwrap());
        assert!(matches!(next(&mut network).await, Event::Heard(Some(_))));
        registry.register(&instance("a", "1", 1), &RegisterOptions::new()).await.unwrap();
        assert_eq!(change(&mut network).await, "+a/1");
    }
}
