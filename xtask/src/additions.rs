//! Whether what the documents tell readers to type after `cargo add` is there to be added.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::command::{output, root};

/// The versions of each package that this workspace is or is built with, and the features of each; by name, or by folder here.
type Packages = BTreeMap<String, Vec<(String, BTreeSet<String>)>>;

pub(crate) fn check() -> Result<(), String> {
    let packages = packages().ok_or("cargo metadata failed")?;
    let documents = output("git ls-files *.md").ok_or("git ls-files failed")?;
    let mut count = 0;
    let mut wrong = Vec::new();
    // A crate's page may be that of the whole.
    for document in documents.lines().filter(|document| !root().join(document).is_symlink()) {
        let text = std::fs::read_to_string(root().join(document));
        for line in lines(&text.map_err(|error| format!("{document}: {error}"))?) {
            count += 1;
            if let Err(why) = judge(line, &packages) {
                wrong.push(format!("{document}: `cargo add {line}`: {why}"));
            }
        }
    }
    println!("{count} times `cargo add`");
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

fn packages() -> Option<Packages> {
    let metadata: Value =
        serde_json::from_str(&output("cargo metadata --format-version 1 --all-features")?).ok()?;
    let mut packages = Packages::new();
    for package in metadata["packages"].as_array()? {
        // What is not published cannot be added.
        if package["publish"].as_array().is_some_and(Vec::is_empty) {
            continue;
        }
        let features: BTreeSet<String> = package["features"].as_object()?.keys().cloned().collect();
        let known = (package["version"].as_str()?.to_owned(), features);
        // Those of this checkout by their folder too.
        let folder = Path::new(package["manifest_path"].as_str()?).parent()?.strip_prefix(root()).ok();
        if let Some(folder) = folder.and_then(Path::to_str) {
            packages.entry(folder.into()).or_default().push(known.clone());
        }
        packages.entry(package["name"].as_str()?.into()).or_default().push(known);
    }
    Some(packages)
}

/// What stands after each `cargo add`, without comments.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| {
        let additions = line.split("cargo add ").skip(1);
        additions.map(|addition| addition.split(['`', '#']).next().unwrap_or_default().trim())
    })
}

/// Cargo's own rules, for as much of them as the documents use.
fn judge(line: &str, packages: &Packages) -> Result<(), String> {
    let (mut wanted, mut features) = (Vec::new(), Vec::new());
    let mut words = line.split_whitespace();
    while let Some(word) = words.next() {
        match word {
            "--features" => {
                let list = words.next().ok_or("no features after --features")?;
                features.extend(list.split(','));
            }
            "--path" => {
                let folder = words.next().ok_or("no folder after --path")?;
                wanted.push(folder.find("crates/").map_or(folder, |crates| &folder[crates..]));
            }
            "--no-default-features" | "--dev" => {}
            option if option.starts_with('-') => return Err(format!("{option} is not checked yet")),
            package => wanted.push(package),
        }
    }
    if wanted.is_empty() {
        return Err("no package".into());
    }
    if wanted.len() > 1 && !features.is_empty() {
        return Err("features are for one package".into());
    }
    for package in wanted {
        let (name, version) = package.split_once('@').unwrap_or((package, ""));
        let known = packages.get(name).ok_or_else(|| format!("no package {name} here"))?;
        let mut fitting = known.iter().filter(|(known, _)| fits(known, version)).peekable();
        if fitting.peek().is_none() {
            let versions: Vec<&str> = known.iter().map(|(version, _)| version.as_str()).collect();
            return Err(format!("{name} is {} here", versions.join(" and ")));
        }
        let has_all = |of: &BTreeSet<String>| features.iter().all(|feature| of.contains(*feature));
        if !fitting.any(|(_, of)| has_all(of)) {
            return Err(format!("{name} has not all of these features"));
        }
    }
    Ok(())
}

/// Whether `version` begins with the numbers that are asked for.
fn fits(version: &str, wanted: &str) -> bool {
    let rest = version.strip_prefix(wanted);
    wanted.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_found_in_blocks_and_in_sentences() {
        let text = "```sh\ncargo add a --features b   # why\n```\nor `cargo add c`, and `cargo add d`.";
        assert_eq!(lines(text).collect::<Vec<_>>(), ["a --features b", "c", "d"]);
    }

    #[test]
    fn what_is_not_there_is_told() {
        let features = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let packages = Packages::from([
            ("ours".into(), vec![("0.1.0".into(), features(&["mdns", "consul"]))]),
            ("crates/ours".into(), vec![("0.1.0".into(), features(&["mdns", "consul"]))]),
            ("theirs".into(), vec![("0.12.4".into(), features(&["old"])), ("1.13.0".into(), features(&[]))]),
        ]);
        for good in [
            "ours --features mdns,consul",
            "theirs@0.12 --features old",
            "ours theirs@1.13 --dev",
            "--path ../all/crates/ours --features mdns",
        ] {
            assert_eq!(judge(good, &packages), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("switchboard", "no package switchboard here"),
            ("ours --features zeroconf", "has not all"),
            ("ours --features", "no features"),
            ("theirs@1.1", "0.12.4 and 1.13.0"),
            ("theirs@1 --features old", "has not all"),
            ("ours theirs --features mdns", "for one package"),
            ("--dev", "no package"),
            ("--path ../all/ours", "no package ../all/ours here"),
            ("--path ../all/crates/ours --features zeroconf", "has not all"),
            ("ours --git https://example.org", "not checked"),
        ] {
            let told = judge(bad, &packages).unwrap_err();
            assert!(told.contains(why), "{bad}: {told}");
        }
    }
}
