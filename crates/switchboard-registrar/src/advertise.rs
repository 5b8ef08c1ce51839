use std::net::{IpAddr, SocketAddr};

use switchboard_core::{Address, Invalid, Registry};
use switchboard_net::reachable::{self, Versions};

/// The address under which others reach a server that is bound to `bound`, such as a listener's `local_addr()` or
/// `example.local:8080`, whatever registry it is registered with; [`advertise_on`] knows better.
///
/// A specific IP address is itself. A host name stays a name if it resolves. A wildcard (`0.0.0.0`, `[::]`) becomes an
/// address of this machine, the first there is of:
///
/// 1. that of the interface which the default route leaves by;
/// 2. of interfaces that are up, a private one before a public one, those of bridges inside this machine (Docker's,
///    libvirt's) after all others;
/// 3. loopback.
///
/// IPv4 before IPv6. `0.0.0.0` takes IPv4 only; `[::]` takes IPv4 too where that is the system's default
/// (`net.ipv6.bindv6only` on Linux; Windows and OpenBSD do not). Link-local addresses are left out. What was passed over,
/// and why, is in the log at debug level. Nothing is sent to find out.
///
/// # Errors
///
/// [`Invalid`] for text that is no address, port 0, a name that resolves to nothing, and a wildcard on a machine
/// without any address.
pub async fn advertise(bound: impl ToString) -> Result<Address, Invalid> {
    specific(bound.to_string(), async { None }).await
}

/// As [`advertise`], for a server that is registered with `registry`: a wildcard becomes the address at which those who
/// read the registry reach this machine, if the registry [knows](Registry::local_ip). For mDNS that is an address of a link in
/// use (loopback's where it is confined to that), for Consul the one this machine speaks to its agent from.
///
/// # Errors
///
/// As for [`advertise`].
pub async fn advertise_on<R: Registry + ?Sized>(
    registry: &R,
    bound: impl ToString,
) -> Result<Address, Invalid> {
    specific(bound.to_string(), registry.local_ip()).await
}

async fn specific(
    bound: String,
    preferred: impl Future<Output = Option<IpAddr>>,
) -> Result<Address, Invalid> {
    if let Ok(socket) = bound.parse::<SocketAddr>() {
        if !socket.ip().is_unspecified() {
            return Address::try_from(socket);
        }
        let versions = Versions::of_wildcard(socket.ip());
        let ip = reachable::address(versions, preferred.await).ok_or_else(|| {
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

#[cfg(test)]
mod tests {
    use super::*;

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
