//! The scenarios, and what is measured in each.

use std::thread;
use std::time::{Duration, Instant};

use switchboard_tests::netns::{Machine, World};
use switchboard_tests::program::Program;

use crate::stack::{Follower, Host, Look, Looker, Stack};

/// Machines with an instance each, but for the storm.
const HOSTS: usize = 12;

/// Machines that start together in the storm.
const STORM: usize = 200;

/// As long as anything but the lapse of a TTL is waited for.
const LIMIT: Duration = Duration::from_secs(30);

const LOOKS: usize = 10;

pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) run: fn(Stack, &Scenario) -> Row,
    /// LOSS DUPLICATES DELAY JITTER of the link.
    faults: &'static str,
    /// How many hosts it has.
    hosts: usize,
    /// Whether it needs the machine for itself.
    pub(crate) alone: bool,
}

const fn bad_link(name: &'static str, faults: &'static str) -> Scenario {
    Scenario { name, run: bad, faults, hosts: HOSTS, alone: false }
}

const fn event(name: &'static str, run: fn(Stack, &Scenario) -> Row) -> Scenario {
    Scenario { name, run, faults: "0 0 0 0", hosts: HOSTS, alone: false }
}

pub(crate) const SCENARIOS: &[Scenario] = &[
    bad_link("calm", "0 0 0 0"),
    bad_link("loss-1", "1 0 0 0"),
    bad_link("loss-10", "10 0 0 0"),
    bad_link("loss-30", "30 0 0 0"),
    bad_link("delay", "0 0 100 50"),
    bad_link("duplicates", "0 50 0 0"),
    event("partition-30", |stack, scenario| partition(stack, scenario, 30)),
    event("partition-150", |stack, scenario| partition(stack, scenario, 150)),
    event("reader-down", |stack, scenario| down(stack, scenario, true)),
    event("host-down", |stack, scenario| down(stack, scenario, false)),
    event("flood", flood),
    event("forged-goodbyes", forged),
    // On two cores 200 of anything are slow; a quarter of it says how it grows.
    Scenario { name: "storm-50", run: storm, faults: "0 0 0 0", hosts: STORM / 4, alone: true },
    Scenario { name: "storm-200", run: storm, faults: "0 0 0 0", hosts: STORM, alone: true },
];

/// What came of a scenario; what it does not have stays empty.
#[derive(Default)]
pub(crate) struct Row {
    joined: String,
    late: String,
    looks: String,
    wrong: Option<usize>,
    after: String,
    joining: Option<f64>,
    resting: Option<f64>,
}

impl Row {
    pub(crate) const HEADER: &str = "\
| scenario | who | whole after joining | whole for a late reader | whole looks, those told as parts, median | wrong removals | afterwards | packets/s, first 10 s | packets/s, then |
|---|---|---|---|---|---|---|---|---|";

    pub(crate) fn line(&self, scenario: &str, stack: Stack) -> String {
        let number = |number: Option<f64>| number.map_or_else(String::new, |number| format!("{number:.1}"));
        format!(
            "| {scenario} | {} | {} | {} | {} | {} | {} | {} | {} |",
            stack.name(),
            self.joined,
            self.late,
            self.looks,
            self.wrong.map_or_else(String::new, |wrong| wrong.to_string()),
            self.after,
            number(self.joining),
            number(self.resting),
        )
    }
}

/// A link with machines on it.
struct Link<'a> {
    world: &'a World,
    program: Program,
}

impl<'a> Link<'a> {
    fn new(world: &'a World, faults: &str) -> Self {
        // Where TAP devices are made, out of sight of the machine's own network.
        let machine = world.bare("link");
        let own = std::env::current_exe().unwrap_or_default();
        let mut link = Self { world, program: Program::start("link", machine.command(own).arg("link")) };
        link.tell(&format!("faults {faults}"));
        link
    }

    fn tell(&mut self, command: &str) -> serde_json::Value {
        let verb = command.split(' ').next().unwrap_or_default();
        self.program.tell(command);
        self.program.until(command, LIMIT, |answer| (answer["event"] == verb).then(|| answer.clone())).0
    }

    fn packets(&mut self) -> f64 {
        self.tell("count")["packets"].as_f64().unwrap_or_default()
    }

    /// A machine with this name and address.
    fn machine(&mut self, name: &str, address: &str) -> Machine<'a> {
        let machine = self.world.bare(name);
        machine.loopback_up();
        self.tell(&format!("port {name} {}", machine.netns()));
        machine.sysctl("net.ipv6.conf.eth0.disable_ipv6=1");
        machine.ip(&format!("address add {address}/16 dev eth0"));
        machine.ip("link set eth0 up");
        machine.ip("route add 224.0.0.0/4 dev eth0");
        machine
    }

    fn hosts(&mut self, count: usize) -> Vec<Machine<'a>> {
        (1..=count).map(|number| self.machine(&format!("h{number}"), &address(number))).collect()
    }
}

fn address(number: usize) -> String {
    format!("10.0.{}.{}", number / 200, 1 + number % 200)
}

fn start(stack: Stack, machines: &[Machine<'_>]) -> Vec<Host> {
    let hosts = (1..).zip(machines);
    hosts
        .map(|(number, machine)| Host::start(stack, machine, &format!("h{number}"), &address(number)))
        .collect()
}

/// `12/12 in 1.20 s`, or how many there were at the end.
fn whole(reader: &mut Follower, since: Instant, count: usize, limit: Duration) -> String {
    match reader.until(limit, |present| present.len() == count) {
        Some(at) => format!("{count}/{count} in {}", seconds(since, at)),
        None => format!("{}/{count} in {} s", reader.present.len(), limit.as_secs()),
    }
}

fn seconds(from: Instant, to: Instant) -> String {
    format!("{:.2} s", to.saturating_duration_since(from).as_secs_f64())
}

/// How many were told gone since `from`, whoever they were.
fn removals(reader: &mut Follower) -> usize {
    reader.catch_up(&|_| false);
    reader.removed.len()
}

fn hold() -> Duration {
    let given = std::env::var("SWITCHBOARD_LAB_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(given.unwrap_or(150))
}

/// A link on which all hosts have started, and a reader that was there before them.
struct Scene<'a, 'w> {
    link: &'a mut Link<'w>,
    reader: &'a mut Follower,
    /// Those of the hosts, and the reader's.
    machines: &'a [Machine<'w>],
    hosts: &'a [Host],
    /// How long it took to start the hosts.
    started: Duration,
    row: &'a mut Row,
}

/// Has the hosts join, within `limit`, and then goes on.
fn joined(stack: Stack, scenario: &Scenario, limit: Duration, then: impl FnOnce(Scene<'_, '_>)) -> Row {
    let mut row = Row::default();
    let world = World::new();
    let mut link = Link::new(&world, scenario.faults);
    let mut machines = link.hosts(scenario.hosts);
    machines.push(link.machine("reader", "10.0.9.1"));
    let looker = Looker::new(stack, &machines[scenario.hosts]);
    let mut reader = looker.follow();
    thread::sleep(Duration::from_secs(2));
    let (begun, before) = (Instant::now(), link.packets());
    let hosts = start(stack, &machines[..scenario.hosts]);
    let started = begun.elapsed();
    row.joined = whole(&mut reader, begun, scenario.hosts, limit);
    thread::sleep(Duration::from_secs(10).saturating_sub(begun.elapsed()));
    row.joining = Some((link.packets() - before) / begun.elapsed().as_secs_f64());
    then(Scene {
        link: &mut link,
        reader: &mut reader,
        machines: &machines,
        hosts: &hosts,
        started,
        row: &mut row,
    });
    row
}

/// Hosts that join and leave over a link that is bad all the time.
fn bad(stack: Stack, scenario: &Scenario) -> Row {
    joined(stack, scenario, LIMIT, |Scene { link, reader, hosts, row, .. }| {
        // The reader must have seen all before anything of it can be a wrong removal.
        let late = link.machine("late", "10.0.9.2");
        let looker = Looker::new(stack, &late);
        let asked = Instant::now();
        let mut second = looker.follow();
        row.late = whole(&mut second, asked, scenario.hosts, LIMIT);

        let third = link.machine("looker", "10.0.9.3");
        let looker = Looker::new(stack, &third);
        let mut looks: Vec<Look> = (0..LOOKS)
            .map(|_| {
                // Past the second in which nobody may answer again.
                thread::sleep(Duration::from_secs(2));
                looker.look()
            })
            .collect();
        looks.sort_unstable_by_key(|look| look.took);
        let (whole, parts): (Vec<_>, Vec<_>) = looks.iter().partition(|look| look.seen == scenario.hosts);
        let said = parts.iter().filter(|look| look.said_part).count();
        let least = parts.iter().map(|look| look.seen).min();
        let least = least.map_or_else(String::new, |least| format!(", least {least}"));
        row.looks = format!(
            "{}/{LOOKS}, {said} said to be a part{least}, {:.2} s",
            whole.len(),
            looks[LOOKS / 2].took.as_secs_f64()
        );

        let (begun, before) = (Instant::now(), link.packets());
        thread::sleep(hold());
        row.resting = Some((link.packets() - before) / begun.elapsed().as_secs_f64());
        row.wrong = Some(removals(reader) + removals(&mut second));

        let half = scenario.hosts / 2;
        let leaving = Instant::now();
        hosts[..half].iter().for_each(Host::leave);
        let gone = |present: &std::collections::BTreeSet<String>| {
            (1..=half).all(|number| !present.contains(&format!("h{number}")))
        };
        row.after = if let Some(at) = reader.until(LIMIT, gone) {
            format!("{half}/{half} that left gone in {}", seconds(leaving, at))
        } else {
            let stay = (1..=half).filter(|number| reader.present.contains(&format!("h{number}"))).count();
            format!("{}/{half} that left gone in {} s", half - stay, LIMIT.as_secs())
        };
    })
}

/// Half of the hosts are cut off from the reader and the other half, and come back.
fn partition(stack: Stack, scenario: &Scenario, seconds_long: u64) -> Row {
    calm(stack, scenario, |link, reader, _, row| {
        let half = scenario.hosts / 2;
        let far = |number: usize| number <= half;
        for number in (1..=scenario.hosts).filter(|&number| far(number)) {
            link.tell(&format!("side h{number} 1"));
        }
        let cut = Instant::now();
        thread::sleep(Duration::from_secs(seconds_long));
        let before = removals(reader);
        let lost: Vec<_> = reader.removed.iter().map(|(id, at)| (id.clone(), *at)).collect();
        let is_far = |id: &str| id[1..].parse().is_ok_and(far);
        let long = seconds_long > 120;
        row.wrong = Some(lost.iter().filter(|(id, _)| !long || !is_far(id)).count());
        for number in (1..=scenario.hosts).filter(|&number| far(number)) {
            link.tell(&format!("side h{number} 0"));
        }
        let healed = Instant::now();
        let last = lost
            .iter()
            .map(|(_, at)| *at)
            .max()
            .map_or_else(String::new, |at| format!(", the last after {}", seconds(cut, at)));
        let back = whole(reader, healed, scenario.hosts, LIMIT * 4);
        row.after = format!("{before} gone while cut{last}; healed: {back}");
    })
}

/// An interface goes down for ten seconds: the reader's, or that of one host.
fn down(stack: Stack, scenario: &Scenario, of_reader: bool) -> Row {
    calm(stack, scenario, |_, reader, machines, row| {
        let machine = if of_reader { &machines[scenario.hosts] } else { &machines[0] };
        machine.ip("link set eth0 down");
        let down = Instant::now();
        thread::sleep(Duration::from_secs(10));
        let gone = removals(reader);
        let first = reader
            .removed
            .first()
            .map_or_else(String::new, |(_, at)| format!(", the first after {}", seconds(down, *at)));
        machine.ip("link set eth0 up");
        machine.ip("route add 224.0.0.0/4 dev eth0");
        let up = Instant::now();
        let back = whole(reader, up, scenario.hosts, LIMIT * 4);
        row.wrong = Some(gone);
        row.after = format!("{gone} gone while down{first}; up: {back}");
        if !of_reader {
            thread::sleep(Duration::from_secs(5));
            row.wrong = Some(removals(reader));
        }
    })
}

/// 20,000 hostile packets in ten seconds; a host joins in the middle.
fn flood(stack: Stack, scenario: &Scenario) -> Row {
    calm(stack, scenario, |link, reader, _, row| {
        let hostile = link.machine("hostile", "10.0.9.9");
        let joining = link.machine("h13", &address(13));
        let own = std::env::current_exe().unwrap_or_default();
        let mut flood = hostile.command(own).args(["flood", stack.kind(), "20000", "2000"]).spawn().ok();
        let cpu = cpu(reader.pid());
        thread::sleep(Duration::from_secs(3));
        let begun = Instant::now();
        let _host = Host::start(stack, &joining, "h13", &address(13));
        let seen = whole(reader, begun, scenario.hosts + 1, LIMIT);
        flood.as_mut().map(std::process::Child::wait);
        thread::sleep(Duration::from_secs(5));
        row.wrong = Some(removals(reader));
        let used = self::cpu(reader.pid()) - cpu;
        row.after = format!(
            "one joins meanwhile: {seen}; the reading process has {} MiB, used {used:.1} s of CPU",
            memory(reader.pid()) / 1024
        );
    })
}

/// Somebody takes leave in the name of every host.
fn forged(stack: Stack, scenario: &Scenario) -> Row {
    calm(stack, scenario, |link, reader, _, row| {
        let hostile = link.machine("hostile", "10.0.9.9");
        let own = std::env::current_exe().unwrap_or_default();
        let forged = Instant::now();
        let mut forge = hostile.command(own);
        let _ = forge.args(["forge", stack.kind(), &scenario.hosts.to_string()]).status();
        thread::sleep(Duration::from_secs(3));
        let gone = removals(reader);
        let back = whole(reader, forged, scenario.hosts, LIMIT * 4);
        row.wrong = Some(removals(reader));
        row.after = format!("{gone} gone by it; {back}");
    })
}

/// Many hosts at the same time.
fn storm(stack: Stack, scenario: &Scenario) -> Row {
    joined(stack, scenario, LIMIT * 4, |Scene { link, reader, started, row, .. }| {
        thread::sleep(Duration::from_secs(10));
        let (begun, before) = (Instant::now(), link.packets());
        thread::sleep(Duration::from_secs(30));
        row.resting = Some((link.packets() - before) / begun.elapsed().as_secs_f64());
        let late = link.machine("late", "10.0.9.2");
        let looker = Looker::new(stack, &late);
        let asked = Instant::now();
        row.late = whole(&mut looker.follow(), asked, scenario.hosts, LIMIT);
        row.wrong = Some(removals(reader));
        row.after = format!("all processes started within {:.1} s", started.as_secs_f64());
    })
}

/// Something happens on a link that is whole.
fn calm(
    stack: Stack,
    scenario: &Scenario,
    happen: impl FnOnce(&mut Link<'_>, &mut Follower, &[Machine<'_>], &mut Row),
) -> Row {
    joined(stack, scenario, LIMIT, |Scene { link, reader, machines, row, .. }| {
        let (begun, before) = (Instant::now(), link.packets());
        reader.removed.clear();
        happen(link, reader, machines, row);
        row.resting = Some((link.packets() - before) / begun.elapsed().as_secs_f64());
    })
}

/// The memory of a process, in KiB.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// What it has used of CPU, in seconds.
#[expect(clippy::cast_precision_loss, reason = "a figure to look at")]
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() as f64 / 100.0
}
