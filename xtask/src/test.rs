//! `cargo xtask test`: every test there is, and a count of what ran and what did not.

use std::cell::RefCell;
use std::process::Command;
use std::thread;

use crate::command::{command, execute, finish, follow};
use crate::need::{Need, consul_current, kube_apiserver};
use crate::netns::{Namespace, isolated};
use crate::wine::Wine;

/// Tests that need something beyond Rust; they are marked `#[ignore = "needs …"]`.
struct Group {
    what: &'static str,
    /// The arguments for cargo that choose them in the workspace; built once, with all features, for all groups.
    choose: &'static str,
    /// The arguments for the test harness that choose among those.
    filter: &'static str,
    needs: &'static [Need],
    /// Whether they must run outside of a namespace: they make their own, or fetch something.
    outside: bool,
    /// Whether it waits most of its time, and so runs beside the others.
    beside: bool,
}

const CARGO_TEST: &str = "cargo test --offline --workspace --all-features";

const GROUPS: [Group; 31] = [
    Group {
        what: "mDNS between machines (network namespaces)",
        choose: "--test namespaces",
        filter: "--skip avahi --skip zeroconf --skip hashicorp --test-threads 16",
        needs: &[Need::Namespaces],
        outside: true,
        beside: true,
    },
    Group {
        what: "Avahi as a peer",
        choose: "--test namespaces",
        filter: "avahi",
        needs: &[Need::Namespaces, Need::Avahi],
        outside: true,
        beside: false,
    },
    Group {
        what: "python-zeroconf as a peer",
        choose: "--test namespaces",
        filter: "zeroconf",
        needs: &[Need::Namespaces, Need::Python],
        outside: true,
        beside: false,
    },
    Group {
        what: "hashicorp/mdns as a peer",
        choose: "--test namespaces",
        filter: "hashicorp",
        needs: &[Need::Namespaces, Need::Go],
        outside: true,
        beside: false,
    },
    Group {
        what: "Consul, with a real agent",
        choose: "--test it --test wiped",
        filter: "--skip interop",
        needs: &[Need::Consul],
        outside: false,
        beside: false,
    },
    Group {
        what: "Consul of today, with a real agent",
        choose: "--test it --test wiped",
        filter: "--skip interop",
        needs: &[Need::ConsulCurrent],
        outside: false,
        beside: false,
    },
    Group {
        what: "Consul's clusters failing",
        choose: "--test clusters",
        filter: "",
        needs: &[Need::Consul],
        outside: true,
        beside: true,
    },
    Group {
        what: "Consul's clusters failing, of today",
        choose: "--test clusters",
        filter: "",
        needs: &[Need::ConsulCurrent],
        outside: true,
        beside: true,
    },
    Group {
        what: "several registries as one, on real Consul agents",
        choose: "--test composed",
        filter: "--skip migration",
        needs: &[Need::Consul],
        outside: true,
        beside: true,
    },
    Group {
        what: "a migration from Consul to etcd",
        choose: "--test composed",
        filter: "migration",
        needs: &[Need::Consul, Need::Etcd],
        outside: true,
        beside: true,
    },
    Group {
        what: "DNS, with real name servers",
        choose: "--test dns",
        filter: "real::",
        needs: &[Need::Dnsmasq, Need::Bind],
        outside: false,
        beside: false,
    },
    Group {
        what: "DNS, as Consul serves it",
        choose: "--test platforms",
        filter: "",
        needs: &[Need::Consul],
        outside: false,
        beside: false,
    },
    Group {
        what: "DNS, as Consul of today serves it",
        choose: "--test platforms",
        filter: "",
        needs: &[Need::ConsulCurrent],
        outside: false,
        beside: false,
    },
    Group {
        what: "the command line, on DNS as Compose serves it",
        choose: "--test cli",
        filter: "readable::",
        needs: &[Need::Namespaces, Need::Dnsmasq],
        outside: true,
        beside: false,
    },
    Group {
        what: "go-micro, with a real program of its",
        choose: "--test it",
        filter: "interop",
        needs: &[Need::Consul, Need::Go],
        outside: true,
        beside: false,
    },
    Group {
        what: "etcd, with a real one",
        choose: "--test etcd",
        filter: "--skip interop --skip cut_off::",
        needs: &[Need::Etcd],
        outside: false,
        beside: false,
    },
    Group {
        what: "etcd, and a client whose link to it is down (network namespaces)",
        choose: "--test etcd",
        filter: "cut_off::",
        needs: &[Need::Etcd, Need::Namespaces],
        outside: true,
        beside: true,
    },
    Group {
        what: "go-micro and gRPC on etcd, with real programs of theirs",
        choose: "--test etcd",
        filter: "interop",
        needs: &[Need::Etcd, Need::Go],
        outside: true,
        beside: false,
    },
    Group {
        what: "Kubernetes, with a real API server",
        choose: "--test kubernetes",
        filter: "--skip balance:: --skip in_cluster::",
        needs: &[Need::Kubernetes],
        outside: false,
        beside: false,
    },
    Group {
        what: "Kubernetes, calls over pods and over connections, and a pod's own files (namespaces of their own)",
        choose: "--test kubernetes",
        filter: "balance:: in_cluster::",
        needs: &[Need::Kubernetes, Need::Namespaces],
        outside: true,
        beside: false,
    },
    Group {
        what: "the command line, on a real API server of Kubernetes",
        choose: "--test cli",
        filter: "kubernetes::",
        needs: &[Need::Kubernetes],
        outside: false,
        beside: false,
    },
    Group {
        what: "the command line, on a real Consul agent",
        choose: "--test cli",
        filter: "consul:: serve:: operate:: proxy:: render::",
        needs: &[Need::Consul],
        outside: false,
        beside: false,
    },
    Group {
        what: "the command line, on a real Consul agent of today",
        choose: "--test cli",
        filter: "consul:: serve:: operate:: proxy:: render::",
        needs: &[Need::ConsulCurrent],
        outside: false,
        beside: false,
    },
    Group {
        what: "the command line, on a real etcd",
        choose: "--test cli",
        filter: "etcd::",
        needs: &[Need::Etcd],
        outside: false,
        beside: false,
    },
    Group {
        what: "the command line's templates, in nginx and HAProxy",
        choose: "--test cli",
        filter: "balancers::",
        needs: &[Need::Nginx, Need::Haproxy],
        outside: false,
        beside: false,
    },
    Group {
        what: "the command line's doctor in broken networks",
        choose: "--test cli",
        filter: "doctor::",
        needs: &[Need::Namespaces, Need::Nft],
        outside: true,
        beside: false,
    },
    Group {
        what: "the command line's completion in bash, zsh and fish",
        choose: "--test cli",
        filter: "complete::",
        needs: &[Need::Tmux, Need::Shells],
        outside: false,
        beside: false,
    },
    Group {
        what: "the command line's full screen in a real terminal",
        choose: "--test cli",
        filter: "top:: terminal::",
        needs: &[Need::Consul, Need::Tmux],
        outside: false,
        beside: false,
    },
    Group {
        what: "the command line's page in a real browser",
        choose: "--bin switchboard",
        filter: "serve::tests::page:: --skip axe",
        needs: &[Need::Chromium],
        outside: false,
        beside: false,
    },
    Group {
        what: "the command line's targets for Prometheus",
        choose: "--test cli",
        filter: "prometheus::",
        needs: &[Need::Prometheus],
        outside: false,
        beside: false,
    },
    Group {
        what: "axe, on the command line's page",
        choose: "--bin switchboard",
        filter: "serve::tests::page::axe",
        needs: &[Need::Chromium, Need::Npm],
        outside: true,
        beside: false,
    },
];

pub(crate) fn run() -> Result<(), String> {
    let count = run_all()?;
    println!();
    if count.left_out.is_empty() {
        println!("Nothing was left out.");
    }
    for left_out in &count.left_out {
        println!("Left out: {left_out}");
    }
    println!("total: {} passed, {} failed", count.passed, count.failed);
    if count.failures.is_empty() {
        return Ok(());
    }
    // Once more at the end: a long log is often kept, and read, by its end.
    for failure in &count.failures {
        println!("\n{failure}");
    }
    Err("there are failures".into())
}

/// The simulation with as many seeds as wanted.
pub(crate) fn simulate(seeds: Option<&str>) -> Result<(), String> {
    let seeds: u32 = seeds.unwrap_or("200").parse().map_err(|_| "N is a whole number of seeds")?;
    let line = "cargo test --release -p switchboard-tests --test simulation";
    finish(line, command(line).env("SWITCHBOARD_SEEDS", seeds.to_string()))
}

fn run_all() -> Result<Count, String> {
    let namespace = Namespace::new();
    if namespace.is_none() {
        println!(
            "No network namespace (that takes Linux, root and iproute2): the mDNS tests run on loopback."
        );
    }
    let mut count = Count::default();
    // Built first, with the network that a namespace does not have.
    execute("cargo test --workspace --all-features --no-run")?;
    let line = format!("{CARGO_TEST} --no-fail-fast");
    count.add(&line, isolated(namespace.as_ref(), &line), &show)?;
    let mut ready = Vec::new();
    for group in &GROUPS {
        let missing: Vec<String> = group.needs.iter().filter_map(|need| need.provide().err()).collect();
        if missing.is_empty() {
            ready.push(group);
        } else {
            count.left_out.push(format!("{}: {}", group.what, missing.join("; ")));
        }
    }
    let wine = Wine::get();
    match &wine {
        Ok(wine) => wine.build()?,
        Err(why) => count.left_out.push(format!("{}: {why}", Wine::WHAT)),
    }
    let wine = wine.ok().map(|wine| wine.tests(namespace.as_ref()));
    let (beside, ready): (Vec<&Group>, Vec<&Group>) = ready.into_iter().partition(|group| group.beside);
    thread::scope(|scope| {
        let mut running: Vec<_> = beside
            .iter()
            .map(|group| scope.spawn(|| silently(&group.line(), group.command(None)?)))
            .collect();
        running.extend(wine.map(|(line, command)| scope.spawn(move || silently(&line, command))));
        for group in ready {
            count.add(&group.line(), group.command(namespace.as_ref())?, &show)?;
        }
        for running in running {
            let (other, said) = running.join().map_err(|_| "a thread that runs tests has panicked")??;
            show(&said.join("\n"));
            count.plus(other);
        }
        Ok(count)
    })
}

fn show(line: &str) {
    println!("{line}");
}

impl Group {
    fn line(&self) -> String {
        format!("{CARGO_TEST} {} -- --ignored {}", self.choose, self.filter)
    }

    fn command(&self, namespace: Option<&Namespace>) -> Result<Command, String> {
        let mut command = isolated(namespace.filter(|_| !self.outside), &self.line());
        if self.needs.contains(&Need::ConsulCurrent) {
            command.env("CONSUL_BIN", consul_current()?);
        }
        if self.needs.contains(&Need::Kubernetes) {
            command.env("KUBE_APISERVER_BIN", kube_apiserver()?);
        }
        Ok(command)
    }
}

/// What ran, and what it said.
fn silently(line: &str, command: Command) -> Result<(Count, Vec<String>), String> {
    let (mut count, said) = (Count::default(), RefCell::new(Vec::new()));
    count.add(line, command, &|line| said.borrow_mut().push(line.to_owned()))?;
    Ok((count, said.into_inner()))
}

/// What ran.
#[derive(Default)]
struct Count {
    passed: u32,
    failed: u32,
    /// What did not succeed, with what it said.
    failures: Vec<String>,
    left_out: Vec<String>,
}

impl Count {
    fn plus(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.failures.extend(other.failures);
        self.left_out.extend(other.left_out);
    }

    /// Runs the tests of `line` by `command`; what they say goes to `tell`, line by line.
    fn add(&mut self, line: &str, mut command: Command, tell: &dyn Fn(&str)) -> Result<(), String> {
        // Most tests wait for the network or a server rather than for the processor.
        command.env("RUST_TEST_THREADS", "8");
        let place = if command.get_program() == "ip" { "   # in a namespace of its own" } else { "" };
        tell(&format!("\n$ {line}{place}"));
        let mut failures = Failures::default();
        let passed = follow(line, &mut command, |line| {
            tell(line);
            self.read(line);
            failures.read(line);
        })?;
        if !passed {
            self.failures.push(format!("$ {line}\n{}", failures.said()));
        }
        Ok(())
    }

    /// Reads a line such as `test result: ok. 12 passed; 0 failed; 3 ignored; …`.
    fn read(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let counts = result.split(['.', ';']);
        for words in counts.map(|count| count.split_whitespace().collect::<Vec<_>>()) {
            match words.as_slice() {
                [number, "passed"] => self.passed += number.parse().unwrap_or(0),
                [number, "failed"] => self.failed += number.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
}

/// What the test harness says between `failures:` and the result: what each test that failed had printed, and its name.
#[derive(Default)]
struct Failures {
    within: bool,
    lines: Vec<String>,
}

impl Failures {
    fn read(&mut self, line: &str) {
        self.within = (self.within || line == "failures:") && !line.starts_with("test result: ");
        if self.within {
            self.lines.push(line.to_owned());
        }
    }

    fn said(&self) -> String {
        if self.lines.is_empty() { "It ended without a result.".to_owned() } else { self.lines.join("\n") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_kept_with_what_they_said() {
        let mut failures = Failures::default();
        for line in [
            "test a ... ok",
            "test b ... FAILED",
            "failures:",
            "---- b stdout ----",
            "not so",
            "failures:",
            "    b",
            "test result: FAILED. 1 passed; 1 failed;",
            "test c ... ok",
        ] {
            failures.read(line);
        }
        assert_eq!(failures.said(), "failures:\n---- b stdout ----\nnot so\nfailures:\n    b");
        assert_eq!(Failures::default().said(), "It ended without a result.");
    }
}
