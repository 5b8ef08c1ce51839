use std::time::Duration;

use reqwest::ClientBuilder;

use super::redirects;

/// One lost packet is sent again in this time: RFC 6298 has 1 s before the first repetition, and then 2 s.
const CONNECT: Duration = Duration::from_secs(3);

/// Gives a client the limits that calls by name need: a connection within 3 s, so that an attempt at an instance whose machine
/// is gone goes on to another, and only [`redirects`] that stay with the instance. What is set on the result replaces them.
///
/// reqwest's own defaults stay: TCP keep-alive after 15 s, no limit for the whole call. [`Discovery`](super::Discovery) limits
/// how long the head of each response may take.
///
/// ```
/// use switchboard_client::reqwest::limited;
///
/// let client = limited(reqwest::Client::builder()).user_agent("gateway").build()?;
/// # drop(client);
/// # Ok::<(), reqwest::Error>(())
/// ```
pub fn limited(builder: ClientBuilder) -> ClientBuilder {
    builder.connect_timeout(CONNECT).redirect(redirects())
}
