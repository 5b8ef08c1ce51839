use reqwest::redirect::Policy;
use reqwest::{Response, Url};
use reqwest_middleware::Result;

/// The redirects that a client beneath [`Discovery`](super::Discovery) may follow: at most ten, as reqwest's default, and
/// only those that stay with the instance. Any other is not followed, and is itself the response.
///
/// [`limited`](super::limited) gives it to a client, as `reqwest::Client::builder().redirect(…)` does. A client follows redirects with the headers of the first request,
/// so that the `Host` of a service would be sent to whatever server it is redirected to.
pub fn redirects() -> Policy {
    Policy::custom(|attempt| {
        let stays = attempt.previous().last().is_some_and(|from| same_authority(from, attempt.url()));
        if stays { Policy::default().redirect(attempt) } else { attempt.stop() }
    })
}

/// Whether the client has followed a redirect away from where the request was sent.
pub(crate) fn was_left(sent: &Url, result: &Result<Response>) -> bool {
    let last = match result {
        Ok(response) => Some(response.url()),
        Err(error) => error.url(),
    };
    last.is_some_and(|last| !same_authority(sent, last))
}

fn same_authority(a: &Url, b: &Url) -> bool {
    let of = |url: &Url| (url.host().map(|host| host.to_owned()), url.port_or_known_default());
    of(a) == of(b)
}
