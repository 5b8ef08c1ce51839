//! Ports that nobody else has.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Ports below the range that outgoing connections take theirs from, free for TCP and UDP. Each process has blocks of its own, which
/// it holds by listening on the first port of each: others must not try the same ports at the same time.
///
/// It does not return when there are none.
pub fn free_port() -> u16 {
    static BLOCKS: Mutex<(Vec<TcpListener>, Range<u16>)> = Mutex::new((Vec::new(), 0..0));
    const BLOCK: u16 = 200;
    let mut blocks = BLOCKS.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let at = |port: u16| (Ipv4Addr::LOCALHOST, port);
        let is_free = |port: &u16| TcpListener::bind(at(*port)).is_ok() && UdpSocket::bind(at(*port)).is_ok();
        if let Some(port) = blocks.1.find(is_free) {
            return port;
        }
        let first = 10_000 + BLOCK * fastrand::u16(0..100);
        if let Ok(held) = TcpListener::bind(at(first)) {
            blocks.0.push(held);
            blocks.1 = first + 1..first + BLOCK;
        }
    }
}
