//! What to type on this system to mend something.

use std::net::IpAddr;

const LINUX: bool = cfg!(target_os = "linux");
const WINDOWS: bool = cfg!(windows);
const MACOS: bool = cfg!(target_os = "macos");

/// The command that lists interfaces with their addresses.
pub(super) const LIST_INTERFACES: &str = if LINUX {
    "ip address"
} else if WINDOWS {
    "ipconfig"
} else {
    "ifconfig"
};

/// Has a program that holds a port share it.
pub(super) const SHARE_PORT: &str = if WINDOWS {
    "stop it, or have it share the port (SO_REUSEADDR); the system reserves some: netsh int ipv4 show excludedportrange udp"
} else {
    "stop it, or have it share the port (SO_REUSEADDR and SO_REUSEPORT)"
};

/// Lets datagrams to a port in.
pub(super) fn let_in(port: u16) -> String {
    if LINUX {
        format!("let UDP port {port} in and out, for example: ufw allow {port}/udp")
    } else if WINDOWS {
        format!(
            "let UDP port {port} in: New-NetFirewallRule -DisplayName mDNS -Direction Inbound -Protocol UDP -LocalPort {port} -Action Allow"
        )
    } else if MACOS {
        format!(
            "let UDP port {port} in: System Settings, Network, Firewall, and Privacy & Security, Local Network"
        )
    } else {
        format!("let UDP port {port} in and out")
    }
}

/// Adds a route to a group by an interface.
pub(super) fn add_route(group: IpAddr, interface: &str) -> String {
    let bits = if group.is_ipv4() { 32 } else { 128 };
    let command = if LINUX {
        let table = if group.is_ipv4() { "" } else { " table local" };
        format!("ip route add {group}/{bits}{table} dev {interface}")
    } else if WINDOWS {
        format!("New-NetRoute -DestinationPrefix {group}/{bits} -InterfaceAlias \"{interface}\"")
    } else {
        let family = if group.is_ipv4() { "" } else { "-inet6 " };
        format!("route add {family}-host {group} -interface {interface}")
    };
    format!("add a route: {command}")
}
