use std::net::{IpAddr, SocketAddr};

use switchboard_core::{Address, Invalid};

/// The addresses under which others reach a server that is bound to `bound`, such as a listener's `local_addr()` or
/// `example.local:8080`.
///
/// A specific IP address is itself. A host name stays a name if it resolves. A wildcard (`0.0.0.0`, `[::]`) becomes an
/// address of this machine: the first private one, else the first public one, else loopback; IPv4 before IPv6.
///
/// # Errors
///
/// [`Invalid`] for text that is no address, port 0, a name that resolves to nothing, and a wildcard on a machine
/// without any address.
pub async fn advertise(bound: impl ToString) -> Result<Address, Invalid> {
    let bound = bound.to_string();
    if let Ok(socket) = bound.parse::<SocketAddr>() {
        if !socket.ip().is_unspecified() {
            return Address::try_from(socket);
        }
        let interfaces = if_addrs::get_if_addrs().map_err(|error| {
            Invalid::new(format!("address {bound}"), format!("cannot be made specific: {error}"))
        })?;
        let own =
            interfaces.into_iter().filter(if_addrs::Interface::is_oper_up).map(|interface| interface.ip());
        let ip = best(own.filter(|ip| ip.is_ipv4() || bound_to_v6(socket))).ok_or_else(|| {
            Invalid::new(format!("address {bound}"), "is a wildcard, and this machine has no address")
        })?;
        return Address::try_from(SocketAddr::new(ip, socket.port()));
    }
    let address: Address = bound.parse()?;
    let resolved = tokio::net::lookup_host(&bound).await;
    match resolved.map(|mut found| found.next()) {
        Ok(Some(_)) => Ok(address),
        Ok(None) => Err(Invalid::new(format!("host of {bound}"), "resolves to no address")),
        Err(error) => Err(Invalid::new(format!("host of {bound}"), format!("does not resolve: {error}"))),
    }
}

/// A listener on `[::]` takes IPv4 too, one on `0.0.0.0` takes nothing else.
fn bound_to_v6(socket: SocketAddr) -> bool {
    socket.is_ipv6()
}

/// Private before public before loopback, IPv4 before IPv6, and what is of use on one link only not at all.
fn best(ips: impl Iterator<Item = IpAddr>) -> Option<IpAddr> {
    let rank = |ip: &IpAddr| {
        let private = match ip {
            IpAddr::V4(v4) => v4.is_private(),
            IpAddr::V6(v6) => v6.is_unique_local(),
        };
        (ip.is_loopback(), !private, ip.is_ipv6())
    };
    let on_one_link = |ip: &IpAddr| match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    ips.filter(|ip| !on_one_link(ip)).min_by_key(rank)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best_of(ips: &[&str]) -> Option<String> {
        best(ips.iter().map(|ip| ip.parse().unwrap())).map(|ip| ip.to_string())
    }

    #[test]
    fn private_then_public_then_loopback() {
        assert_eq!(best_of(&["127.0.0.1", "8.8.8.8", "fd00::1", "10.0.0.7"]).as_deref(), Some("10.0.0.7"));
        assert_eq!(best_of(&["127.0.0.1", "8.8.8.8", "2600::1"]).as_deref(), Some("8.8.8.8"));
        assert_eq!(best_of(&["::1", "127.0.0.1", "169.254.3.3", "fe80::1"]).as_deref(), Some("127.0.0.1"));
        assert_eq!(best_of(&["fe80::1"]), None);
    }

    #[tokio::test]
    async fn what_is_specific_stays_and_what_is_not_becomes_so() {
        assert_eq!(advertise("10.1.2.3:80").await.unwrap().to_string(), "10.1.2.3:80");
        assert_eq!(advertise("localhost:80").await.unwrap().to_string(), "localhost:80");
        let wildcard = advertise("0.0.0.0:80").await.unwrap();
        assert!(wildcard.socket_addr().unwrap().is_ipv4());
        assert_eq!(wildcard.port(), 80);
        assert!(advertise("0.0.0.0:0").await.is_err());
        let nowhere = advertise("no-such-host.invalid:80").await.unwrap_err().to_string();
        assert!(nowhere.starts_with("host of no-such-host.invalid:80: "), "{nowhere}");
    }
}
