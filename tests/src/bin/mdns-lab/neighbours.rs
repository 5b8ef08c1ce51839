//! Room in the kernel's table of neighbours (ARP), which all namespaces of a machine share, as machines do not.
//!
//! By default it holds 1,024. Where each of 33 namespaces talks to all the others it is full, and until it is cleaned, at most
//! every five seconds, nothing can be sent to anybody new, nor by multicast: a fault of the lab and not of what is tried in it.

use std::fs;

use crate::say;

/// Enough for each of 200 machines to know all the others.
const ROOM: &str = "65536";

/// The limits as they were; they are again when this is dropped.
pub(crate) struct Neighbours(Vec<(String, String)>);

impl Neighbours {
    pub(crate) fn make_room() -> Self {
        let raised = ["gc_thresh3", "gc_thresh2"].into_iter().filter_map(|name| {
            let path = format!("/proc/sys/net/ipv4/neigh/default/{name}");
            match fs::read_to_string(&path).and_then(|before| fs::write(&path, ROOM).map(|()| before)) {
                Ok(before) => Some((path, before)),
                Err(error) => {
                    say(&format!("{path} stays as it is: {error}"));
                    None
                }
            }
        });
        Self(raised.collect())
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        for (path, before) in self.0.iter().rev() {
            let _ = fs::write(path, before);
        }
    }
}
