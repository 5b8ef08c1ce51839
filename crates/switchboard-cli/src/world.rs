//! What is known of all services, what happened of late, and whether the registry is heard: what live views show.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use switchboard::{Change, Instance, InstanceId, ServiceName};
use tokio::time::Instant;

use crate::failure::chain;
use crate::network::Event;

/// So many pieces of news are kept.
const KEPT: usize = 500;

/// Something that happened.
#[derive(Debug)]
pub(crate) enum News {
    Change(Change),
    /// From here on something is not heard.
    Outage(String),
    /// All is heard again, after so long.
    Recovery(Duration),
}

/// The instances of one service. Shared, so that a clone of the world costs no more than what then changes.
pub(crate) type Instances = Arc<BTreeMap<InstanceId, Arc<Instance>>>;

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) registry: String,
    pub(crate) services: BTreeMap<ServiceName, Instances>,
    /// The latest first.
    pub(crate) news: VecDeque<(Instant, Arc<News>)>,
    /// How much news there has been, with what is no longer kept.
    pub(crate) told: u64,
    /// What cannot be heard: since when, and why.
    troubles: BTreeMap<Option<ServiceName>, (Instant, String)>,
    /// Whether anything was heard yet.
    pub(crate) heard: bool,
    /// Why nothing of others can be heard, though nothing fails.
    pub(crate) alone: Option<&'static str>,
}

impl World {
    pub(crate) fn new(registry: String) -> Self {
        Self {
            registry,
            services: BTreeMap::new(),
            news: VecDeque::new(),
            told: 0,
            troubles: BTreeMap::new(),
            heard: false,
            alone: None,
        }
    }

    pub(crate) fn take(&mut self, event: Event) {
        match event {
            Event::Changed(change) => self.change(change),
            Event::Heard(of) => {
                self.heard = true;
                let longest = self.trouble().map(|(since, _)| since.elapsed());
                self.troubles.remove(&of);
                if let (Some(lasted), None) = (longest, self.trouble()) {
                    self.tell(News::Recovery(lasted));
                }
            }
            Event::Failed(of, error) => {
                let why = chain(&error);
                if self.troubles.is_empty() {
                    self.tell(News::Outage(why.clone()));
                }
                let since = self.troubles.get(&of).map_or_else(Instant::now, |(since, _)| *since);
                self.troubles.insert(of, (since, why));
            }
        }
    }

    fn change(&mut self, change: Change) {
        let service = change.instance().service();
        if let Some(current) = change.current() {
            let instances = self.services.entry(service.clone()).or_default();
            Arc::make_mut(instances).insert(current.id().clone(), current.clone());
        } else if let Some(instances) = self.services.get_mut(service) {
            Arc::make_mut(instances).remove(change.id());
            if instances.is_empty() {
                self.services.remove(service);
            }
        }
        self.tell(News::Change(change));
    }

    fn tell(&mut self, news: News) {
        self.told += 1;
        self.news.push_front((Instant::now(), Arc::new(news)));
        self.news.truncate(KEPT);
    }

    /// The longest trouble there is.
    pub(crate) fn trouble(&self) -> Option<&(Instant, String)> {
        self.troubles.values().min_by_key(|(since, _)| *since)
    }

    pub(crate) fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.services.values().flat_map(|instances| instances.values())
    }

    /// How many instances there are, and how many of them are healthy.
    pub(crate) fn count(&self) -> (usize, usize) {
        let healthy = self.instances().filter(|instance| instance.health().is_healthy());
        (self.instances().count(), healthy.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use switchboard::{Error, ErrorKind};

    fn instance(id: &str) -> Arc<Instance> {
        Arc::new(Instance::builder("a").id(id).address("h:1").build().unwrap())
    }

    #[test]
    fn changes_make_the_list_and_are_kept_within_bounds() {
        let mut world = World::new("memory:".into());
        for turn in 0..KEPT {
            let one = instance(&turn.to_string());
            world.take(Event::Changed(Change::Added(one.clone())));
            assert_eq!(world.count(), (1, 1));
            world.take(Event::Changed(Change::Removed(one)));
        }
        assert!(world.services.is_empty());
        assert_eq!((world.news.len(), world.told), (KEPT, 2 * KEPT as u64));
    }

    #[test]
    fn trouble_lasts_until_that_service_is_heard_again_and_both_are_told() {
        let mut world = World::new("memory:".into());
        let error = || Error::new(ErrorKind::Unavailable, "a", "b", "gone");
        world.take(Event::Failed(None, error()));
        world.take(Event::Failed(Some(ServiceName::new("a").unwrap()), error()));
        world.take(Event::Heard(None));
        assert!(world.trouble().is_some());
        world.take(Event::Heard(Some(ServiceName::new("a").unwrap())));
        assert!(world.trouble().is_none());
        world.take(Event::Heard(None));
        let told: Vec<&News> = world.news.iter().map(|(_, news)| &**news).collect();
        assert!(matches!(told[..], [News::Recovery(_), News::Outage(_)]), "{told:?}");
    }
}
