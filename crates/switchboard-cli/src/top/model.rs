//! What is on the screen.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use switchboard::{Change, Health, Instance, InstanceId, InstanceKey, ServiceName};
use tokio::time::Instant;

use crate::failure::chain;
use crate::network::Event;
use crate::output::list;

/// So many changes are kept.
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

#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) registry: String,
    pub(crate) services: BTreeMap<ServiceName, BTreeMap<InstanceId, Arc<Instance>>>,
    /// The latest first.
    pub(crate) news: VecDeque<(Instant, News)>,
    /// What cannot be heard: since when, and why.
    troubles: BTreeMap<Option<ServiceName>, (Instant, String)>,
    /// Whether anything was heard yet.
    pub(crate) heard: bool,
    /// Why nothing of others can be heard, though nothing fails.
    pub(crate) alone: Option<&'static str>,
    /// Only what has this in it is listed.
    pub(crate) filter: String,
    /// Whether keys are letters of the filter.
    pub(crate) filtering: bool,
    /// Whether all of the selected instance is shown.
    pub(crate) details: bool,
    /// The instance that the cursor is on, and where that was in the list, for when it has gone.
    selected: (Option<InstanceKey>, usize),
    /// How many lines of the list are above the screen.
    pub(crate) offset: usize,
}

impl Model {
    pub(crate) fn new(registry: String) -> Self {
        Self {
            registry,
            services: BTreeMap::new(),
            news: VecDeque::new(),
            troubles: BTreeMap::new(),
            heard: false,
            alone: None,
            filter: String::new(),
            filtering: false,
            details: false,
            selected: (None, 0),
            offset: 0,
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
            instances.insert(current.id().clone(), current.clone());
        } else if let Some(instances) = self.services.get_mut(service) {
            instances.remove(change.id());
            if instances.is_empty() {
                self.services.remove(service);
            }
        }
        self.tell(News::Change(change));
    }

    fn tell(&mut self, news: News) {
        self.news.push_front((Instant::now(), news));
        self.news.truncate(KEPT);
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

    /// The instances to list: problems first, the worst of them at the top, else by service and id.
    pub(crate) fn rows(&self) -> Vec<Arc<Instance>> {
        let all = self.services.values().flat_map(BTreeMap::values);
        let wanted = self.filter.to_lowercase();
        let mut rows: Vec<_> = all.filter(|instance| has(instance, &wanted)).cloned().collect();
        // The sort is stable.
        rows.sort_by_key(|instance| match instance.health() {
            Health::Passing => 2,
            Health::Warning => 1,
            _ => 0,
        });
        rows
    }

    /// Where the cursor is in `rows`.
    pub(crate) fn cursor(&self, rows: &[Arc<Instance>]) -> usize {
        let (key, index) = &self.selected;
        let found = rows.iter().position(|row| key.as_ref().is_some_and(|key| is(row, key)));
        found.unwrap_or((*index).min(rows.len().saturating_sub(1)))
    }

    /// Moves the cursor; it stays on its instance when others come and go, and at the top until it is moved.
    pub(crate) fn move_by(&mut self, lines: isize) {
        let rows = self.rows();
        let to = self.cursor(&rows).saturating_add_signed(lines).min(rows.len().saturating_sub(1));
        self.selected = (rows.get(to).filter(|_| to > 0).map(|row| row.key()), to);
    }

    /// Shows all of the instance that the cursor is on, if there is one.
    pub(crate) fn open(&mut self) {
        let rows = self.rows();
        let at = self.cursor(&rows);
        if let Some(row) = rows.get(at) {
            self.selected = (Some(row.key()), at);
            self.details = true;
        }
    }

    /// The instance that the cursor was put on, while it is there.
    pub(crate) fn opened(&self) -> Option<&Arc<Instance>> {
        let key = self.selected.0.as_ref()?;
        self.services.get(key.service())?.get(key.id())
    }

    pub(crate) fn opened_key(&self) -> Option<&InstanceKey> {
        self.selected.0.as_ref()
    }
}

fn is(instance: &Instance, key: &InstanceKey) -> bool {
    instance.id() == key.id() && instance.service() == key.service()
}

/// Whether anything that is listed of an instance has `wanted` in it, which is in lower case.
fn has(instance: &Instance, wanted: &str) -> bool {
    let within = |text: &str| text.to_lowercase().contains(wanted);
    wanted.is_empty()
        || within(instance.service().as_str())
        || within(instance.id().as_str())
        || within(&instance.health().to_string())
        || within(&list(instance.addresses()))
        || instance.version().is_some_and(within)
        || instance.tags().iter().any(|tag| within(tag))
        || instance.metadata().iter().any(|(key, value)| within(&format!("{key}={value}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use switchboard::{Error, ErrorKind};

    fn instance(id: &str) -> Arc<Instance> {
        Arc::new(Instance::builder("a").id(id).address("h:1").build().unwrap())
    }

    fn add(model: &mut Model, id: &str, health: Health) {
        let built = Instance::builder("a").id(id).address("h:1").health(health).build().unwrap();
        model.take(Event::Changed(Change::Added(Arc::new(built))));
    }

    fn ids(model: &Model) -> Vec<String> {
        model.rows().iter().map(|row| row.id().to_string()).collect()
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
        assert_eq!(model.news.len(), KEPT);
    }

    #[test]
    fn trouble_lasts_until_that_service_is_heard_again_and_both_are_told() {
        let mut model = Model::new("memory:".into());
        let error = || Error::new(ErrorKind::Unavailable, "a", "b", "gone");
        model.take(Event::Failed(None, error()));
        model.take(Event::Failed(Some(ServiceName::new("a").unwrap()), error()));
        model.take(Event::Heard(None));
        assert!(model.trouble().is_some());
        model.take(Event::Heard(Some(ServiceName::new("a").unwrap())));
        assert!(model.trouble().is_none());
        model.take(Event::Heard(None));
        let told: Vec<&News> = model.news.iter().map(|(_, news)| news).collect();
        assert!(matches!(told[..], [News::Recovery(_), News::Outage(_)]), "{told:?}");
    }

    #[test]
    fn problems_come_first_and_a_filter_leaves_what_it_names() {
        let mut model = Model::new("memory:".into());
        add(&mut model, "1", Health::Passing);
        add(&mut model, "2", Health::Warning);
        add(&mut model, "3", Health::Critical);
        assert_eq!(ids(&model), ["3", "2", "1"]);
        for (filter, left) in
            [("WARN", &["2"][..]), ("a", &["3", "2", "1"]), ("h:1", &["3", "2", "1"]), ("zz", &[])]
        {
            model.filter = filter.into();
            assert_eq!(ids(&model), left, "{filter}");
        }
    }

    #[test]
    fn the_cursor_stays_on_its_instance_and_details_know_when_it_is_gone() {
        let mut model = Model::new("memory:".into());
        model.open();
        assert!(!model.details, "there is nothing to show");
        add(&mut model, "1", Health::Passing);
        add(&mut model, "2", Health::Passing);
        model.move_by(1);
        add(&mut model, "0", Health::Critical);
        assert_eq!(model.cursor(&model.rows()), 2);
        model.open();
        assert_eq!(model.opened().unwrap().id().as_str(), "2");
        model.take(Event::Changed(Change::Removed(instance("2"))));
        assert!(model.details && model.opened().is_none());
        assert_eq!(model.opened_key().unwrap().id().as_str(), "2");
        model.move_by(isize::MAX);
        assert_eq!(model.cursor(&model.rows()), 1);
        model.move_by(isize::MIN);
        assert_eq!(model.cursor(&model.rows()), 0);
    }
}
