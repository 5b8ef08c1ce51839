//! What this registry announces, found by key and by name: each event names one, and there may be thousands.

use std::collections::{BTreeMap, HashMap};

use switchboard_core::{Instance, InstanceKey};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::record::{Announcement, domain};

/// One instance that is announced, or about to be, or about to go.
pub(crate) struct Registered {
    pub(crate) instance: Instance,
    pub(crate) announcement: Announcement,
    pub(crate) host: String,
    /// The full name given to the daemon, escaped: the one `unregister` wants.
    pub(crate) fullname: String,
    /// The full name it goes by after a conflict.
    pub(crate) renamed: Option<String>,
    /// Whether the daemon has announced it as it is.
    pub(crate) announced: watch::Sender<bool>,
    /// Whether the first announcement has been waited for, so that a renewal need not.
    pub(crate) confirmed: bool,
    /// The number of the withdrawal that asked it to go. Until the daemon has confirmed that, it must not be announced again.
    pub(crate) leaving: Option<u64>,
    pub(crate) lapses: Option<Instant>,
}

impl Registered {
    /// The label it goes by.
    pub(crate) fn label(&self) -> String {
        self.renamed_label().unwrap_or_else(|| self.announcement.label.clone())
    }

    /// The full name it goes by, unescaped, as browsing tells it.
    pub(crate) fn heard_as(&self) -> String {
        format!("{}.{}", self.label(), domain(&self.announcement.kind))
    }

    /// The label it goes by after a conflict.
    pub(crate) fn renamed_label(&self) -> Option<String> {
        let suffix = domain(&self.announcement.kind).len() + 1;
        let name = self.renamed.as_ref()?;
        Some(name.get(..name.len().checked_sub(suffix)?)?.to_owned())
    }

    /// Its names, as the index has them. DNS knows no case.
    fn names(&self) -> impl Iterator<Item = String> {
        [Some(&self.fullname), self.renamed.as_ref()].into_iter().flatten().map(|name| name.to_lowercase())
    }
}

/// All of them.
#[derive(Default)]
pub(crate) struct Registrations {
    entries: BTreeMap<InstanceKey, Registered>,
    /// Whose a full name is.
    names: HashMap<String, InstanceKey>,
}

impl Registrations {
    pub(crate) fn get(&self, key: &InstanceKey) -> Option<&Registered> {
        self.entries.get(key)
    }

    /// For changes of anything but its names.
    pub(crate) fn get_mut(&mut self, key: &InstanceKey) -> Option<&mut Registered> {
        self.entries.get_mut(key)
    }

    /// The one that goes by this name, or did before a conflict.
    pub(crate) fn named(&mut self, fullname: &str) -> Option<&mut Registered> {
        self.entries.get_mut(self.names.get(&fullname.to_lowercase())?)
    }

    /// Whether another than `key` has this name.
    pub(crate) fn is_taken(&self, fullname: &str, key: &InstanceKey) -> bool {
        self.names.get(&fullname.to_lowercase()).is_some_and(|owner| owner != key)
    }

    pub(crate) fn insert(&mut self, key: InstanceKey, entry: Registered) {
        self.remove(&key);
        self.names.extend(entry.names().map(|name| (name, key.clone())));
        self.entries.insert(key, entry);
    }

    pub(crate) fn remove(&mut self, key: &InstanceKey) -> Option<Registered> {
        let entry = self.entries.remove(key)?;
        for name in entry.names() {
            self.names.remove(&name);
        }
        Some(entry)
    }

    /// Notes the name that a conflict gave to `original`; whose it is, if that is news.
    pub(crate) fn rename(&mut self, original: &str, renamed: &str) -> Option<InstanceKey> {
        let key = self.names.get(&original.to_lowercase())?.clone();
        let mut entry = self.remove(&key)?;
        let news = entry.renamed.as_deref() != Some(renamed);
        entry.renamed = Some(renamed.to_owned());
        self.insert(key.clone(), entry);
        news.then_some(key)
    }

    /// A new daemon knows of no conflicts, so it is given the names that resulted from them.
    pub(crate) fn forget_renaming(&mut self) {
        for key in self.keys(|entry| entry.renamed.is_some()) {
            let Some(mut entry) = self.remove(&key) else { continue };
            if let Some(label) = entry.renamed_label() {
                entry.announcement.label = label;
                entry.renamed = None;
            }
            self.insert(key, entry);
        }
    }

    pub(crate) fn keys(&self, which: impl Fn(&Registered) -> bool) -> Vec<InstanceKey> {
        self.entries.iter().filter(|(_, entry)| which(entry)).map(|(key, _)| key.clone()).collect()
    }

    /// When the next TTL lapses, or a goodbye is to be tried again.
    pub(crate) fn next_lapse(&self) -> Option<Instant> {
        self.entries.values().filter_map(|entry| entry.lapses).min()
    }
}
