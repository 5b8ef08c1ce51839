use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use switchboard_core::{Address, Host, Instance, InstanceBuilder, InstanceId, Invalid};

use crate::ServiceType;
use crate::txt::{self, Heard};

/// The label of an instance of ours, unless another has it. A dot or capital in a label is legal, but on multicast DNS costs the
/// second announcement and the renaming on conflict. The id itself is in the TXT record.
pub fn own_label(id: &InstanceId) -> String {
    id.as_str().to_lowercase().replace(['.', '\\'], "-")
}

/// The instance that records describe: its label, the addresses that the records have, in any order, and its TXT record.
///
/// # Errors
///
/// `Invalid` for one that is none of ours under our type, and for one without an address.
pub fn decode(
    kind: &ServiceType,
    label: &str,
    addresses: &[SocketAddr],
    record: &[Heard<'_>],
) -> Result<Instance, Invalid> {
    let heard = heard_addresses(addresses);
    let (builder, mut addresses) = match kind {
        ServiceType::Own => txt::decode(record, label).ok_or_else(|| {
            Invalid::quoting("announcement", label, "names no service of ours in its TXT record")
        })?,
        ServiceType::Plain(service) => {
            (txt::decode_plain(record, Instance::builder(service).id(label)), Vec::new())
        }
    };
    if addresses.is_empty() {
        addresses = heard;
    } else {
        // What the records themselves vouch for comes first; the order is otherwise the announcer's.
        let ips: Vec<_> = heard.iter().map(Address::host).collect();
        addresses.sort_by_key(|address| match address.host() {
            ip @ Host::Ip(_) => !ips.contains(&ip),
            Host::Name(_) => true,
        });
    }
    addresses.into_iter().fold(builder, InstanceBuilder::address).build_lossy()
}

/// The addresses in the address records: IPv4 first, link-local last, then by number so that the order is stable.
fn heard_addresses(addresses: &[SocketAddr]) -> Vec<Address> {
    let mut sockets = addresses.to_vec();
    let link_local =
        |socket: &SocketAddr| matches!(socket, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local());
    sockets.sort_by_key(|socket| (socket.is_ipv6(), link_local(socket), *socket));
    sockets.into_iter().filter_map(|socket| Address::try_from(socket).ok()).collect()
}

/// The instances of one service, each heard under a name whose label `label_of` gives, with ids that tell them apart.
///
/// Two programs that live at the same time may have registered one id. They are two instances all the same: the one that
/// has the label of the id keeps it, and the label that another was given is its id, for as long as both are there.
pub fn tell_apart<'a>(
    label_of: impl Fn(&str) -> String,
    heard: impl IntoIterator<Item = (&'a String, &'a Arc<Instance>)>,
) -> impl Iterator<Item = (&'a String, Arc<Instance>)> {
    let mut keepers: HashMap<&'a InstanceId, (&'a String, &'a Arc<Instance>)> = HashMap::new();
    let mut others = Vec::new();
    for mut heard in heard {
        if let Some(kept) = keepers.get_mut(heard.1.id()) {
            // Only here, where it is rare: of equal ids the one with the label of the id, or the first by label.
            let rank = |(name, instance): &(&String, &Arc<Instance>)| {
                let label = label_of(name);
                (label != own_label(instance.id()), label)
            };
            if rank(&heard) < rank(kept) {
                std::mem::swap(kept, &mut heard);
            }
            others.push(heard);
        } else {
            keepers.insert(heard.1.id(), heard);
        }
    }
    let others: Vec<_> = others
        .into_iter()
        .filter_map(|(name, instance)| {
            let renamed = instance.to_builder().id(label_of(name)).build_lossy();
            Some((name, Arc::new(renamed.ok()?)))
        })
        .collect();
    let keepers = keepers.into_values().map(|(name, instance)| (name, instance.clone()));
    // Given last, they win where a label is yet another's id.
    others.into_iter().chain(keepers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_id_heard_under_two_labels_is_two_instances() {
        let named = |label: &str| format!("{label}.local");
        let instance = |port: u16| {
            let built =
                Instance::builder("greeter").id("Node.1").address(format!("127.0.0.1:{port}").as_str());
            Arc::new(built.build().unwrap())
        };
        let told = |heard: &[(String, Arc<Instance>)]| {
            let told = tell_apart(
                |name| name.trim_end_matches(".local").to_owned(),
                heard.iter().map(|(name, instance)| (name, instance)),
            );
            let mut told: Vec<_> = told
                .map(|(name, instance)| (instance.id().to_string(), instance.address().port(), name.clone()))
                .collect();
            told.sort();
            told
        };
        let (first, second) = ((named("node-1"), instance(80)), (named("node-1 (2)"), instance(81)));
        let both =
            [("Node.1".to_owned(), 80, first.0.clone()), ("node-1 (2)".to_owned(), 81, second.0.clone())];
        assert_eq!(told(&[first.clone(), second.clone()]), both);
        assert_eq!(told(&[second.clone(), first]), both);
        assert_eq!(
            told(std::slice::from_ref(&second)),
            [("Node.1".to_owned(), 81, second.0)],
            "alone it is who it says"
        );
    }
}
