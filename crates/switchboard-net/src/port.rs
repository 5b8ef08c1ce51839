//! A UDP port that several programs use at once, as all of mDNS do.

use std::io;

use socket2::Socket;

/// Lets `socket`, before it is bound, have its port together with others that do the same.
///
/// `SO_REUSEADDR`, and on Unix `SO_REUSEPORT`, without which macOS and the BSDs do not share. Windows has no second
/// option, and needs none.
///
/// # Errors
///
/// What the system fails with.
pub fn share(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    Ok(())
}

/// Whether a [shared](share) socket was not bound because another program has the port for itself alone.
///
/// On Windows that is a denied permission too: a socket of `SO_EXCLUSIVEADDRUSE`, or a port the system has reserved.
pub fn is_taken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
        || cfg!(windows) && error.kind() == io::ErrorKind::PermissionDenied
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use socket2::{Domain, Type};

    use super::*;

    fn bind(port: u16, shared: bool) -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        if shared {
            share(&socket)?;
        }
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
        Ok(socket)
    }

    #[test]
    fn a_port_is_shared_among_those_that_share_it() {
        let first = bind(0, true).unwrap();
        let port = first.local_addr().unwrap().as_socket().unwrap().port();
        bind(port, true).unwrap();
        assert!(is_taken(&bind(port, false).unwrap_err()));
    }

    /// On Windows one that shares gets in beside one that has said nothing.
    #[cfg(unix)]
    #[test]
    fn a_port_that_is_not_shared_is_taken() {
        let alone = bind(0, false).unwrap();
        let port = alone.local_addr().unwrap().as_socket().unwrap().port();
        assert!(is_taken(&bind(port, true).unwrap_err()));
    }
}
