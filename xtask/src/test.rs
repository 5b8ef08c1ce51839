//! `cargo xtask test`: every test there is, and a count of what ran and what did not.

use crate::command::{execute, follow};
use crate::need::Need;
use crate::netns::{Namespace, isolated};

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
}

const CARGO_TEST: &str = "cargo test --offline --workspace --all-features";

const GROUPS: [Group; 8] = [
    Group {
        what: "mDNS between machines (network namespaces)",
        choose: "--test namespaces",
        filter: "--skip avahi --skip zeroconf --test-threads 16",
        needs: &[Need::Namespaces],
        outside: true,
    },
    Group {
        what: "Avahi as a peer",
        choose: "--test namespaces",
        filter: "avahi",
        needs: &[Need::Namespaces, Need::Avahi],
        outside: true,
    },
    Group {
        what: "python-zeroconf as a peer",
        choose: "--test namespaces",
        filter: "zeroconf",
        needs: &[Need::Namespaces, Need::Python],
        outside: true,
    },
    Group {
        what: "Consul, with a real agent",
        choose: "--test it --test wiped",
        filter: "--skip interop",
        needs: &[Need::Consul],
        outside: false,
    },
    Group {
        what: "go-micro, with a real program of its",
        choose: "--test it",
        filter: "interop",
        needs: &[Need::Consul, Need::Go],
        outside: true,
    },
    Group {
        what: "the command line, on a real Consul agent",
        choose: "--test cli",
        filter: "consul::",
        needs: &[Need::Consul],
        outside: false,
    },
    Group {
        what: "the command line's doctor in broken networks",
        choose: "--test cli",
        filter: "doctor::",
        needs: &[Need::Namespaces, Need::Nft],
        outside: true,
    },
    Group {
        what: "the command line's full screen in a real terminal",
        choose: "--test cli",
        filter: "top:: terminal::",
        needs: &[Need::Consul, Need::Tmux],
        outside: false,
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
    if count.failed > 0 || count.broken { Err("there are failures".into()) } else { Ok(()) }
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
    count.add(namespace.as_ref(), &format!("{CARGO_TEST} --no-fail-fast"))?;
    for group in &GROUPS {
        let missing: Vec<String> = group.needs.iter().filter_map(|need| need.provide().err()).collect();
        if missing.is_empty() {
            let inside = namespace.as_ref().filter(|_| !group.outside);
            count.add(inside, &format!("{CARGO_TEST} {} -- --ignored {}", group.choose, group.filter))?;
        } else {
            count.left_out.push(format!("{}: {}", group.what, missing.join("; ")));
        }
    }
    Ok(count)
}

/// What ran.
#[derive(Default)]
struct Count {
    passed: u32,
    failed: u32,
    /// A test binary ended without a result.
    broken: bool,
    left_out: Vec<String>,
}

impl Count {
    fn add(&mut self, namespace: Option<&Namespace>, line: &str) -> Result<(), String> {
        let mut command = isolated(namespace, line);
        // Most tests wait for the network or a server rather than for the processor.
        command.env("RUST_TEST_THREADS", "8");
        let line =
            format!("{line}{}", if namespace.is_some() { "   # in a namespace of its own" } else { "" });
        let passed = follow(&line, &mut command, |line| self.read(line))?;
        self.broken |= !passed;
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
