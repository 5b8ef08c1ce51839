//! `cargo xtask check`: everything that is checked without running the tests, and `cargo xtask fuzz`.

use crate::command::{command, execute, finish, output, root, succeeds};
use crate::compiler::{Compiler, rust_version};
use crate::systems;

/// What a build for one link must not contain: an HTTP client, or TLS.
const FOREIGN_TO_MDNS: [&str; 9] =
    ["reqwest", "hyper", "h2", "rustls", "native-tls", "openssl", "ring", "hickory-resolver", "notify"];

/// The fuzz targets.
const TARGETS: [&str; 4] = ["txt", "names", "list", "dns"];

type Check = fn() -> Result<(), String>;

/// All checks, or those named.
pub(crate) fn run(names: &[String]) -> Result<(), String> {
    let checks: [(&str, Check); 12] = [
        ("format", || execute("cargo fmt --all --check")),
        ("lints", || execute("cargo clippy --workspace --all-targets --all-features -- -D warnings")),
        ("documentation", documentation),
        ("features", features),
        ("purity", purity),
        ("licences", licences),
        ("advisories", advisories),
        ("oldest Rust", oldest_rust),
        ("other systems", systems::check),
        ("links", links),
        ("cargo add", crate::additions::check),
        ("packages", packages),
    ];
    let known: Vec<&str> = checks.iter().map(|(what, _)| *what).collect();
    if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(format!("no check is called {name:?}; there are: {}", known.join(", ")));
    }
    let mut failures = Vec::new();
    for (what, check) in
        checks.into_iter().filter(|(what, _)| names.is_empty() || names.iter().any(|name| name == what))
    {
        println!("\n== {what}");
        if let Err(why) = check() {
            println!("{why}");
            failures.push(what);
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(format!("failed: {}", failures.join(", "))) }
}

/// As docs.rs makes it, where there is a shell: every item with the feature it needs.
fn documentation() -> Result<(), String> {
    let line = "cargo doc --workspace --no-deps --all-features";
    let mut doc = command(line);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    if !cfg!(unix) {
        return finish(line, &mut doc);
    }
    finish(line, doc.env("RUSTDOC", root().join("scripts/rustdoc.sh")))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    let page = root().join(target).join("doc/switchboard/index.html");
    let text = std::fs::read_to_string(&page).map_err(|error| format!("{}: {error}", page.display()))?;
    if text.contains("Available on crate feature") {
        Ok(())
    } else {
        Err("the documentation does not say which features items need".into())
    }
}

/// Every feature builds alone, and none depends on another crate's having been built with more; every two of a crate together, of
/// the facade those where one changes what another adds: registries do not know of one another.
/// `default` and `full` are other names for what is there anyway.
fn features() -> Result<(), String> {
    if !succeeds("cargo hack --version") {
        return Err("cargo-hack is missing: `cargo install --locked cargo-hack`".into());
    }
    let apart = ["switchboard-discovery", "switchboard-examples", "xtask"];
    let apart = apart.map(|package| format!("--exclude {package}")).join(" ");
    execute(&format!(
        "cargo hack check --feature-powerset --depth 2 --exclude-features default --workspace {apart}"
    ))?;
    for with in ["", "--features settings", "--features compose", "--features metrics"] {
        execute(&format!(
            "cargo hack check --each-feature --exclude-features default,full --exclude-all-features --package switchboard-discovery {with}"
        ))?;
    }
    Ok(())
}

/// The default build has no HTTP client and no TLS.
fn purity() -> Result<(), String> {
    let tree =
        output("cargo tree -p switchboard-discovery -e normal --prefix none").ok_or("cargo tree failed")?;
    let names = tree.lines().filter_map(|line| line.split_whitespace().next());
    let found: Vec<&str> = names.filter(|name| FOREIGN_TO_MDNS.contains(name)).collect();
    if found.is_empty() {
        println!("switchboard with default features depends on no HTTP client and no TLS");
        Ok(())
    } else {
        Err(format!("switchboard with default features depends on {}", found.join(", ")))
    }
}

fn licences() -> Result<(), String> {
    has_deny()?;
    execute("cargo deny --workspace --all-features check licenses bans sources")
}

/// No dependency has a known defect, as far as the database of them can be had.
fn advisories() -> Result<(), String> {
    has_deny()?;
    let line = "cargo deny --workspace --all-features check advisories";
    println!("\n$ {line}");
    let output = command(line).output().map_err(|error| format!("`{line}` did not start: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    print!("{said}");
    if said.contains("failed to fetch advisory database") {
        println!("LEFT OUT: known defects of dependencies: RustSec's database cannot be had from here");
        return Ok(());
    }
    if output.status.success() { Ok(()) } else { Err(format!("`{line}` failed: {}", output.status)) }
}

fn has_deny() -> Result<(), String> {
    if succeeds("cargo deny --version") {
        return Ok(());
    }
    Err("cargo-deny is missing: `cargo install --locked cargo-deny`".into())
}

/// What of the facade the workspace's Rust builds: all but `dns` and `kubernetes`, and so not `full`.
const OLDEST_FEATURES: &str = "mdns,consul,etcd,static,compose,settings,axum,tonic-server,watcher,selector,tower,reqwest,tonic,caller,metrics";

/// The crates build with the Rust they promise: the libraries with the workspace's; the CLI, which they do not need, and DNS, which
/// is a feature of its own, with a newer one that the libraries under them ask for; Kubernetes, and what has its feature, with that
/// which its library asks for.
fn oldest_rust() -> Result<(), String> {
    let (old, newer) = (rust_version("Cargo.toml")?, rust_version("crates/switchboard-cli/Cargo.toml")?);
    let newest = rust_version("crates/switchboard-kubernetes/Cargo.toml")?;
    let apart = [
        "xtask",
        "switchboard-cli",
        "switchboard-dns",
        "switchboard-kubernetes",
        "switchboard-discovery",
        "switchboard-examples",
    ];
    let apart = apart.map(|package| format!("--exclude {package}")).join(" ");
    let libraries = builds_with(&old, &format!("--workspace {apart} --all-features"));
    let facade = builds_with(&old, &format!("--package switchboard-discovery --features {OLDEST_FEATURES}"));
    let packages = "--package switchboard-cli --package switchboard-dns --package switchboard-examples --package switchboard-discovery";
    let program = builds_with(&newer, &format!("{packages} --features switchboard-discovery/full"));
    let packages =
        "--package switchboard-kubernetes --package switchboard-discovery --package switchboard-cli";
    let newest = builds_with(&newest, &format!("{packages} --all-features"));
    libraries.and(facade).and(program).and(newest)
}

fn builds_with(version: &str, packages: &str) -> Result<(), String> {
    let compiler = match Compiler::of(version) {
        Ok(compiler) => compiler,
        Err(why) => {
            println!("LEFT OUT: {packages} with the oldest Rust: {why}");
            return Ok(());
        }
    };
    let line = compiler.line("check", packages);
    finish(&line, &mut compiler.equip(command(&line)))
}

/// Every crate that is published can be packed, with its licences and a page of its own.
fn packages() -> Result<(), String> {
    let crates = output("git ls-files crates/*/Cargo.toml").ok_or("git ls-files failed")?;
    for folder in crates.lines().filter_map(|manifest| manifest.strip_suffix("Cargo.toml")) {
        for name in ["README.md", "LICENSE-MIT", "LICENSE-APACHE"] {
            if !root().join(folder).join(name).exists() {
                return Err(format!("{folder}{name} is missing"));
            }
        }
    }
    execute(
        "cargo package --quiet --offline --allow-dirty --no-verify --workspace --exclude switchboard-examples --exclude switchboard-tests --exclude xtask",
    )
}

/// Every file that a document of ours links to exists.
fn links() -> Result<(), String> {
    let documents = output("git ls-files *.md").ok_or("git ls-files failed")?;
    let mut broken = Vec::new();
    for document in documents.lines() {
        // A crate's page may be that of the whole.
        let path = root().join(document);
        let path = path.canonicalize().unwrap_or(path);
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{document}: {error}"))?;
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://") && !target.starts_with('#')) {
            let file = target.split('#').next().unwrap_or_default();
            if !path.parent().is_some_and(|folder| folder.join(file).exists()) {
                broken.push(format!("{document} links to {target}"));
            }
        }
    }
    if broken.is_empty() { Ok(()) } else { Err(broken.join("\n")) }
}

pub(crate) fn fuzz(seconds: Option<&str>) -> Result<(), String> {
    let seconds: u32 = seconds.unwrap_or("20").parse().map_err(|_| "SECS is a whole number of seconds")?;
    let missing = if !succeeds("rustup run nightly rustc --version") {
        Some("a nightly toolchain: `rustup toolchain install nightly`")
    } else if !succeeds("cargo fuzz --version") {
        Some("cargo-fuzz: `cargo install --locked cargo-fuzz`")
    } else {
        None
    };
    if let Some(missing) = missing {
        println!("LEFT OUT: fuzzing needs {missing}");
        return Ok(());
    }
    for target in TARGETS {
        execute(&format!(
            "rustup run nightly cargo fuzz run {target} -- -max_total_time={seconds} -verbosity=0"
        ))?;
    }
    Ok(())
}
