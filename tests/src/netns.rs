//! Network namespaces: machines with nothing but the links a test gives them.
//!
//! Bridges live in a namespace of their own, and both ends of every cable are made inside, so that nothing touches the
//! machine's own network. All of it goes when its [`World`] is dropped, also by a panic; what a killed run left behind,
//! the next run removes.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, Once, PoisonError};

/// How the namespaces made here begin, followed by the process id.
const PREFIX: &str = "switchboard-";

/// A set of namespaces and bridges; dropping it removes them.
#[derive(Debug)]
pub struct World {
    name: String,
    made: Mutex<Vec<String>>,
}

impl World {
    /// A world without machines, with a bridge `br0`.
    ///
    /// # Panics
    ///
    /// When namespaces cannot be made: it takes root and `ip`.
    pub fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        static SWEEP: Once = Once::new();
        SWEEP.call_once(remove_stale);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let world = Self { name: format!("{PREFIX}{}-{number}", std::process::id()), made: Mutex::default() };
        world.add("hub");
        world.add_bridge("br0");
        world
    }

    /// Another bridge, for a second link.
    pub fn add_bridge(&self, bridge: &str) {
        // Snooping would hold back multicast that nobody has asked for yet.
        let hub = self.hub();
        ip(&format!("-n {hub} link add {bridge} type bridge mcast_snooping 0 forward_delay 0"));
        ip(&format!("-n {hub} link set {bridge} up"));
    }

    /// A machine without any interface up, not even loopback.
    pub fn bare(&self, name: &str) -> Machine<'_> {
        Machine { world: self, name: name.into(), netns: self.add(name) }
    }

    /// A machine with loopback, and `eth0` with `address` (such as `10.0.0.1/24`) on `br0`.
    pub fn machine(&self, name: &str, address: &str) -> Machine<'_> {
        let machine = self.bare(name);
        machine.loopback_up();
        machine.plug("eth0", "br0", address);
        machine
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    fn add(&self, name: &str) -> String {
        let netns = format!("{}-{name}", self.name);
        // Noted first: a failure half-way is cleaned up too.
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push(netns.clone());
        ip(&format!("netns add {netns}"));
        netns
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        remove(self.made.lock().unwrap_or_else(PoisonError::into_inner).iter());
    }
}

/// One namespace.
#[derive(Debug)]
pub struct Machine<'a> {
    world: &'a World,
    name: String,
    netns: String,
}

impl Machine<'_> {
    /// The name of the namespace, as `ip netns exec` takes it.
    pub fn netns(&self) -> &str {
        &self.netns
    }

    /// A command that runs `program` here. Its process is the program itself, and is killed if the calling thread ends.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "ip", "netns", "exec", &self.netns]).arg(program.as_ref());
        command
    }

    /// Brings loopback up.
    pub fn loopback_up(&self) {
        self.ip("link set lo up");
    }

    /// Puts a cable between a new interface and a bridge.
    pub fn plug(&self, interface: &str, bridge: &str, address: &str) {
        let (netns, hub, port) = (&self.netns, self.world.hub(), self.port(interface));
        ip(&format!("link add {interface} netns {netns} type veth peer name {port} netns {hub}"));
        ip(&format!("-n {hub} link set {port} master {bridge} up"));
        // Addresses of IPv6 are usable at once, without two seconds of duplicate detection.
        self.sysctl(&format!("net.ipv6.conf.{interface}.accept_dad=0"));
        self.ip(&format!("address add {address} dev {interface}"));
        self.ip(&format!("link set {interface} up"));
    }

    /// Cuts the cable of `interface` somewhere on its way: the interface itself sees no difference.
    pub fn cut(&self, interface: &str) {
        ip(&format!("-n {} link set {} nomaster", self.world.hub(), self.port(interface)));
    }

    /// Mends what [`cut`](Self::cut) cut.
    pub fn heal(&self, interface: &str, bridge: &str) {
        ip(&format!("-n {} link set {} master {bridge}", self.world.hub(), self.port(interface)));
    }

    /// Runs an `ip` command here: `address add 10.0.0.2/24 dev eth0`.
    pub fn ip(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.netns));
    }

    /// Sets a kernel parameter here: `net.ipv6.conf.eth0.disable_ipv6=1`.
    pub fn sysctl(&self, setting: &str) {
        run(Command::new("ip").args(["netns", "exec", &self.netns, "sysctl", "-q", "-w", setting]));
    }

    fn port(&self, interface: &str) -> String {
        format!("{}-{interface}", self.name)
    }
}

fn ip(arguments: &str) {
    run(Command::new("ip").args(arguments.split(' ')));
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {error}(namespaces need root)", output.status);
}

/// Best effort: the next run sweeps again.
fn remove<'a>(names: impl IntoIterator<Item = &'a String>) {
    let lines: Vec<String> = names.into_iter().map(|netns| format!("netns del {netns}\n")).collect();
    let ip = Command::new("ip")
        .args(["-force", "-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    if let Ok(mut ip) = ip {
        // Its end is the end of input.
        let _ = ip.stdin.take().map(|mut stdin| stdin.write_all(lines.concat().as_bytes()));
        let _ = ip.wait();
    }
}

/// Removes what runs that no longer live have left.
pub fn remove_stale() {
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let stale: Vec<String> = names
        .filter(|name| {
            // The process id is all there is after it in the name of xtask's.
            let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
            pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
        })
        .collect();
    remove(&stale);
}
