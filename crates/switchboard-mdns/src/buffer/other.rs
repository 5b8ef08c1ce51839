//! Here nobody reaches the sockets of mdns-sd but its thread: they keep what the system gives to all. Ours ask for more.

use std::io;

use socket2::{Domain, Socket, Type};

/// What the sockets of mdns-sd have: the size that any new UDP socket gets.
pub(crate) fn enlarge(_port: u16, _bytes: usize) -> io::Result<Option<usize>> {
    let open = |domain| Socket::new(domain, Type::DGRAM, None);
    let socket = open(Domain::IPV4).or_else(|_| open(Domain::IPV6))?;
    Ok(Some(socket.recv_buffer_size()?))
}

/// Asks for `bytes` on a socket of ours, or for as much as there is.
pub(crate) fn set(socket: &Socket, bytes: usize) -> io::Result<()> {
    let least = socket.recv_buffer_size()?;
    halving(bytes, least, |size| socket.set_recv_buffer_size(size))
}

/// macOS and the BSDs refuse more than their limit, and do not say what it is.
fn halving(bytes: usize, least: usize, mut ask: impl FnMut(usize) -> io::Result<()>) -> io::Result<()> {
    let mut size = bytes;
    loop {
        match ask(size) {
            Err(_) if size / 2 > least => size /= 2,
            asked => return asked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_gets_more_than_any_new_one_has() {
        let usual = enlarge(0, 0).unwrap().unwrap();
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        assert_eq!(socket.recv_buffer_size().unwrap(), usual);
        // Linux gives the double of what it is asked for.
        set(&socket, usual / 2 + 4096).unwrap();
        assert!(socket.recv_buffer_size().unwrap() >= usual / 2 + 4096);
    }

    #[test]
    fn what_is_refused_is_asked_for_by_halves() {
        let ask = |limit: usize| {
            let mut granted = None;
            let asked = halving(4096, 512, |size| {
                if size > limit {
                    return Err(io::Error::other("no buffer space"));
                }
                granted = Some(size);
                Ok(())
            });
            (granted, asked.is_ok())
        };
        assert_eq!(ask(5000), (Some(4096), true));
        assert_eq!(ask(2047), (Some(1024), true));
        assert_eq!(ask(512), (None, false), "no less than it has");
    }
}
