//! The one table: the times that criterion has written down, and the balance.

#![allow(clippy::disallowed_types)] // what a file is dated by is the wall clock

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::SIZES;
use crate::balance::{self, Balance, Load};

pub struct Table {
    since: SystemTime,
    /// Of each benchmark's samples the fastest, in nanoseconds: what else runs on the machine only ever adds time.
    times: BTreeMap<String, f64>,
    balances: Vec<Noted>,
}

struct Noted {
    name: &'static str,
    instances: usize,
    calls: usize,
    balance: Balance,
}

impl Table {
    pub fn new() -> Self {
        Self { since: SystemTime::now(), times: BTreeMap::new(), balances: Vec::new() }
    }

    /// Takes in how evenly `name` spread a load.
    pub fn note(&mut self, name: &'static str, load: &Load, balance: Balance) {
        self.balances.push(Noted { name, instances: load.weights.len(), calls: load.calls, balance });
    }

    /// Takes in what the last round measured.
    pub fn take_times(&mut self) {
        let home = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
        self.visit(&home.join("criterion"));
    }

    fn visit(&mut self, folder: &Path) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries.flatten() {
            self.visit(&entry.path());
        }
        let json = |file: &str| -> Option<serde_json::Value> {
            serde_json::from_slice(&fs::read(folder.join(file)).ok()?).ok()
        };
        // Older results, of another run and perhaps another version, lie in the same place.
        let written = fs::metadata(folder.join("sample.json")).and_then(|file| file.modified());
        if !folder.ends_with("new") || written.is_ok_and(|written| written < self.since) {
            return;
        }
        if let Some((about, sample)) = json("benchmark.json").zip(json("sample.json")) {
            let name = about["full_id"].as_str().unwrap_or_default().to_owned();
            let numbers = |key: &str| -> Vec<f64> {
                sample[key].as_array().into_iter().flatten().filter_map(serde_json::Value::as_f64).collect()
            };
            let each = numbers("times").into_iter().zip(numbers("iters")).map(|(time, count)| time / count);
            let fastest = self.times.entry(name).or_insert(f64::INFINITY);
            *fastest = each.fold(*fastest, f64::min);
        }
    }

    #[allow(clippy::print_stdout)]
    pub fn print(&self) {
        println!("\n{CAPTION}\n");
        println!("| {:<29} | {:>36} | {:>32} | {:>36} | {:>9} |", "", "ns", "gain", "highest load", "share");
        println!("|{:-<31}|{:->37}:|{:->33}:|{:->37}:|{:->10}:|", "", "", "", "", "");
        let mut names: Vec<&str> = Vec::new();
        for Noted { name, .. } in &self.balances {
            if !names.contains(name) {
                names.push(name);
            }
        }
        for name in names {
            println!("{}", self.row(name));
        }
        println!("\nMilliseconds per change at 10,000 instances, fastest sample.\n");
        for (name, time) in self.times.iter().filter(|(name, _)| !name.contains('/')) {
            println!("| {name:<30} | {:>8.3} |", time / 1e6);
        }
    }

    fn row(&self, name: &str) -> String {
        let time = |size, threads| self.times.get(&format!("{name}/{size}/{threads}")).copied();
        let gain = |size| Some(2.0 * time(size, 1)? / time(size, 2)?);
        let balance = |load: Load| {
            let of = |noted: &&Noted| {
                noted.name == name && noted.instances == load.weights.len() && noted.calls == load.calls
            };
            self.balances.iter().find(of).map(|noted| &noted.balance)
        };
        let highest = |load| {
            balance(load).map_or_else(|| "-".into(), |found| format!("{:.2} ({})", found.mean, found.p99))
        };
        format!(
            "| {name:<29} | {:>36} | {:>32} | {:>36} | {:>9} |",
            SIZES.map(|size| show(time(size, 1), 1)).join(" / "),
            SIZES.map(|size| show(gain(size), 2)).join(" / "),
            balance::even().map(highest).join(" / "),
            balance::weighted().map(|load| show(balance(load).map(|found| found.first), 2)).join(" / "),
        )
    }
}

const CAPTION: &str = "\
ns: nanoseconds per pick and its end on one thread, fastest sample, with 3 / 8 / 16 / 100 / 10,000 instances.
gain: the picks of two threads to those of one.
highest load: calls of the instance that has the most, mean (99th percentile), when each of 16 threads ends its oldest call
  and makes another; with 8 instances and 16 calls / 16 and 64 / 16 and 256. How long a call lasts is up to the scheduler,
  not to the instance: what peak EWMA learns of it is noise, which it keeps for longer than this runs.
share: what the heavier of two gets with weights 9 and 1, one call at a time / 64 calls of 16 threads.
Of tower's balancers each thread has its own, as they are called by `&mut self`.";

fn show(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.digits$}"))
}
