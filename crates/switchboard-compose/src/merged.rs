//! What several registries say, as one answer.

use std::collections::BTreeSet;

use switchboard_core::{InstanceId, ServiceName, Snapshot};

/// What a registry says of a service, or of all.
pub(crate) trait Merged: Clone + PartialEq + Send + Sync + 'static {
    /// What these say together, of which there is one at least; the earlier ones win. `whole`: there are no others to be heard.
    fn merged(parts: &[Self], whole: bool) -> Self;

    /// Whether it says that there is nobody.
    fn is_nobody(&self) -> bool;

    /// Whether all that `other` knows are known.
    fn covers(&self, other: &Self) -> bool;
}

impl Merged for Snapshot {
    fn merged(parts: &[Self], whole: bool) -> Self {
        let merged = if let [one] = parts {
            one.clone()
        } else {
            // Of two with one id the later one counts.
            let all = parts.iter().rev().flat_map(|part| part.all().iter().cloned());
            Self::new(parts[0].service().clone(), all)
        };
        if whole && parts.iter().all(Self::is_complete) { merged } else { merged.incomplete() }
    }

    fn is_nobody(&self) -> bool {
        self.is_empty()
    }

    fn covers(&self, other: &Self) -> bool {
        let ids: BTreeSet<&InstanceId> = self.all().iter().map(|one| one.id()).collect();
        other.all().iter().all(|one| ids.contains(one.id()))
    }
}

impl Merged for BTreeSet<ServiceName> {
    fn merged(parts: &[Self], _: bool) -> Self {
        parts.iter().flatten().cloned().collect()
    }

    fn is_nobody(&self) -> bool {
        self.is_empty()
    }

    fn covers(&self, other: &Self) -> bool {
        self.is_superset(other)
    }
}
