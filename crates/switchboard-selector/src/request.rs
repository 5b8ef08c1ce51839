use switchboard_core::InstanceId;
use xxhash_rust::xxh3::xxh3_64;

use crate::Candidate;

/// What a pick should take into account, apart from the balancer's own settings. Cheap to make; allocates nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    pub(crate) key: Option<u64>,
    pub(crate) avoid: &'a [InstanceId],
}

impl<'a> Request<'a> {
    /// A request without a key that avoids nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Requests of one key go to one instance while the strategy is a
    /// [`ConsistentHash`](crate::ConsistentHash); others ignore it. Hashed by XXH3, which gives the same value in
    /// every process and release.
    pub fn key(self, key: impl AsRef<[u8]>) -> Self {
        Self { key: Some(xxh3_64(key.as_ref())), ..self }
    }

    /// Avoids these instances, as a retry does those already tried. If there is no other, one of them is picked all
    /// the same: how often to try is for the caller to decide.
    pub fn avoid(self, tried: &'a [InstanceId]) -> Self {
        Self { avoid: tried, ..self }
    }

    pub(crate) fn avoids(&self, candidate: &Candidate) -> bool {
        self.avoid.contains(candidate.instance().id())
    }
}
