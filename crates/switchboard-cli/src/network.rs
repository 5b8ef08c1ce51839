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
    /// `None` when nobody asked for the names.
    names: Option<NamesStream>,
    /// As they were heard last.
    named: Option<BTreeSet<ServiceName>>,
    /// Whether every service there is is followed.
    all: bool,
    snapshots: SelectAll<BoxStream<'static, (ServiceName, Result<Snapshot>)>>,
    followed: BTreeMap<ServiceName, Followed>,
    ready: VecDeque<Event>,
}

struct Followed {
    known: Snapshot,
    heard: bool,
    /// Whether it has been heard, or an error in its place.
    answered: bool,
    watch: AbortHandle,
}

impl<'a> Network<'a> {
    /// Follows every service there is.
    pub(crate) fn all(registry: &'a dyn Registry) -> Self {
        let mut network = Self { all: true, ..Self::none(registry) };
        network.listen_to_names();
        network
    }

    /// Follows nothing, until it is told what.
    pub(crate) fn none(registry: &'a dyn Registry) -> Self {
        Self {
            registry,
            names: None,
            named: None,
            all: false,
            snapshots: SelectAll::new(),
            followed: BTreeMap::new(),
            ready: VecDeque::new(),
        }
    }

    /// Follows one service.
    pub(crate) fn one(registry: &'a dyn Registry, service: ServiceName) -> Self {
        let mut network = Self::none(registry);
        network.follow(service);
        network
    }

    /// Follows these and no others.
    pub(crate) fn follow_only(&mut self, services: &BTreeSet<ServiceName>) {
        self.followed.retain(|service, followed| {
            let wanted = services.contains(service);
            if !wanted {
                followed.watch.abort();
            }
            wanted
        });
        for service in services {
            if !self.followed.contains_key(service) {
                self.follow(service.clone());
            }
        }
    }

    /// Follows the names of the services too.
    pub(crate) fn listen_to_names(&mut self) {
        if self.names.is_none() {
            self.names = Some(self.registry.watch_services());
        }
    }

    /// The names of the services; `None` until they have been heard.
    pub(crate) fn names(&self) -> Option<&BTreeSet<ServiceName>> {
        self.named.as_ref()
    }

    /// What is known of the services that have been heard.
    pub(crate) fn heard(&self) -> impl Iterator<Item = &Snapshot> {
        self.followed.values().filter(|followed| followed.heard).map(|followed| &followed.known)
    }

    /// All that is followed, sorted by name; `None` until each has been heard once.
    pub(crate) fn state(&self) -> Option<Vec<Snapshot>> {
        if self.all && self.named.is_none() {
            return None;
        }
        self.followed.values().map(|followed| followed.heard.then(|| followed.known.clone())).collect()
    }

    /// Whether the names have been heard, and each service or an error in its place: what was told by then is no longer a
    /// part only.
    pub(crate) fn is_whole(&self) -> bool {
        let answered = self.followed.values().all(|followed| followed.answered);
        answered && self.ready.is_empty() && (!self.all || self.named.is_some())
    }

    fn follow(&mut self, service: ServiceName) {
        let name = service.clone();
        let (watch, handle) = abortable(self.registry.watch(&service));
        self.snapshots.push(watch.map(move |snapshot| (name.clone(), snapshot)).boxed());
        self.followed.insert(
            service.clone(),
            Followed { known: Snapshot::empty(service), heard: false, answered: false, watch: handle },
        );
    }

    fn take_names(&mut self, names: BTreeSet<ServiceName>) {
        if self.all {
            self.follow_all_of(&names);
        }
        self.named = Some(names);
        self.ready.push_back(Event::Heard(None));
    }

    fn follow_all_of(&mut self, names: &BTreeSet<ServiceName>) {
        let gone: Vec<ServiceName> =
            self.followed.keys().filter(|known| !names.contains(*known)).cloned().collect();
        for service in gone {
            if let Some(Followed { known, watch, .. }) = self.followed.remove(&service) {
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
    }

    fn take_snapshot(&mut self, service: ServiceName, news: Result<Snapshot>) {
        // What was under way when the service went is old.
        let Some(followed) = self.followed.get_mut(&service) else { return };
        followed.answered = true;
        match news {
            Ok(snapshot) => {
                self.ready.extend(snapshot.diff(&followed.known).into_iter().map(Event::Changed));
                followed.known = snapshot;
                followed.heard = true;
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
                Some(Poll::Ready(Some(Ok(names)))) => self.take_names(names),
                Some(Poll::Ready(Some(Err(error)))) => self.ready.push_back(Event::Failed(None, error)),
                Some(Poll::Ready(None)) => self.names = None,
                Some(Poll::Pending) | None => match self.snapshots.poll_next_unpin(context) {
                    Poll::Ready(Some((service, news))) => self.take_snapshot(service, news),
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
    async fn the_state_is_known_when_all_that_is_followed_has_been_heard() {
        let registry = MemoryRegistry::new();
        registry.register(&instance("a", "1", 1), &RegisterOptions::new()).await.unwrap();
        let [a, b] = ["a", "b"].map(|name| ServiceName::new(name).unwrap());
        let mut network = Network::none(&registry);
        assert_eq!(network.state(), Some(vec![]));
        network.follow_only(&[a.clone(), b.clone()].into());
        assert_eq!(network.state(), None);
        while network.state().is_none() {
            next(&mut network).await;
        }
        assert_eq!(network.heard().map(Snapshot::len).collect::<Vec<_>>(), [1, 0]);
        network.follow_only(&[b].into());
        assert_eq!(network.heard().count(), 1);
        assert_eq!(network.names(), None);
        network.listen_to_names();
        assert!(matches!(next(&mut network).await, Event::Heard(None)));
        assert_eq!(network.names(), Some(&[a].into()));
        let all = Network::all(&registry);
        assert_eq!(all.state(), None, "the names have not been heard");
    }

    #[tokio::test]
    async fn it_is_whole_when_each_service_has_been_heard() {
        let registry = MemoryRegistry::new();
        let options = RegisterOptions::new();
        registry.register(&instance("a", "1", 1), &options).await.unwrap();
        registry.register(&instance("b", "1", 1), &options).await.unwrap();
        let mut network = Network::all(&registry);
        assert!(!network.is_whole());
        assert_eq!(change(&mut network).await, "+a/1");
        assert!(!network.is_whole(), "b is missing");
        assert_eq!(change(&mut network).await, "+b/1");
        assert!(matches!(next(&mut network).await, Event::Heard(Some(_))));
        assert!(network.is_whole());
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
