//! What is on the screen.

use std::sync::Arc;

use switchboard::{Health, Instance, InstanceKey};

use crate::output::list;
use crate::world::World;

#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) world: World,
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
            world: World::new(registry),
            filter: String::new(),
            filtering: false,
            details: false,
            selected: (None, 0),
            offset: 0,
        }
    }

    /// The instances to list: problems first, the worst of them at the top, else by service and id.
    pub(crate) fn rows(&self) -> Vec<Arc<Instance>> {
        let wanted = self.filter.to_lowercase();
        let listed = self.world.instances().filter(|instance| has(instance, &wanted));
        let mut rows: Vec<_> = listed.cloned().collect();
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
        self.world.services.get(key.service())?.get(key.id())
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
    use crate::network::Event;
    use switchboard::Change;

    fn instance(id: &str) -> Arc<Instance> {
        Arc::new(Instance::builder("a").id(id).address("h:1").build().unwrap())
    }

    fn add(model: &mut Model, id: &str, health: Health) {
        let built = Instance::builder("a").id(id).address("h:1").health(health).build().unwrap();
        model.world.take(Event::Changed(Change::Added(Arc::new(built))));
    }

    fn ids(model: &Model) -> Vec<String> {
        model.rows().iter().map(|row| row.id().to_string()).collect()
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
        model.world.take(Event::Changed(Change::Removed(instance("2"))));
        assert!(model.details && model.opened().is_none());
        assert_eq!(model.opened_key().unwrap().id().as_str(), "2");
        model.move_by(isize::MAX);
        assert_eq!(model.cursor(&model.rows()), 1);
        model.move_by(isize::MIN);
        assert_eq!(model.cursor(&model.rows()), 0);
    }
}
