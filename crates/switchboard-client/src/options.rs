use std::sync::Arc;
use std::time::Duration;

use switchboard_core::InstanceId;
use switchboard_selector::{Balancer, CallOptions, Filter, Request, Strategy};

/// What one call wants otherwise than the rest: put it into the request's extensions.
///
/// | adapter | how |
/// |---|---|
/// | `reqwest` | `client.get(…).with_extension(options)` |
/// | `tonic` | `request.extensions_mut().insert(options)` |
/// | `tower` | `Balance::options(FromExtensions)` for `http` requests, a function for others |
///
/// The adapters take one as their defaults, too. What a call says counts before the defaults; but filters
/// add up, and of several time-outs for the whole call the shortest counts.
///
/// ```
/// use std::time::Duration;
/// use switchboard_client::Options;
/// use switchboard_selector::Filter;
///
/// // Made once and kept: then filters and strategies are prepared once, too.
/// let eu = Options::new().filter(Filter::tag("eu")).timeout(Duration::from_millis(300));
/// let call = eu.clone().key("user-7");
/// # let _ = call;
/// ```
#[derive(Clone, Debug, Default)]
pub struct Options {
    key: Option<Arc<[u8]>>,
    /// Those of the defaults first: filters add up, and the last strategy counts.
    selections: Vec<CallOptions>,
    retries: Option<u32>,
    idempotent: Option<bool>,
    timeout: Option<Duration>,
    per_try_timeout: Option<Duration>,
}

impl Options {
    /// Nothing otherwise.
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls of one key go to one instance, while the strategy is a
    /// [`ConsistentHash`](switchboard_selector::ConsistentHash). Without a key, that strategy picks at random.
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.key = Some(key.as_ref().into());
        self
    }

    /// Picks by this strategy. One that holds something should be made once, and the options be cloned for each call; see
    /// [`CallOptions`].
    pub fn strategy(self, strategy: impl Strategy) -> Self {
        self.select(|selection| selection.strategy(strategy))
    }

    /// Picks only what passes this filter, too, after those of the selector and of the defaults. For custom filters the same
    /// holds as for [`strategy`](Self::strategy).
    pub fn filter(self, filter: Filter) -> Self {
        self.select(|selection| selection.filter(filter))
    }

    /// How often the call may be tried again, out of the client's budget. Default: what the client's `Retry` says.
    ///
    /// To `tower::Balance` this means nothing: it sends each request once, whatever is said here, since it cannot know which
    /// may be sent twice. tower's own `retry` goes around it.
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = Some(retries);
        self
    }

    /// Whether the call may be sent twice. Default: by the HTTP method (RFC 9110, section 9.2.2); for gRPC what the
    /// channel's builder says of the method, and no if it says nothing. Means nothing to `tower::Balance`, which does not send
    /// twice.
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = Some(idempotent);
        self
    }

    /// The time for the whole call: waiting for a first snapshot, connecting, all attempts and the pauses between them, the
    /// response's body. Default: none.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The time for one attempt, from the pick until the head of the response is there, as Envoy's `per_try_timeout`. An
    /// attempt that takes longer is a failure of its instance; if the call is idempotent, it is tried again on another (by
    /// `tower::Balance` never).
    ///
    /// Default: 15 s, as Envoy has it for a route, and as there only from when the request was sent: a body that is a stream may
    /// take its time. [`Duration::MAX`] is none. For `reqwest` a body that is there as a whole and longer than 64 KiB has no such
    /// limit unless it is given; for `tower` all requests count as sent at once.
    pub fn per_try_timeout(mut self, timeout: Duration) -> Self {
        self.per_try_timeout = Some(timeout);
        self
    }

    fn select(mut self, by: impl FnOnce(CallOptions) -> CallOptions) -> Self {
        let selection = self.selections.pop().unwrap_or_default();
        self.selections.push(by(selection));
        self
    }
}

/// What the adapters read.
#[allow(dead_code, reason = "each adapter uses a part of it")]
impl Options {
    /// These, and where they say nothing `defaults`.
    pub(crate) fn or(self, defaults: &Self) -> Self {
        Self {
            key: self.key.or_else(|| defaults.key.clone()),
            selections: [&defaults.selections[..], &self.selections].concat(),
            retries: self.retries.or(defaults.retries),
            idempotent: self.idempotent.or(defaults.idempotent),
            timeout: self.timeout.into_iter().chain(defaults.timeout).min(),
            per_try_timeout: self.per_try_timeout.or(defaults.per_try_timeout),
        }
    }

    /// The balancer to pick by.
    pub(crate) fn balancer(&self, balancer: &Balancer) -> Balancer {
        self.selections.iter().fold(balancer.clone(), |balancer, selection| balancer.with(selection))
    }

    /// What a pick should take into account.
    pub(crate) fn request<'a>(&self, tried: &'a [InstanceId]) -> Request<'a> {
        let request = Request::new().avoid(tried);
        match &self.key {
            Some(key) => request.key(key),
            None => request,
        }
    }

    pub(crate) fn retries_or(&self, default: u32) -> u32 {
        self.retries.unwrap_or(default)
    }

    pub(crate) fn idempotent_or(&self, default: impl FnOnce() -> bool) -> bool {
        self.idempotent.unwrap_or_else(default)
    }

    /// The limits of a call that begins now; `timeout` is what the request itself says.
    pub(crate) fn limits(&self, timeout: Option<Duration>) -> crate::limits::Limits {
        crate::limits::Limits::new(self.timeout.into_iter().chain(timeout).min(), self.per_try_timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_call_says_counts_before_the_defaults_and_the_shortest_time_counts() {
        let second = Duration::from_secs(1);
        let defaults = Options::new().key("a").retries(5).timeout(second).per_try_timeout(second);
        let call = Options::new().key("b").timeout(second * 2).per_try_timeout(second * 2).or(&defaults);
        assert_eq!(call.key.as_deref(), Some(&b"b"[..]));
        assert_eq!(call.retries_or(1), 5);
        assert_eq!((call.timeout, call.per_try_timeout), (Some(second), Some(second * 2)));
        assert!(call.idempotent_or(|| true) && !call.idempotent(false).idempotent_or(|| true));
    }

    #[tokio::test]
    async fn what_a_call_filters_is_besides_what_the_defaults_do() {
        use switchboard_core::{Instance, MemoryRegistry, RegisterOptions, Registry};
        use switchboard_selector::{ConsistentHash, Selector};
        use switchboard_watcher::Directory;

        let registry = MemoryRegistry::new();
        for (id, tags) in
            [("a", ["eu", "new"]), ("b", ["us", "new"]), ("c", ["eu", "new"]), ("d", ["eu", "old"])]
        {
            let instance = Instance::builder("hello").id(id).address("127.0.0.1:1").tag(tags[0]).tag(tags[1]);
            registry.register(&instance.build().unwrap(), &RegisterOptions::new()).await.unwrap();
        }
        let balancer = Selector::new(Directory::new(registry)).service("hello").unwrap();
        balancer.ready().await.unwrap();
        let defaults = Options::new().strategy(ConsistentHash).filter(Filter::tag("eu"));
        let call = Options::new().filter(Filter::tag("new")).or(&defaults);
        let balancer = call.balancer(&balancer);
        let mut owners = std::collections::BTreeSet::new();
        for key in 0..50 {
            let call = call.clone().key(key.to_string());
            let pick = || balancer.pick_for(&call.request(&[])).unwrap().id().to_string();
            let owner = pick();
            for _ in 0..10 {
                assert_eq!(pick(), owner, "by the strategy of the defaults");
            }
            owners.insert(owner);
        }
        assert_eq!(owners.into_iter().collect::<Vec<_>>(), ["a", "c"], "by the filters of both");
    }
}
