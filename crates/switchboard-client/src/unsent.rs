//! What the errors of HTTP clients say of whether a request was worked on.

use std::error::Error;

/// Whether the server says that it has not worked on the request, which may then be sent again whatever it does: the stream
/// was refused, or came after the last one that the server took before it closed the connection (RFC 9113, section 8.7).
pub(crate) fn is_refused(error: &(dyn Error + 'static)) -> bool {
    any(error, |cause| {
        cause.downcast_ref::<h2::Error>().is_some_and(|error| {
            // Only streams beyond the last one taken fail with the server's GOAWAY.
            let reset = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
            error.is_remote() && (reset || error.is_go_away())
        })
    })
}

/// Whether this or one of its causes is such an error.
pub(crate) fn any(error: &(dyn Error + 'static), is: impl Fn(&(dyn Error + 'static)) -> bool) -> bool {
    std::iter::successors(Some(error), |&error| error.source()).any(is)
}
