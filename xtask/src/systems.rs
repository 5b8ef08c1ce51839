//! Systems other than the one at hand: the types are checked for them.

use crate::command::{command, finish};
use crate::compiler::Compiler;

/// Recent enough for the command line, whose terminal libraries ask for more than the libraries do; Debian has it.
pub(crate) const RUST: &str = "1.96";

/// What is checked for, beside the system at hand.
const TARGETS: [&str; 2] = ["x86_64-pc-windows-gnu", "aarch64-apple-darwin"];

/// The libraries, the command line and the examples type-check for them.
pub(crate) fn check() -> Result<(), String> {
    let mut failed = Vec::new();
    for target in TARGETS {
        let compiler = match Compiler::of(RUST, Some(target)) {
            Ok(compiler) => compiler,
            Err(why) => {
                println!("LEFT OUT: {target}: {why}");
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
        if let Err(why) = finish(&line, &mut command) {
            failed.push(why);
        }
    }
    println!(
        "\nTypes only, for these systems: nothing was linked or run. Not looked at: what aws-lc, the cryptography under \
         rustls, has in C and assembler; the tests, of which those of the command line and in tests/ are for Unix and Linux."
    );
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
}
