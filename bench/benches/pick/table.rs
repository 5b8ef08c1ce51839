//! The one table, from what criterion has written down.

#![allow(clippy::disallowed_types)] // what a file is dated by is the wall clock

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::SIZES;

/// Rows of the table of picks, with what each is compared to.
const PICKS: [(&str, &[&str]); 18] = [
    ("floor round robin", &[]),
    ("floor random", &[]),
    ("floor p2c", &[]),
    ("random", &["floor round robin", "floor random"]),
    ("round robin", &["floor round robin"]),
    ("weighted random", &["floor random", "volo weighted random"]),
    ("smooth weighted", &["floor round robin", "pingora round robin"]),
    ("p2c least request", &["floor p2c", "tower p2c constant", "pingora round robin"]),
    ("p2c peak EWMA", &["floor p2c", "tower p2c peak EWMA", "pingora round robin"]),
    ("p2c peak EWMA with success()", &["tower p2c peak EWMA"]),
    ("Maglev", &["pingora ketama", "volo consistent hash"]),
    ("pingora round robin", &[]),
    ("pingora ketama", &[]),
    ("tower p2c constant", &[]),
    ("tower p2c peak EWMA", &[]),
    ("volo weighted random", &[]),
    ("volo consistent hash", &[]),
    ("reqwest-lb round robin", &[]),
];

/// Of each benchmark's samples the fastest: what else runs on the machine only ever adds time.
pub type Times = BTreeMap<String, f64>;

#[allow(clippy::print_stdout)]
pub fn print(times: &Times) {
    let at =
        |name: &str, size: usize, threads: usize| times.get(&format!("{name}/{size}/{threads}")).copied();
    println!(
        "\nNanoseconds per pick, fastest sample. Flat: 10,000 to 3. Gain: picks of two threads to those of one.\n"
    );
    println!(
        "| {:<29} | {:>8} | {:>8} | {:>8} | {:>5} | {:>14} | ratios at 3, 100, 10,000",
        "", 3, 100, "10,000", "flat", "gain"
    );
    println!("|{:-<31}|{:-<10}|{:-<10}|{:-<10}|{:-<7}|{:-<16}|{:-<26}", "", "", "", "", "", "", "");
    for (name, others) in PICKS {
        let row = SIZES.map(|size| at(name, size, 1));
        let gains = SIZES.map(|size| Some(2.0 * at(name, size, 1)? / at(name, size, 2)?));
        let flat = row[2].zip(row[0]).map(|(large, small)| large / small);
        let ratios: Vec<String> = others
            .iter()
            .map(|other| {
                let ratio = |size| Some(at(name, size, 1)? / at(other, size, 1)?);
                format!("{} × {other}", SIZES.map(|size| show(ratio(size), 2)).join(" "))
            })
            .collect();
        println!(
            "| {name:<29} | {:>8} | {:>8} | {:>8} | {:>5} | {:>14} | {}",
            show(row[0], 1),
            show(row[1], 1),
            show(row[2], 1),
            show(flat, 2),
            gains.map(|gain| show(gain, 2)).join(" "),
            ratios.join("; ")
        );
    }
    println!("\nMilliseconds per change at 10,000 instances, fastest sample.\n");
    for (name, time) in times.iter().filter(|(name, _)| !name.contains('/')) {
        println!("| {name:<30} | {:>8.3} |", time / 1e6);
    }
    let rebuild = |name: &str| times.get(&format!("rebuild {name}")).copied();
    for peer in ["pingora ketama", "volo consistent hash"] {
        let ratio = rebuild("Maglev").zip(rebuild(peer)).map(|(ours, theirs)| ours / theirs);
        println!("Rebuild of Maglev: {} × {peer}", show(ratio, 2));
    }
}

fn show(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.digits$}"))
}

/// The time by which files are dated.
pub fn now() -> SystemTime {
    SystemTime::now()
}

/// Takes in what the last round measured. Older results, of another run and perhaps another version, lie in the same place.
pub fn take(times: &mut Times, since: SystemTime) {
    let home = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    visit(&home.join("criterion"), times, since);
}

fn visit(folder: &Path, times: &mut Times, since: SystemTime) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        visit(&entry.path(), times, since);
    }
    let json = |file: &str| -> Option<serde_json::Value> {
        serde_json::from_slice(&fs::read(folder.join(file)).ok()?).ok()
    };
    let written = fs::metadata(folder.join("sample.json")).and_then(|file| file.modified());
    if !folder.ends_with("new") || written.is_ok_and(|written| written < since) {
        return;
    }
    if let Some((about, sample)) = json("benchmark.json").zip(json("sample.json")) {
        let name = about["full_id"].as_str().unwrap_or_default().to_owned();
        let numbers = |key: &str| -> Vec<f64> {
            sample[key].as_array().into_iter().flatten().filter_map(serde_json::Value::as_f64).collect()
        };
        let each = numbers("times").into_iter().zip(numbers("iters")).map(|(time, count)| time / count);
        let fastest = times.entry(name).or_insert(f64::INFINITY);
        *fastest = each.fold(*fastest, f64::min);
    }
}
