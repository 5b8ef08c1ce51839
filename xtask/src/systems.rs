//! Systems other than the one at hand: the types are checked for them.

use crate::command::{command, finish};
use crate::compiler::Compiler;

/// What is checked for, beside the system at hand.
const SYSTEMS: [(&str, &str); 2] = [("Windows", "x86_64-pc-windows-gnu"), ("macOS", "aarch64-apple-darwin")];

/// The libraries, the command line and the examples type-check for them.
pub(crate) fn check() -> Result<(), String> {
    let (mut checked, mut failed) = (Vec::new(), Vec::new());
    for (system, target) in SYSTEMS {
        let compiler = match Compiler::for_system(target) {
            Ok(compiler) => compiler,
            Err(why) => {
                println!("LEFT OUT: {system}: {why}");
                continue;
            }
        };
        let line =
            compiler.line("check", "--workspace --exclude switchboard-tests --exclude xtask --all-features");
        let mut command = compiler.equip(command(&line));
        // What only another system uses, or does not, shows as a warning.
        command.env("RUSTFLAGS", "-D warnings");
        // Nothing is linked, so that what is written in C need not be compiled.
        for tool in ["CC", "CXX", "AR"] {
            command.env(format!("{tool}_{}", target.replace('-', "_")), "true");
        }
        checked.push(system);
        if let Err(why) = finish(&line, &mut command) {
            failed.push(why);
        }
    }
    if !checked.is_empty() {
        println!(
            "\nTypes only, for {}: nothing was linked or run. Not looked at: what aws-lc, the cryptography under rustls, has \
             in C and assembler; the tests, of which most of the command line and all in tests/ are for Unix and Linux.",
            checked.join(" and ")
        );
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
}
