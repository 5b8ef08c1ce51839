//! Who is put to the test: Switchboard's command, or Avahi's daemon and tools.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use switchboard_tests::netns::Machine;
use switchboard_tests::peers::{Avahi, AvahiService, Daemon};
use switchboard_tests::program::{Event, Program};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Stack {
    Switchboard,
    Avahi,
}

impl Stack {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Switchboard => "Switchboard",
            Self::Avahi => "Avahi",
        }
    }

    /// The DNS-SD type its instances are announced under.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Switchboard => "_switchboard._tcp",
            Self::Avahi => "_lab._tcp",
        }
    }
}

/// A machine's one instance, as long as this lives.
pub(crate) struct Host {
    child: Option<Child>,
    daemon: Option<Daemon>,
}

impl Host {
    /// An instance `id` at `address`; it is not waited for.
    pub(crate) fn start(stack: Stack, machine: &Machine<'_>, id: &str, address: &str) -> Self {
        match stack {
            Stack::Switchboard => {
                let mut command = switchboard(machine);
                let command = command.args(["register", "lab", &format!("{address}:80"), "--id", id]);
                let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
                Self { child: Some(child), daemon: None }
            }
            Stack::Avahi => {
                let service = AvahiService { name: id, kind: stack.kind(), port: 80, txt: &[] };
                Self { child: None, daemon: Some(Daemon::start(machine, &[service])) }
            }
        }
    }

    /// Asks it to leave in order.
    pub(crate) fn leave(&self) {
        let daemon = self.daemon.as_ref().map(Daemon::pid);
        let pid = self.child.as_ref().map(Child::id).or(daemon).and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What one look saw.
pub(crate) struct Look {
    /// So many of the lab's instances.
    pub(crate) seen: usize,
    /// Whether it said itself that it may be a part; Avahi's never do.
    pub(crate) said_part: bool,
    pub(crate) took: Duration,
}

/// Somebody who looks: a machine with all it needs to.
pub(crate) struct Looker<'a> {
    machine: &'a Machine<'a>,
    /// For Avahi: the daemon and the bus that its tools need.
    avahi: Option<Avahi<'a>>,
}

impl<'a> Looker<'a> {
    pub(crate) fn new(stack: Stack, machine: &'a Machine<'a>) -> Self {
        let avahi = (stack == Stack::Avahi).then(|| Avahi::start(machine, &[]));
        Self { machine, avahi }
    }

    /// Looks once.
    pub(crate) fn look(&self) -> Look {
        let begun = Instant::now();
        let mut said_part = false;
        let ids: BTreeSet<String> = if let Some(avahi) = &self.avahi {
            let lines = avahi.browse(Stack::Avahi.kind());
            lines.iter().filter_map(|line| Some(line.split(';').nth(3)?.to_owned())).collect()
        } else {
            let output = switchboard(self.machine).args(["--json", "instances", "lab"]).output();
            let (text, said) = output.map(|output| (output.stdout, output.stderr)).unwrap_or_default();
            said_part = String::from_utf8_lossy(&said).contains("may have more");
            let found: Value = serde_json::from_slice(&text).unwrap_or_default();
            let found = found.as_array().map(Vec::as_slice).unwrap_or_default();
            found.iter().filter_map(|instance| Some(instance["id"].as_str()?.to_owned())).collect()
        };
        Look { seen: ids.iter().filter(|id| is_ours(id)).count(), said_part, took: begun.elapsed() }
    }

    /// Follows what comes and goes from now on.
    pub(crate) fn follow(&self) -> Follower {
        let mut command = if let Some(avahi) = &self.avahi {
            avahi.follow(Stack::Avahi.kind())
        } else {
            let mut command = switchboard(self.machine);
            command.args(["--json", "watch", "lab"]);
            command
        };
        let program = Program::start(self.machine.netns(), command.stderr(Stdio::null()));
        Follower { program, read: 0, present: BTreeSet::new(), removed: Vec::new(), last: Instant::now() }
    }
}

/// What one reader was told, in order.
pub(crate) struct Follower {
    program: Program,
    read: usize,
    pub(crate) present: BTreeSet<String>,
    /// Who left, and when.
    pub(crate) removed: Vec<(String, Instant)>,
    /// When it was told something the last time.
    last: Instant,
}

impl Follower {
    /// Waits until `done` holds of those present, and gives the moment; `None` after `limit`.
    pub(crate) fn until(
        &mut self,
        limit: Duration,
        done: impl Fn(&BTreeSet<String>) -> bool,
    ) -> Option<Instant> {
        let deadline = Instant::now() + limit;
        self.catch_up(&|_| false);
        if done(&self.present) {
            return Some(self.last);
        }
        while Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
            if let Some(at) = self.catch_up(&done) {
                return Some(at);
            }
        }
        None
    }

    /// Reads what there is; the moment at which `done` first held.
    pub(crate) fn catch_up(&mut self, done: &impl Fn(&BTreeSet<String>) -> bool) -> Option<Instant> {
        let mut at = None;
        let news: Vec<Event> = self.program.log().iter().skip(self.read).cloned().collect();
        self.read += news.len();
        for event in news {
            match change(&event.value) {
                Some((id, true)) if self.present.insert(id.clone()) => self.last = event.at,
                Some((id, false)) if self.present.remove(&id) => {
                    self.last = event.at;
                    self.removed.push((id, event.at));
                }
                _ => {}
            }
            if at.is_none() && done(&self.present) {
                at = Some(event.at);
            }
        }
        at
    }

    /// The id of the reading process.
    pub(crate) fn pid(&self) -> u32 {
        self.program.pid()
    }
}

/// Who came or left, as `switchboard --json watch` or `avahi-browse -rp` tell it.
fn change(line: &Value) -> Option<(String, bool)> {
    let (id, present) = match line {
        Value::String(line) => {
            let mut fields = line.split(';');
            let present = match fields.next()? {
                "=" => true,
                "-" => false,
                _ => return None,
            };
            (fields.nth(2)?, present)
        }
        line => (line["id"].as_str()?, line["change"] != "removed"),
    };
    is_ours(id).then(|| (id.to_owned(), present))
}

/// Not one that the hostile machine made up.
fn is_ours(id: &str) -> bool {
    id.strip_prefix('h').is_some_and(|number| number.parse::<u32>().is_ok())
}

fn switchboard(machine: &Machine<'_>) -> Command {
    let beside = std::env::current_exe().unwrap_or_default().with_file_name("switchboard");
    machine.command(beside)
}
