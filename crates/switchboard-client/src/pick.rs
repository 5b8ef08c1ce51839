#[cfg(any(feature = "reqwest", feature = "tonic"))]
use switchboard_core::Instance;
use switchboard_selector::{Balancer, Pick, PickError, Request};

/// Picks at once if something is known, else waits for the registry, at most the directory's `ready_timeout`.
pub(crate) async fn pick(balancer: &Balancer, request: &Request<'_>) -> Result<Pick, PickError> {
    match balancer.pick_for(request) {
        Err(PickError::NotHeard { .. }) => {
            balancer.ready().await?;
            balancer.pick_for(request)
        }
        picked => picked,
    }
}

/// The address to put in a URL: the first one without a scope, which a URL cannot say (RFC 3986, section 3.2.2).
#[cfg(any(feature = "reqwest", feature = "tonic"))]
pub(crate) fn address(instance: &Instance) -> &switchboard_core::Address {
    use std::net::SocketAddr;

    let scoped = |address: &&switchboard_core::Address| matches!(address.socket_addr(), Some(SocketAddr::V6(socket)) if socket.scope_id() != 0);
    instance.addresses().iter().find(|address| !scoped(address)).unwrap_or_else(|| instance.address())
}
