//! Which lines of leakguard the inputs of a target have reached.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};

use super::{BUILD, Fuzzer, seeds};
use crate::{process::Cmd, report::say, workspace::root};

/// Reading what was recorded.
const REPORT: Duration = Duration::from_mins(5);

/// Runs the corpus and the seeds once, in a build that counts, and prints a table: per file, what was reached.
pub(super) fn show(fuzzer: &Fuzzer, target: &str) -> Result<()> {
    Cmd::new("rustup", BUILD)
        .args(["component", "add", "llvm-tools"])
        .dir(root())
        .output()
        .context("the report needs LLVM's tools")?;
    say("fuzz", format_args!("{target}: counting"));
    fuzzer
        .cargo_fuzz("coverage", BUILD)
        .arg(target)
        .arg(fuzzer.corpus(target)?)
        .arg(seeds(target))
        .output()?;
    let host = host()?;
    let program = fuzzer.target_dir.join(&host).join("coverage").join(&host);
    let table = Cmd::new(llvm_cov(&host)?, REPORT)
        .arg("report")
        .arg(program.join("release").join(target))
        .arg(format!(
            "--instr-profile={}",
            root()
                .join("fuzz/coverage")
                .join(target)
                .join("coverage.profdata")
                .display()
        ))
        .args([
            "--show-functions=false",
            "--show-branch-summary=false",
            "--ignore-filename-regex=/(registry|rustc|library|tests|targets)/",
        ])
        .output()?;
    for line in table.lines().filter(|line| !is_untouched(line)) {
        say("fuzz", line);
    }
    Ok(())
}

/// Whether a row is of a file that nothing was reached of, such as the agent's other parts.
fn is_untouched(row: &str) -> bool {
    row.matches(" 0.00%").count() >= 3
}

/// The platform that cargo-fuzz builds for.
fn host() -> Result<String> {
    let version = Cmd::new("rustc", REPORT)
        .args(["-vV"])
        .dir(root())
        .output()?;
    version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("rustc names no host")
}

fn llvm_cov(host: &str) -> Result<PathBuf> {
    let sysroot = Cmd::new("rustc", REPORT)
        .args(["--print", "sysroot"])
        .dir(root())
        .output()?;
    Ok(PathBuf::from(sysroot.trim())
        .join("lib/rustlib")
        .join(host)
        .join("bin/llvm-cov"))
}
