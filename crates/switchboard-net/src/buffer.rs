//! The receive buffers of sockets.

/// How the sockets of a program come to have a receive buffer of so many bytes on the system at hand, where it grants less: what
/// to do, as the end of a sentence.
pub fn how_to_enlarge(bytes: usize) -> String {
    if cfg!(target_os = "linux") {
        format!("sysctl -w net.core.rmem_max={bytes}, or give the program CAP_NET_ADMIN")
    } else if cfg!(windows) {
        format!(
            "set DefaultReceiveWindow to {bytes} at HKEY_LOCAL_MACHINE\\SYSTEM\\CurrentControlSet\\Services\\AFD\\Parameters, and restart"
        )
    } else {
        format!("sysctl -w net.inet.udp.recvspace={bytes}, below kern.ipc.maxsockbuf")
    }
}
