//! Who holds a UDP port, as far as `/proc` says.

use std::collections::BTreeSet;
use std::fs;

/// The programs that have UDP port `port` open, such as `avahi-daemon (pid 312)`; `None` if the system does not tell.
pub(crate) fn holders(port: u16) -> Option<String> {
    let inodes: BTreeSet<String> = ["/proc/net/udp", "/proc/net/udp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| table.lines().filter_map(|line| inode(line, port)).collect::<Vec<_>>())
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        if pid != std::process::id() && has_open(pid, &inodes) {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            found.insert(format!("{} (pid {pid})", name.trim()));
        }
    }
    (!found.is_empty()).then(|| found.into_iter().collect::<Vec<_>>().join(", "))
}

/// The inode of a line of `/proc/net/udp` that is about `port`.
fn inode(line: &str, port: u16) -> Option<String> {
    let mut fields = line.split_whitespace();
    let (_, local) = fields.nth(1)?.rsplit_once(':')?;
    let inode = fields.nth(7)?;
    (u16::from_str_radix(local, 16) == Ok(port)).then(|| inode.to_owned())
}

fn has_open(pid: u32, inodes: &BTreeSet<String>) -> bool {
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    open.flatten().any(|file| {
        fs::read_link(file.path()).is_ok_and(|target| inodes.contains(&*target.to_string_lossy()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_sockets_are_found_in_the_table() {
        let line = " 1234: 0100007F:14E9 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 98765 2 ffff 0";
        assert_eq!(inode(line, 5353).as_deref(), Some("98765"));
        assert_eq!(inode(line, 5354), None);
        assert_eq!(inode("  sl  local_address rem_address", 5353), None);
    }
}
