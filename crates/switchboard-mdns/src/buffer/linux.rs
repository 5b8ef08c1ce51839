//! The sockets of mdns-sd belong to its thread, but they are descriptors of this process: `pidfd_getfd(2)` (Linux 5.6)
//! duplicates one by its number, and an option set on the duplicate is set on the socket.

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
