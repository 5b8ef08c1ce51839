//! The browses of a registry: one for each DNS-SD type, for as long as somebody holds it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use switchboard_core::{Error, Result};

use crate::BACKEND;
use crate::browse::Browse;
use crate::daemon::Daemon;
use crate::record::{ServiceType, domain};

pub(crate) struct Browses {
    daemon: Daemon,
    settle: Duration,
    /// `None` once closed.
    running: Mutex<Option<BTreeMap<ServiceType, Weak<Browse>>>>,
}

impl Browses {
    pub(crate) fn new(daemon: Daemon, settle: Duration) -> Arc<Self> {
        Arc::new(Self { daemon, settle, running: Mutex::new(Some(BTreeMap::new())) })
    }

    /// The browse of a type, started if nobody holds one.
    pub(crate) fn start(self: &Arc<Self>, kind: ServiceType, operation: &'static str) -> Result<Arc<Browse>> {
        let mut running = self.running();
        let Some(running) = running.as_mut() else { return Err(Error::closed(BACKEND, operation)) };
        if let Some(browse) = running.get(&kind).and_then(Weak::upgrade) {
            return Ok(browse);
        }
        let browse = Arc::new(Browse::start(self, self.daemon.clone(), kind.clone(), self.settle)?);
        running.insert(kind, Arc::downgrade(&browse));
        Ok(browse)
    }

    /// The browse of a type, if somebody holds one.
    pub(crate) fn get(&self, kind: &ServiceType) -> Option<Arc<Browse>> {
        self.running().as_ref()?.get(kind)?.upgrade()
    }

    /// Ends every browse and its streams, and lets none begin.
    pub(crate) fn close(&self) {
        let running = self.running().take();
        for browse in running.iter().flat_map(BTreeMap::values).filter_map(Weak::upgrade) {
            browse.close();
        }
    }

    /// For a browse that nobody holds any more: has the daemon forget what was heard of its type.
    pub(crate) fn forget(self: &Arc<Self>, browse: &Browse) {
        let mut running = self.running();
        let Some(map) = running.as_mut() else { return };
        // Another one of the same type may have begun. It has taken over the daemon's subscription, which must stay.
        if map.get(browse.kind()).is_none_or(|running| !std::ptr::eq(running.as_ptr(), browse)) {
            return;
        }
        map.remove(browse.kind());
        let domain = domain(browse.kind());
        if self.daemon.try_stop_browse(&domain) {
            return;
        }
        drop(running);
        // The queue is full and nobody may wait here: a short-lived thread waits instead.
        let (browses, kind) = (self.clone(), browse.kind().clone());
        let waiter = move || {
            for _ in 0..1000 {
                std::thread::sleep(Duration::from_millis(5));
                let running = browses.running();
                let begun_again = running.as_ref().is_none_or(|map| map.contains_key(&kind));
                if begun_again || browses.daemon.try_stop_browse(&domain) {
                    return;
                }
            }
        };
        let _ = std::thread::Builder::new().name("mdns-forget".into()).spawn(waiter);
    }

    fn running(&self) -> MutexGuard<'_, Option<BTreeMap<ServiceType, Weak<Browse>>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
