//! What is on the screen.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use switchboard::{Change, Instance, InstanceId, ServiceName};
use tokio::time::Instant;

use crate::failure::chain;
use crate::network::Event;

/// So many changes are kept.
const KEPT: usize = 500;

#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) registry: String,
    pub(crate) services: BTreeMap<ServiceName, BTreeMap<InstanceId, Arc<Instance>>>,
    /// The latest first.
    pub(crate) changes: VecDeque<(Instant, Change)>,
    /// What cannot be heard: since when, and why.
    troubles: BTreeMap<Option<ServiceName>, (Instant, String)>,
    /// Whether anything was heard yet.
    pub(crate) heard: bool,
    /// How many lines of the list are above the screen.
    pub(crate) offset: usize,
}

impl Model {
    pub(crate) fn new(registry: String) -> Self {
        Self {
            registry,
            services: BTreeMap::new(),
            changes: VecDeque::new(),
            troubles: BTreeMap::new(),
            heard: false,
            offset: 0,
        }
    }

    pub(crate) fn take(&mut self, event: Event) {
        match event {
            Event::Changed(change) => self.change(change),
            Event::Heard(of) => {
                self.heard = true;
                self.troubles.remove(&of);
            }
            Event::Failed(of, error) => {
                let since = self.troubles.get(&of).map_or_else(Instant::now, |(since, _)| *since);
                self.troubles.insert(of, (since, chain(&error)));
            }
        }
    }

    fn change(&mut self, change: Change) {
        let service = change.instance().service();
        if let Some(current) = change.current() {
            let instances = self.services.entry(service.clone()).or_default();
            instances.insert(current.id().clone(), current.clone());
        } else if let Some(instances) = self.services.get_mut(service) {
            instances.remove(change.id());
            if instances.is_empty() {
                self.services.remove(service);
            }
        }
        self.changes.push_front((Instant::now(), change));
        self.changes.truncate(KEPT);
    }

    /// The longest trouble there is.
    pub(crate) fn trouble(&self) -> Option<&(Instant, String)> {
        self.troubles.values().min_by_key(|(since, _)| *since)
    }

    /// How many instances there are, and how many of them are healthy.
    pub(crate) fn count(&self) -> (usize, usize) {
        let all = || self.services.values().flat_map(BTreeMap::values);
        (all().count(), all().filter(|instance| instance.health().is_healthy()).count())
    }

    /// Moves the list; the screen keeps it within what there is.
    pub(crate) fn scroll(&mut self, lines: isize) {
        self.offset = self.offset.saturating_add_signed(lines);
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
        let mut model = Model::new("memory:".into());
        for turn in 0..KEPT {
            let one = instance(&turn.to_string());
            model.take(Event::Changed(Change::Added(one.clone())));
            assert_eq!(model.count(), (1, 1));
            model.take(Event::Changed(Change::Removed(one)));
        }
        assert!(model.services.is_empty());
        assert_eq!(model.changes.len(), KEPT);
    }

    #[test]
    fn trouble_lasts_until_that_service_is_heard_again() {
        let mut model = Model::new("memory:".into());
        let error = || Error::new(ErrorKind::Unavailable, "a", "b", "gone");
        model.take(Event::Failed(None, error()));
        model.take(Event::Failed(Some(ServiceName::new("a").unwrap()), error()));
        model.take(Event::Heard(None));
        assert!(model.trouble().is_some());
        model.take(Event::Heard(Some(ServiceName::new("a").unwrap())));
        assert!(model.trouble().is_none());
    }
}
