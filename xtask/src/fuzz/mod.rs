//! `cargo xtask fuzz` and `cargo xtask nightly`: what takes too long, or needs too new a compiler, for every commit.

use std::{
    fs,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    process::{self, Cmd},
    report::say,
    workspace::{self, Metadata, root},
};

const TARGET: &str = "packet";

/// The cases of the differential test in the nightly profile.
const DIFFERENTIAL_CASES: u32 = 10_000_000;

/// Looking something up.
const QUICK: Duration = Duration::from_mins(1);
/// Downloading and compiling on a slow machine.
const BUILD: Duration = Duration::from_mins(20);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long to run, not counting the build.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    fuzz(args.seconds)?;
    Ok(ExitCode::SUCCESS)
}

/// The long differential test, from another seed each time, then the fuzzer.
pub(crate) fn nightly(args: &Args) -> Result<ExitCode> {
    let seed = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .context("the clock stands before 1970")?
        .as_secs()
        .wrapping_mul(u64::from(DIFFERENTIAL_CASES));
    say(
        "nightly",
        format_args!("{DIFFERENTIAL_CASES} differential cases from seed {seed}"),
    );
    workspace::cargo("test")
        .args(["--release", "--package=leakguard-common"])
        .args(["--test=differential", "--", "--nocapture"])
        .env(
            "LEAKGUARD_DIFFERENTIAL_CASES",
            DIFFERENTIAL_CASES.to_string(),
        )
        .env("LEAKGUARD_DIFFERENTIAL_SEED", seed.to_string())
        .run()?;
    fuzz(args.seconds)?;
    Ok(ExitCode::SUCCESS)
}

fn fuzz(seconds: u32) -> Result<()> {
    ensure_tools()?;
    let target_dir = Metadata::load()?.target_dir()?.join("fuzz");
    // What the fuzzer finds worth keeping; the seeds in the repository stay as they are.
    let corpus = target_dir.join("corpus").join(TARGET);
    fs::create_dir_all(&corpus).with_context(|| format!("cannot create {}", corpus.display()))?;

    say("fuzz", "building with nightly");
    cargo_fuzz("build", BUILD)
        .arg(TARGET)
        .arg("--target-dir")
        .arg(&target_dir)
        .run()?;

    say("fuzz", format_args!("{TARGET} for {seconds} s"));
    let limit = Duration::from_secs(seconds.into()) + BUILD;
    let fuzzer = cargo_fuzz("run", limit)
        .arg(TARGET)
        .arg("--target-dir")
        .arg(&target_dir)
        .arg(&corpus)
        .arg(format!("seeds/{TARGET}"))
        .arg("--")
        .arg(format!("-max_total_time={seconds}"))
        // Longer packets have nothing new: a packet's headers are shorter.
        .arg("-max_len=512");
    let mut lines = Vec::new();
    let mut runs = None;
    let status = fuzzer.lines(|line| {
        runs = runs.or_else(|| parse_runs(line));
        lines.push(line.to_owned());
        Ok(())
    })?;
    if let Err(error) = fuzzer.check(status) {
        for line in lines.iter().filter(|line| !is_progress(line)) {
            say("fuzz", line);
        }
        return Err(error);
    }
    let Some(runs) = runs else {
        bail!("the fuzzer did not say how often it ran");
    };
    say("fuzz", format_args!("{runs} runs, nothing found"));
    Ok(())
}

/// Nightly is the user's to install; cargo-fuzz is installed here.
fn ensure_tools() -> Result<()> {
    let installed = |subcommand: &[&str]| {
        Cmd::new("rustup", QUICK)
            .args(["run", "nightly", "cargo"])
            .args(subcommand)
            .output()
    };
    installed(&["--version"])
        .context("fuzzing needs nightly Rust; `rustup toolchain install nightly` installs it")?;
    if process::find_program("cargo-fuzz").is_some() || installed(&["fuzz", "--version"]).is_ok() {
        return Ok(());
    }
    say("fuzz", "installing cargo-fuzz (about a minute)");
    Cmd::new("rustup", BUILD)
        .args([
            "run",
            "nightly",
            "cargo",
            "install",
            "cargo-fuzz",
            "--locked",
        ])
        .env("CARGO_HTTP_TIMEOUT", "30")
        .run()
        .context("cannot install cargo-fuzz")
}

fn cargo_fuzz(subcommand: &str, limit: Duration) -> Cmd {
    // This process's cargo is stable's, whatever rustup says: its variables must not reach nightly's.
    Cmd::new("rustup", limit)
        .args(["run", "nightly", "cargo", "fuzz", subcommand])
        .dir(root().join("fuzz"))
        .env_remove("CARGO")
        .env_remove("RUSTC")
}

/// The number of runs in libFuzzer's last line, `Done 1234 runs in 5 second(s)`.
fn parse_runs(line: &str) -> Option<u64> {
    let (runs, _) = line.strip_prefix("Done ")?.split_once(" runs in ")?;
    runs.parse().ok()
}

/// Whether a line only says how far the fuzzer is: `#4096  NEW  cov: …`.
fn is_progress(line: &str) -> bool {
    line.starts_with('#')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_runs_is_read() {
        assert_eq!(parse_runs("Done 1234 runs in 5 second(s)"), Some(1234));
        for line in ["", "Done", "Done x runs in 5 second(s)", "#12 DONE cov: 1"] {
            assert_eq!(parse_runs(line), None, "{line}");
        }
    }

    #[test]
    fn progress_is_told_from_findings() {
        assert!(is_progress("#4096\tNEW    cov: 12 ft: 13 corp: 4/80b"));
        assert!(is_progress("#2\tINITED"));
        assert!(!is_progress("==12== ERROR: libFuzzer: deadly signal"));
    }
}
