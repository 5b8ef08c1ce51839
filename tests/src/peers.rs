//! Other people's mDNS, started in a namespace: Avahi, python-zeroconf and hashicorp/mdns.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use crate::go;
use crate::netns::Machine;
use crate::program::Program;

/// The version of python-zeroconf the tests speak with.
const ZEROCONF: &str = "zeroconf==0.154.0";

/// python-zeroconf in `machine`; its commands are in `peers/zeroconf_peer.py`.
///
/// # Panics
///
/// When python-zeroconf cannot be installed.
pub fn zeroconf(machine: &Machine<'_>, scratch: &Path) -> Program {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/zeroconf_peer.py");
    let mut program = Program::start("zeroconf", machine.command(python(scratch)).arg(script));
    program.until("start", Duration::from_secs(20), |event| (event["event"] == "open").then_some(()));
    program
}

/// A service of type `_http._tcp` at `address`, announced in `machine` by hashicorp/mdns, which says no goodbye.
///
/// # Panics
///
/// When it cannot be built.
pub fn hashicorp(machine: &Machine<'_>, name: &str, address: &str, scratch: &Path) -> Program {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let built = BUILT.get_or_init(|| go::build("peers/hashicorp", scratch));
    let mut command = machine.command(built);
    command.args(["eth0", name, "_http._tcp", "80", address]);
    let mut program = Program::start("hashicorp/mdns", &mut command);
    program.until("start", Duration::from_secs(20), |event| (event["event"] == "open").then_some(()));
    program
}

/// A Python that has zeroconf, made once in `scratch`.
fn python(scratch: &Path) -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let home = scratch.join("peers-venv");
        let python = home.join("bin/python");
        let ready = home.join(ZEROCONF);
        if !ready.exists() {
            run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home));
            run(Command::new(&python).args(["-m", "pip", "install", "--quiet", ZEROCONF]));
            fs::write(&ready, "").unwrap_or_else(|error| panic!("{}: {error}", ready.display()));
        }
        python
    })
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A service that Avahi announces.
#[derive(Debug)]
pub struct AvahiService<'a> {
    /// The instance label.
    pub name: &'a str,
    /// The DNS-SD type.
    pub kind: &'a str,
    /// The port.
    pub port: u16,
    /// The TXT strings.
    pub txt: &'a [&'a str],
}

/// Avahi's daemon with configuration and state of its own; dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    _directory: tempfile::TempDir,
    child: Child,
}

impl Daemon {
    /// Starts it in `machine` without a message bus, announcing `services`; it is not waited for.
    ///
    /// # Panics
    ///
    /// When `avahi-daemon` is missing.
    pub fn start(machine: &Machine<'_>, services: &[AvahiService<'_>]) -> Self {
        Self::start_by(machine, services, "no", machine.command("unshare"))
    }

    fn start_by(
        machine: &Machine<'_>,
        services: &[AvahiService<'_>],
        dbus: &str,
        mut unshare: Command,
    ) -> Self {
        let directory = scratch();
        let config = format!(
            "[server]\nhost-name={}\nuse-ipv6=no\nenable-dbus={dbus}\n",
            machine.netns().replace('.', "-")
        );
        write(&directory, "avahi-daemon.conf", &config);
        let _ = fs::create_dir(directory.path().join("services"));
        for (number, service) in services.iter().enumerate() {
            write(&directory, &format!("services/{number}.service"), &service_file(service));
        }
        // Avahi's paths are fixed at its build; in a mount namespace of its own they can mean something else.
        let script = "mount --bind \"$1\" /etc/avahi && mount -t tmpfs tmpfs /run && exec avahi-daemon --no-drop-root --no-chroot --no-rlimits";
        let child = spawn(unshare.args(["--mount", "sh", "-c", script, "sh"]).arg(directory.path()));
        Self { _directory: directory, child }
    }

    /// The id of its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Avahi with a message bus of its own, so that `avahi-browse` works; dropping it ends both.
#[derive(Debug)]
pub struct Avahi<'a> {
    machine: &'a Machine<'a>,
    /// Before the bus: it ends first.
    daemon: Daemon,
    bus: Bus,
}

/// A message bus; dropping it kills it.
#[derive(Debug)]
struct Bus {
    socket: PathBuf,
    _directory: tempfile::TempDir,
    child: Child,
}

impl Bus {
    fn start(machine: &Machine<'_>) -> Self {
        let directory = scratch();
        let socket = directory.path().join("bus");
        let config = write(&directory, "bus.conf", &bus_config(&socket));
        let child = spawn(
            machine.command("dbus-daemon").arg("--nofork").arg(format!("--config-file={}", config.display())),
        );
        wait_for("the message bus", || socket.exists());
        Self { socket, _directory: directory, child }
    }

    /// `command` with this for its system bus.
    fn give(&self, mut command: Command) -> Command {
        command.env("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={}", self.socket.display()));
        command
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl<'a> Avahi<'a> {
    /// Starts Avahi in `machine`, announcing `services`.
    ///
    /// # Panics
    ///
    /// When `avahi-daemon` or `dbus-daemon` is missing or does not start.
    pub fn start(machine: &'a Machine<'a>, services: &[AvahiService<'_>]) -> Self {
        let bus = Bus::start(machine);
        let daemon = Daemon::start_by(machine, services, "yes", bus.give(machine.command("unshare")));
        let mut ask = bus.give(machine.command("avahi-browse"));
        ask.args(["-t", "_none._tcp"]);
        wait_for("avahi-daemon", || ask.output().is_ok_and(|output| output.status.success()));
        Self { machine, daemon, bus }
    }

    /// The id of the daemon's process.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// A command that tells in lines such as those of [`browse`](Self::browse) who comes (`=`) and goes (`-`), without
    /// an end.
    pub fn follow(&self, kind: &str) -> Command {
        let mut command = self.bus.give(self.machine.command("stdbuf"));
        command.args(["-oL", "avahi-browse", "-rp", kind]);
        command
    }

    /// What `avahi-browse` resolves of a type now, one line each:
    /// `=;interface;protocol;name;type;domain;host;address;port;"txt" "txt"…`, with strange characters as `\ddd`.
    ///
    /// # Panics
    ///
    /// When `avahi-browse` cannot be run.
    pub fn browse(&self, kind: &str) -> Vec<String> {
        let mut command = self.bus.give(self.machine.command("timeout"));
        let command = command.args(["5", "avahi-browse", "-rpt", kind]);
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let text = String::from_utf8_lossy(&output.stdout);
        text.split('\n').filter(|line| line.starts_with('=')).map(str::to_owned).collect()
    }
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().unwrap_or_else(|error| panic!("no temporary directory: {error}"))
}

fn write(directory: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = directory.path().join(name);
    fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path
}

fn spawn(command: &mut Command) -> Child {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// `key=value` as `avahi-browse` prints it: quoted, bytes outside printable ASCII as `\ddd`.
pub fn printed(txt: &str) -> String {
    let byte = |byte: u8| match byte {
        b' '..=b'~' => char::from(byte).to_string(),
        _ => format!("\\{byte:03}"),
    };
    let text: String = txt.bytes().map(byte).collect();
    format!("\"{text}\"")
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not start");
        thread::sleep(Duration::from_millis(20));
    }
}

fn bus_config(socket: &Path) -> String {
    format!(
        "<busconfig><type>system</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>\
         <policy context=\"default\"><allow own=\"*\"/><allow send_destination=\"*\"/><allow eavesdrop=\"true\"/>\
         <allow user=\"*\"/></policy></busconfig>",
        socket.display()
    )
}

fn service_file(service: &AvahiService<'_>) -> String {
    let AvahiService { name, kind, port, txt } = service;
    let txt: Vec<String> =
        txt.iter().map(|txt| format!("<txt-record>{}</txt-record>", escape(txt))).collect();
    let txt = txt.concat();
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><!DOCTYPE service-group SYSTEM \"avahi-service.dtd\">\
         <service-group><name>{}</name><service><type>{kind}</type><port>{port}</port>{txt}</service></service-group>",
        escape(name)
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('\n', "&#10;")
}
