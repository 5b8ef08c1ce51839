//! Which of several registries know an instance.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use switchboard::{InstanceKey, Registry, ServiceName, Snapshot};

use crate::session::Session;

/// The registries that know each instance, where the registry is made of several.
#[derive(Default)]
pub(crate) struct Origins {
    known: Option<BTreeMap<InstanceKey, Vec<String>>>,
}

impl Origins {
    /// Asks each registry that `registry` is made of for `service`, or for all. One that cannot be heard knows nobody here: what
    /// is wrong with it is for `doctor` to say.
    pub(crate) async fn of(
        session: &Session,
        registry: &Arc<dyn Registry>,
        service: Option<&ServiceName>,
    ) -> Self {
        let parts = leaves(registry);
        if parts.is_empty() {
            return Self::default();
        }
        let asked = parts.iter().map(|part| async move {
            let asked = async {
                match service {
                    Some(service) => Ok(vec![part.lookup(service).await?]),
                    None => part.snapshots().await,
                }
            };
            session.limited("lookup", asked).await.unwrap_or_default()
        });
        let mut known: BTreeMap<_, Vec<String>> = BTreeMap::new();
        for (part, said) in parts.iter().zip(join_all(asked).await) {
            for instance in said.iter().flat_map(Snapshot::all) {
                known.entry(instance.key()).or_default().push(part.to_string());
            }
        }
        Self { known: Some(known) }
    }

    /// Where this one is known; `None` where there are not several registries.
    pub(crate) fn get(&self, key: &InstanceKey) -> Option<&[String]> {
        Some(self.known.as_ref()?.get(key).map(Vec::as_slice).unwrap_or_default())
    }
}

/// Those that are made of no others, of a registry that is made of several.
pub(crate) fn leaves(registry: &Arc<dyn Registry>) -> Vec<Arc<dyn Registry>> {
    let leaves_of = |part: Arc<dyn Registry>| match leaves(&part) {
        none if none.is_empty() => vec![part],
        several => several,
    };
    registry.parts().into_iter().flat_map(leaves_of).collect()
}
