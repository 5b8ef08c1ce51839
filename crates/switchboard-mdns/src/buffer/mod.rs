//! A larger receive buffer for sockets that hear mDNS: those of mdns-sd, which has no setting for it, and our own.
//!
//! A thousand instances answer one question within milliseconds, and what does not fit the buffer is lost. Linux's
//! default of 208 KiB ends at about 1,500 instances.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(any(not(target_os = "linux"), test))]
mod other;

use std::sync::Once;

#[cfg(target_os = "linux")]
pub(crate) use linux::{enlarge, set};
#[cfg(not(target_os = "linux"))]
pub(crate) use other::{enlarge, set};

/// Says once, for all registries of this process, what to do about a buffer smaller than was asked for.
pub(crate) fn warn_if_small(granted: usize, wanted: usize) {
    static SAID: Once = Once::new();
    if granted < wanted {
        SAID.call_once(|| {
            let remedy = switchboard_net::buffer::how_to_enlarge(wanted);
            tracing::warn!(
                granted,
                wanted,
                "the receive buffer is small: of many answers at once, as from a thousand instances, some are lost; \
                 for a larger one: {remedy}"
            );
        });
    }
}
