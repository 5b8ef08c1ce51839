//! What all adapters do with a balancer.

use switchboard_core::{Instance, InstanceId};
use switchboard_selector::{Balancer, FailureKind, Pick, PickError};

use crate::Options;

/// What is told of an instance; `None` says nothing of it.
pub(crate) type Verdict = Option<Result<(), FailureKind>>;

/// Picks at once if something is known, else waits for the registry, at most the directory's `ready_timeout`.
pub(crate) async fn pick(
    balancer: &Balancer,
    options: &Options,
    tried: &[InstanceId],
) -> Result<Pick, PickError> {
    let request = options.request(tried);
    match balancer.pick_for(&request) {
        Err(PickError::NotHeard { .. }) => {
            balancer.ready().await?;
            balancer.pick_for(&request)
        }
        picked => picked,
    }
}

/// Ends the call. Without a verdict nothing is learned, however long it took; a call that its caller drops is another thing.
pub(crate) fn finish(pick: Pick, verdict: Verdict) {
    match verdict {
        Some(outcome) => pick.finish(outcome),
        None => pick.forget(),
    }
}

/// The address to put in a URL: the first one without a scope, which a URL cannot say (RFC 3986, section 3.2.2).
pub(crate) fn address(instance: &Instance) -> &switchboard_core::Address {
    use std::net::SocketAddr;

    let scoped = |address: &&switchboard_core::Address| matches!(address.socket_addr(), Some(SocketAddr::V6(socket)) if socket.scope_id() != 0);
    instance.addresses().iter().find(|address| !scoped(address)).unwrap_or_else(|| instance.address())
}
