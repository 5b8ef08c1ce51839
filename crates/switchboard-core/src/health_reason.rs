use std::fmt;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::Health;

/// Why an instance is not passing: a check that says so, as its registry tells it.
///
/// See [`Instance::health_reasons`](crate::Instance::health_reasons) for when a change of it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HealthReason {
    /// The check's name, for people.
    pub check: String,
    /// What the check says; the instance is as healthy as the worst of its checks.
    pub health: Health,
    /// What the check put out last; empty if nothing. May have lines and, as others wrote it, any character.
    #[serde(default)]
    pub output: String,
    /// What the operator noted beside the check; empty if nothing.
    #[serde(default)]
    pub notes: String,
    /// Since when, at the latest, the check says so: when the watch that told of this instance first saw it. Registries
    /// such as Consul tell no time of day, so it may have been so for longer. `None` for a lookup, which sees no more than
    /// the moment. Not in JSON.
    #[serde(skip)]
    pub seen_since: Option<Instant>,
}

impl HealthReason {
    /// A reason without output, notes and time.
    pub fn new(check: impl Into<String>, health: Health) -> Self {
        Self { check: check.into(), health, output: String::new(), notes: String::new(), seen_since: None }
    }

    /// With what the check put out.
    pub fn output(mut self, output: impl Into<String>) -> Self {
        self.output = output.into();
        self
    }

    /// With the operator's notes.
    pub fn notes(mut self, notes: impl Into<String>) -> Self {
        self.notes = notes.into();
        self
    }

    /// With the time at which it was first seen so.
    pub fn seen_since(mut self, since: Option<Instant>) -> Self {
        self.seen_since = since;
        self
    }
}

/// A line: the check and the first line of what it put out, or else of the notes; each cut after 100 characters.
impl fmt::Display for HealthReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Some checks put out a whole page.
        const LONGEST: usize = 100;
        let line = |text: &str| -> String {
            let text = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
            let cut: String = text.chars().take(LONGEST).collect();
            if cut.len() < text.len() { format!("{cut}…") } else { cut }
        };
        f.write_str(&line(&self.check))?;
        // Of maintenance the notes tell the operator's reason.
        let said = [line(&self.output), line(&self.notes)].into_iter().find(|line| !line.is_empty());
        said.map_or(Ok(()), |said| write!(f, ": {said}"))
    }
}

/// All reasons of an instance, equal by what is news.
///
/// Which checks fail is news, and that one says why after it did not; what they say is none, as many put out something
/// else whenever they run, and no watcher is to be woken for each.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct HealthReasons(pub(crate) Vec<HealthReason>);

impl HealthReasons {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn news(&self) -> impl Iterator<Item = (&str, Health, bool)> {
        self.0.iter().map(|reason| (&*reason.check, reason.health, reason.output.is_empty()))
    }
}

impl PartialEq for HealthReasons {
    fn eq(&self, other: &Self) -> bool {
        self.news().eq(other.news())
    }
}

impl Eq for HealthReasons {}

impl std::hash::Hash for HealthReasons {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_usize(self.0.len());
        self.news().for_each(|news| news.hash(state));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Instance;

    fn failing(reason: HealthReason) -> Instance {
        let builder = Instance::builder("a").id("1").address("h:1").health(Health::Critical);
        builder.health_reason(reason).build().unwrap()
    }

    #[test]
    fn another_output_is_no_other_instance_but_a_first_one_and_another_check_are() {
        let reason = || HealthReason::new("http", Health::Critical);
        let said = failing(reason().output("at 12:01").notes("ask ops"));
        assert_eq!(said, failing(reason().output("at 12:02").seen_since(Some(Instant::now()))));
        assert_ne!(said, failing(reason()));
        assert_ne!(said, failing(HealthReason::new("disk", Health::Critical).output("at 12:01")));
        assert_ne!(said, failing(HealthReason::new("http", Health::Warning).output("at 12:01")));
        assert_ne!(said, said.to_builder().clear_health_reasons().build().unwrap());
    }

    #[test]
    fn survives_json_but_for_the_time_and_the_builder() {
        let reason = HealthReason::new("http", Health::Critical).output("a\nb").notes("n");
        let since = reason.clone().seen_since(Some(Instant::now()));
        let instance = failing(since.clone());
        let json = serde_json::to_string(&instance).unwrap();
        let back: Instance = serde_json::from_str(&json).unwrap();
        assert_eq!(back.health_reasons(), [reason]);
        assert_eq!(instance.to_builder().build().unwrap().health_reasons(), [since]);
    }

    #[test]
    fn another_health_has_other_reasons() {
        let instance = failing(HealthReason::new("http", Health::Critical));
        assert_eq!(instance.clone().with_health(Health::Critical).health_reasons().len(), 1);
        assert!(instance.with_health(Health::Passing).health_reasons().is_empty());
    }
}
