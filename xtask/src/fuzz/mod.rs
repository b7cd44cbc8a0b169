//! `cargo xtask fuzz` and `cargo xtask nightly`: bytes that nobody thought of.
//!
//! cargo-fuzz builds the targets with the pinned toolchain and without a sanitizer: there is next to no unsafe code to
//! watch, and sanitizers need nightly Rust.

mod coverage;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    process,
    process::Cmd,
    report::{self, say},
    test::libtest::Tally,
    workspace::{self, Metadata, root},
};

/// Each target with the longest input worth trying: what is looked at of a packet is shorter.
const TARGETS: [(&str, u32); 3] = [("packet", 512), ("verdict", 520), ("query", 342)];

/// cargo-fuzz, which `cargo install` gets.
const CARGO_FUZZ_VERSION: &str = "0.13.2";

/// How long each target runs in continuous integration.
const SHORT: u32 = 20;

/// The cases of the differential test in the nightly profile.
const DIFFERENTIAL_CASES: u32 = 10_000_000;

/// Downloading and compiling on a slow machine.
const BUILD: Duration = Duration::from_mins(20);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only this target.
    #[arg(value_parser = TARGETS.map(|(name, _)| name))]
    target: Option<String>,
    /// How long to run each target, not counting the build.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Show then which lines the inputs have reached.
    #[arg(long)]
    coverage: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let fuzzer = Fuzzer::new()?;
    let mut found = Tally::default();
    for (target, max_len) in TARGETS {
        if args.target.as_deref().is_some_and(|only| only != target) {
            continue;
        }
        found += fuzzer.tally(target, max_len, args.seconds);
        if args.coverage {
            coverage::show(&fuzzer, target)?;
        }
    }
    Ok(found.conclude())
}

/// Runs each target for some seconds, and counts those that found nothing as passed.
pub(crate) fn tally() -> Result<Tally> {
    let fuzzer = Fuzzer::new()?;
    let mut total = Tally::default();
    for (target, max_len) in TARGETS {
        total += fuzzer.tally(target, max_len, SHORT);
    }
    Ok(total)
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
    run(args)
}

/// The targets, built, and where the fuzzer keeps what it finds worth keeping.
struct Fuzzer {
    target_dir: PathBuf,
}

impl Fuzzer {
    fn new() -> Result<Self> {
        ensure_cargo_fuzz()?;
        let fuzzer = Self {
            target_dir: Metadata::load()?.target_dir()?.join("fuzz"),
        };
        say("fuzz", "building");
        fuzzer.cargo_fuzz("build", BUILD).run()?;
        Ok(fuzzer)
    }

    fn cargo_fuzz(&self, subcommand: &str, limit: Duration) -> Cmd {
        Cmd::new("cargo", limit)
            .args(["fuzz", subcommand, "--sanitizer=none", "--target-dir"])
            .arg(&self.target_dir)
            .dir(root().join("fuzz"))
            .env("CARGO_HTTP_TIMEOUT", "30")
    }

    /// The corpus of a target, which grows from run to run; the seeds in the repository stay as they are.
    fn corpus(&self, target: &str) -> Result<PathBuf> {
        let corpus = self.target_dir.join("corpus").join(target);
        fs::create_dir_all(&corpus)
            .with_context(|| format!("cannot create {}", corpus.display()))?;
        Ok(corpus)
    }

    fn tally(&self, target: &str, max_len: u32, seconds: u32) -> Tally {
        match self.fuzz(target, max_len, seconds) {
            Ok(()) => Tally {
                passed: 1,
                failed: 0,
            },
            Err(error) => {
                report::error(&error.context(format!("the target {target} did not pass")));
                Tally::FAILED
            }
        }
    }

    fn fuzz(&self, target: &str, max_len: u32, seconds: u32) -> Result<()> {
        say("fuzz", format_args!("{target} for {seconds} s"));
        let fuzzer = self
            .cargo_fuzz("run", Duration::from_secs(seconds.into()) + BUILD)
            .arg(target)
            .arg(self.corpus(target)?)
            .arg(seeds(target))
            .arg("--")
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-max_len={max_len}"));
        let mut lines = Vec::new();
        let mut progress = Progress::default();
        let status = fuzzer.lines(|line| {
            progress.take(line);
            lines.push(line.to_owned());
            Ok(())
        })?;
        if let Err(error) = fuzzer.check(status) {
            for line in lines.iter().filter(|line| !is_progress(line)) {
                say("fuzz", line);
            }
            return Err(error);
        }
        let Progress {
            runs: Some(runs),
            coverage,
        } = progress
        else {
            bail!("the fuzzer did not say how often it ran");
        };
        ensure!(runs > 0, "the fuzzer ran nothing");
        say(
            "fuzz",
            format_args!("{target}: {runs} runs, {coverage}, nothing found"),
        );
        Ok(())
    }
}

/// The inputs in the repository.
fn seeds(target: &str) -> PathBuf {
    Path::new("seeds").join(target)
}

fn ensure_cargo_fuzz() -> Result<()> {
    if process::find_program("cargo-fuzz").is_some() {
        return Ok(());
    }
    say(
        "fuzz",
        format_args!("installing cargo-fuzz {CARGO_FUZZ_VERSION} (about a minute)"),
    );
    Cmd::new("cargo", BUILD)
        .args(["install", "cargo-fuzz", "--locked", "--version"])
        .arg(CARGO_FUZZ_VERSION)
        .env("CARGO_HTTP_TIMEOUT", "30")
        .run()
        .context("cannot install cargo-fuzz")
}

/// What libFuzzer says of how far it is.
#[derive(Debug, Default, Eq, PartialEq)]
struct Progress {
    runs: Option<u64>,
    /// Its own words: edges, combinations of edges with counts, inputs that are worth keeping.
    coverage: String,
}

impl Progress {
    fn take(&mut self, line: &str) {
        if let Some(runs) = parse_runs(line) {
            self.runs = Some(runs);
        } else if let Some(coverage) = parse_coverage(line) {
            self.coverage = coverage;
        }
    }
}

/// The number of runs in libFuzzer's last line, `Done 1234 runs in 5 second(s)`.
fn parse_runs(line: &str) -> Option<u64> {
    let (runs, _) = line.strip_prefix("Done ")?.split_once(" runs in ")?;
    runs.parse().ok()
}

/// `cov: 12 ft: 13 corp: 4/80b` out of a line of progress.
fn parse_coverage(line: &str) -> Option<String> {
    if !is_progress(line) {
        return None;
    }
    let words: Vec<_> = line[line.find("cov: ")?..].split_whitespace().collect();
    Some(words.get(..6)?.join(" "))
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
    fn the_last_coverage_is_kept() {
        let mut progress = Progress::default();
        for line in [
            "INFO: Loaded 1 modules (10 inline 8-bit counters)",
            "#2\tINITED cov: 3 ft: 4 corp: 1/1b exec/s: 0 rss: 30Mb",
            "#4096\tDONE   cov: 12 ft: 13 corp: 4/80b lim: 9 exec/s: 0 rss: 30Mb",
            "Done 4096 runs in 5 second(s)",
        ] {
            progress.take(line);
        }
        assert_eq!(progress.runs, Some(4096));
        assert_eq!(progress.coverage, "cov: 12 ft: 13 corp: 4/80b");
    }

    #[test]
    fn progress_is_told_from_findings() {
        assert!(is_progress("#4096\tNEW    cov: 12 ft: 13 corp: 4/80b"));
        assert!(is_progress("#2\tINITED"));
        assert!(!is_progress("==12== ERROR: libFuzzer: deadly signal"));
    }
}
