//! What is known of a question after each answer: who is there, and who has only been left out for a while.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use switchboard_core::Instance;
use tokio::time::Instant;

use crate::resolve::Found;

/// So long who is left out stays where an answer may be a part.
const UNSURE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(crate) struct Kept {
    entries: BTreeMap<String, Entry>,
    /// Whether more is known of everybody that is listed.
    pub(crate) complete: bool,
}

#[derive(Debug)]
struct Entry {
    instance: Arc<Instance>,
    listed: Instant,
}

impl Kept {
    /// Takes an answer in; when somebody who was left out goes, if there is one.
    pub(crate) fn take(&mut self, found: &Found, window: Duration, now: Instant) -> Option<Instant> {
        self.complete = true;
        // Nobody at all is no part.
        if found.listed.is_empty() && found.whole {
            self.entries.clear();
            return None;
        }
        for (key, instance) in &found.listed {
            match (self.entries.get_mut(key), instance) {
                (Some(entry), instance) => {
                    entry.listed = now;
                    if let Some(instance) = instance.as_ref().filter(|instance| **instance != entry.instance)
                    {
                        entry.instance = instance.clone();
                    }
                }
                (None, Some(instance)) => {
                    let entry = Entry { instance: instance.clone(), listed: now };
                    self.entries.insert(key.clone(), entry);
                }
                (None, None) => self.complete = false,
            }
        }
        let stays = if found.whole { window } else { window.max(UNSURE) };
        self.entries.retain(|key, entry| found.listed.contains_key(key) || now - entry.listed < stays);
        let left_out = self.entries.iter().filter(|(key, _)| !found.listed.contains_key(*key));
        left_out.map(|(_, entry)| entry.listed + stays).min()
    }

    pub(crate) fn instances(&self) -> impl Iterator<Item = (&String, &Arc<Instance>)> {
        self.entries.iter().map(|(key, entry)| (key, &entry.instance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(ids: &[&str], whole: bool) -> Found {
        let listed = ids.iter().map(|id| {
            let instance = match id.strip_suffix('?') {
                Some(_) => None,
                None => Some(Arc::new(Instance::builder("a").id(*id).address("h:1").build().unwrap())),
            };
            (id.trim_end_matches('?').to_owned(), instance)
        });
        Found { listed: listed.collect(), whole, ..Found::default() }
    }

    fn ids(kept: &Kept) -> Vec<&str> {
        kept.instances().map(|(key, _)| key.as_str()).collect()
    }

    #[test]
    fn who_is_left_out_goes_at_once_or_after_the_window_or_after_a_minute_where_it_is_unsure() {
        let now = Instant::now();
        let seconds = |n| Duration::from_secs(n);
        let mut kept = Kept::default();
        assert_eq!(kept.take(&found(&["1", "2"], true), Duration::ZERO, now), None);
        assert_eq!(kept.take(&found(&["1"], true), Duration::ZERO, now), None);
        assert_eq!(ids(&kept), ["1"]);

        kept.take(&found(&["1", "2"], true), seconds(10), now);
        assert_eq!(kept.take(&found(&["1"], true), seconds(10), now + seconds(9)), Some(now + seconds(10)));
        assert_eq!(ids(&kept), ["1", "2"]);
        kept.take(&found(&["2"], true), seconds(10), now + seconds(9));
        assert_eq!(kept.take(&found(&["1"], true), seconds(10), now + seconds(18)), Some(now + seconds(19)));
        assert_eq!(ids(&kept), ["1", "2"], "it was seen meanwhile");
        kept.take(&found(&["1"], true), seconds(10), now + seconds(19));
        assert_eq!(ids(&kept), ["1"]);

        kept.take(&found(&["2"], false), Duration::ZERO, now + seconds(20));
        assert_eq!(ids(&kept), ["1", "2"]);
        kept.take(&found(&["2"], false), Duration::ZERO, now + seconds(78));
        assert_eq!(ids(&kept), ["1", "2"]);
        kept.take(&found(&["2"], false), Duration::ZERO, now + seconds(79));
        assert_eq!(ids(&kept), ["2"]);
        kept.take(&found(&[], true), seconds(10), now + seconds(79));
        assert!(ids(&kept).is_empty(), "nobody at all counts at once");
    }

    #[test]
    fn who_is_listed_and_not_known_now_stays_as_it_was() {
        let now = Instant::now();
        let mut kept = Kept::default();
        kept.take(&found(&["1"], true), Duration::ZERO, now);
        kept.take(&found(&["1?", "2"], true), Duration::ZERO, now);
        assert_eq!((ids(&kept), kept.complete), (vec!["1", "2"], true));
        kept.take(&found(&["1", "3?"], true), Duration::ZERO, now);
        assert_eq!((ids(&kept), kept.complete), (vec!["1"], false));
    }
}
