//! A larger receive buffer for the sockets of mdns-sd, which has no setting for it.
//!
//! A thousand instances answer one question within milliseconds, and what does not fit the buffer is lost. Linux's
//! default of 208 KiB ends at about 1,500 instances. The sockets belong to the daemon thread, but they are descriptors of
//! this process: `pidfd_getfd(2)` (Linux 5.6) duplicates one by its number, and an option set on the duplicate is
//! set on the socket.

use std::sync::Once;

#[cfg(target_os = "linux")]
pub(crate) use linux::{enlarge, set};

/// Elsewhere the system's default stays: macOS and the BSDs start at several times Linux's.
#[cfg(not(target_os = "linux"))]
pub(crate) fn enlarge(_port: u16, _bytes: usize) -> std::io::Result<Option<usize>> {
    Ok(None)
}

/// Says once, for all registries of this process, what to do about a buffer smaller than was asked for.
pub(crate) fn warn_if_small(granted: usize, wanted: usize) {
    static SAID: Once = Once::new();
    if granted < wanted {
        SAID.call_once(|| {
            tracing::warn!(
                granted,
                wanted,
                "the receive buffer is small: of many answers at once, as from a thousand instances, some are lost; \
                 a larger one takes `sysctl -w net.core.rmem_max={wanted}` or CAP_NET_ADMIN"
            );
        });
    }
}

/// Asks for `bytes` on a socket of ours.
#[cfg(not(target_os = "linux"))]
pub(crate) fn set(socket: &socket2::Socket, bytes: usize) -> std::io::Result<()> {
    socket.set_recv_buffer_size(bytes)
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::net::SocketAddr;
    use std::os::fd::{AsFd, OwnedFd};

    use rustix::net::{SocketType, getsockname, sockopt};
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

    /// Asks for `bytes` on every UDP socket of this process that is bound to `port` on the unspecified address; the
    /// least that one was granted.
    pub(crate) fn enlarge(port: u16, bytes: usize) -> io::Result<Option<usize>> {
        let process = pidfd_open(getpid(), PidfdFlags::empty())?;
        let mut granted = None;
        for entry in std::fs::read_dir("/proc/self/fd")? {
            let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // A descriptor may be closed meanwhile, or be none of ours to copy; both are no loss.
            let Ok(socket) = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) else { continue };
            if is_mdns(&socket, port) {
                set(&socket, bytes)?;
                // The kernel doubles what it is asked for, and tells the double.
                let bytes = sockopt::socket_recv_buffer_size(&socket)? / 2;
                granted = Some(granted.map_or(bytes, |least: usize| least.min(bytes)));
            }
        }
        Ok(granted)
    }

    /// Asks for `bytes` on one socket.
    pub(crate) fn set(socket: &impl AsFd, bytes: usize) -> io::Result<()> {
        // The first needs CAP_NET_ADMIN, the second is capped by net.core.rmem_max.
        sockopt::set_socket_recv_buffer_size_force(socket, bytes)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(socket, bytes))?;
        Ok(())
    }

    fn is_mdns(socket: &OwnedFd, port: u16) -> bool {
        let bound = || SocketAddr::try_from(getsockname(socket).ok()?).ok();
        sockopt::socket_type(socket) == Ok(SocketType::DGRAM)
            && bound().is_some_and(|bound| bound.port() == port && bound.ip().is_unspecified())
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn finds_the_socket_by_its_port_and_enlarges_it() {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            let bystander = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let before = sockopt::socket_recv_buffer_size(&bystander).unwrap();
            assert_eq!(enlarge(socket.local_addr().unwrap().port(), before).unwrap(), Some(before));
            assert!(sockopt::socket_recv_buffer_size(&socket).unwrap() > before);
            assert_eq!(sockopt::socket_recv_buffer_size(&bystander).unwrap(), before);
        }
    }
}
