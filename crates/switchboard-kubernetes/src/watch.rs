//! Which watches there are: one for each of a few services, one of the namespace for more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures::stream::{self, BoxStream, StreamExt};
use switchboard_core::{Result, ServiceName, Store};

use crate::client::Client;
use crate::follow::Followed;
use crate::world::Scope;

/// How many services of a namespace are watched each by itself: that takes a connection for each, and the namespace's takes one, and all
/// of its slices. Measured in docs/kubernetes.md.
const MOST_ALONE: usize = 8;

/// All that is followed at present. Each ends with the last of its readers.
#[derive(Default)]
pub(crate) struct Watches(Mutex<HashMap<Scope, Weak<Followed>>>);

impl Watches {
    /// What tells of a service, which is in this namespace unless that is the registry's own.
    pub(crate) fn of(
        &self,
        client: &Arc<Client>,
        service: &ServiceName,
        namespace: Option<&str>,
    ) -> Arc<Followed> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, followed| followed.strong_count() > 0);
        let alone = Scope::Service(service.clone());
        let whole = Scope::Namespace(namespace.map(Into::into));
        for scope in [&alone, &whole] {
            if let Some(followed) = all.get(scope).and_then(Weak::upgrade) {
                return followed;
            }
        }
        let is_beside = |scope: &&Scope| match scope {
            Scope::Service(other) => {
                client.settings.place(other).is_ok_and(|place| place.namespace.as_deref() == namespace)
            }
            Scope::Namespace(_) => false,
        };
        let scope = if all.keys().filter(is_beside).count() < MOST_ALONE { alone } else { whole };
        begin(&mut all, client, scope)
    }

    /// What tells of the names in the registry's own namespace.
    pub(crate) fn of_names(&self, client: &Arc<Client>) -> Arc<Followed> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, followed| followed.strong_count() > 0);
        let scope = Scope::Namespace(None);
        let followed = all.get(&scope).and_then(Weak::upgrade);
        followed.unwrap_or_else(|| begin(&mut all, client, scope))
    }

    pub(crate) fn close(&self) {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for followed in all.into_values().filter_map(|followed| followed.upgrade()) {
            followed.close();
        }
    }
}

fn begin(all: &mut HashMap<Scope, Weak<Followed>>, client: &Arc<Client>, scope: Scope) -> Arc<Followed> {
    let followed = Arc::new(Followed::new(client.clone(), scope.clone()));
    all.insert(scope, Arc::downgrade(&followed));
    followed
}

/// The stream that `of` makes of the store, once anything was heard.
pub(crate) fn stream<T: Send + 'static>(
    followed: Arc<Followed>,
    of: impl FnOnce(&Store) -> BoxStream<'static, Result<T>> + Send + 'static,
) -> BoxStream<'static, Result<T>> {
    let begun = async move {
        followed.begun().await;
        let told = of(&followed.store);
        told.map(move |item| {
            let _ = &followed;
            item
        })
        .boxed()
    };
    stream::once(begun).flatten().boxed()
}
