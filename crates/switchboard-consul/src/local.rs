//! Where this machine speaks to its agents from.

use std::net::IpAddr;
use std::time::Duration;

use switchboard_net::reachable;
use tokio::net::lookup_host;
use tokio::time::timeout;

/// How long the names of the agents may take to resolve.
const RESOLVE_WITHIN: Duration = Duration::from_secs(2);

/// The address of this machine that the route to the first of `agents` (`host:port`) to have one leaves by. `None` if that is
/// loopback: an agent on this machine says nothing of how others reach it.
pub(crate) async fn ip(agents: impl Iterator<Item = &str>) -> Option<IpAddr> {
    for agent in agents {
        // A Unix socket has no such name either.
        let Ok(Ok(found)) = timeout(RESOLVE_WITHIN, lookup_host(agent)).await else { continue };
        let ip = found.filter_map(reachable::towards).find(|ip| !ip.is_loopback());
        if ip.is_some() {
            return ip;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_agent_on_this_machine_says_nothing_of_how_others_reach_it() {
        let agents =
            ["127.0.0.1:8500", "[::1]:8500", "unix:///run/consul/http.sock", "no-such-host.invalid:8500"];
        assert_eq!(ip(agents.into_iter()).await, None);
    }
}
