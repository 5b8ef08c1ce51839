//! How an instance is connected to, and how it shows that a connection is dead.

use std::time::Duration;

use switchboard_core::Instance;
use tonic::transport::{Endpoint, Error};

use crate::pick::address;

/// One lost packet is sent again in this time: RFC 6298 has 1 s before the first repetition, and then 2 s.
const CONNECT: Duration = Duration::from_secs(3);

/// TCP's own probes, with a third of it between them: reqwest's default. They show a host that is gone, and tell the server
/// nothing.
const PROBE: Duration = Duration::from_secs(15);

/// gRPC's servers close a connection that pings more often than every 5 min while they have nothing to send.
const PING: Duration = Duration::from_secs(310);

/// gRPC's default.
const PONG: Duration = Duration::from_secs(20);

/// How long connecting may take, and when a connection is taken to be dead.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionLimits {
    pub(super) connect: Duration,
    pub(super) ping: Duration,
    pub(super) pong: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { connect: CONNECT, ping: PING, pong: PONG }
    }
}

impl ConnectionLimits {
    /// A time longer than the clock can say is none.
    fn set(self, endpoint: Endpoint) -> Endpoint {
        let endpoint = endpoint
            .tcp_nodelay(true)
            .tcp_keepalive(Some(PROBE))
            .tcp_keepalive_interval(Some(PROBE / 3))
            .tcp_keepalive_retries(Some(3));
        let endpoint = if is_time(self.connect) { endpoint.connect_timeout(self.connect) } else { endpoint };
        if is_time(self.ping) && is_time(self.pong) {
            endpoint.http2_keep_alive_interval(self.ping).keep_alive_timeout(self.pong)
        } else {
            endpoint
        }
    }

    /// The endpoint of a builder that was given none.
    pub(super) fn plain(self, service: &str, instance: &Instance) -> Result<Endpoint, Error> {
        let endpoint = self.set(Endpoint::try_from(format!("http://{}", address(instance)))?);
        // A name that is no authority is not sent as one.
        Ok(match format!("http://{service}").parse() {
            Ok(origin) => endpoint.origin(origin),
            Err(_) => endpoint,
        })
    }
}

/// Whether two of it, one after the other, end at a time that the clock knows.
fn is_time(limit: Duration) -> bool {
    let twice = limit.checked_mul(2);
    twice.is_some_and(|twice| std::time::Instant::now().checked_add(twice).is_some())
}

/// Gives an endpoint the limits that the default one has: a connection within 3 s, TCP keep-alive after 15 s, and HTTP/2
/// keep-alive as [`ChannelBuilder::keep_alive`](super::ChannelBuilder::keep_alive) has it by default. What is set on the result
/// replaces them.
///
/// ```
/// # use switchboard_client::tonic::Channel;
/// # fn example(balancer: switchboard_selector::Balancer) {
/// use switchboard_client::tonic::limited;
/// use tonic::transport::Endpoint;
///
/// let channel = Channel::builder(balancer).endpoint(|instance| {
///     let endpoint = Endpoint::from_shared(format!("http://{}", instance.address()))?;
///     Ok(limited(endpoint).user_agent("gateway")?)
/// });
/// # drop(channel);
/// # }
/// ```
pub fn limited(endpoint: Endpoint) -> Endpoint {
    ConnectionLimits::default().set(endpoint)
}
