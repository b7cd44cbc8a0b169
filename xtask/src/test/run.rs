//! Runs one tier: shows a line per suite, keeps the whole log, shows what failed in full.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result};

use super::libtest::{Line, Tally};
use crate::process::Cmd;

/// One run of `cargo test`, reported to `out`.
pub(super) struct Runner<W> {
    out: W,
    log_path: PathBuf,
    log: BufWriter<File>,
    total: Tally,
    /// The suite that runs now.
    current: Option<Suite>,
    /// Lines outside of suites: the compiler's and cargo's.
    outside: Vec<String>,
}

struct Suite {
    name: String,
    started: Instant,
    lines: Vec<String>,
}

impl<W: Write> Runner<W> {
    /// Logs to `<log_dir>/<name>.log`.
    pub(super) fn new(out: W, log_dir: &Path, name: &str) -> Result<Self> {
        fs::create_dir_all(log_dir)
            .with_context(|| format!("cannot create {}", log_dir.display()))?;
        let log_path = log_dir.join(format!("{name}.log"));
        let log = File::create(&log_path)
            .with_context(|| format!("cannot create {}", log_path.display()))?;
        Ok(Self {
            out,
            log_path,
            log: BufWriter::new(log),
            total: Tally::default(),
            current: None,
            outside: Vec::new(),
        })
    }

    /// Runs `cargo` and counts. Fails if it failed for another reason than a test.
    pub(super) fn run(mut self, cargo: &Cmd) -> Result<Tally> {
        let status = cargo.lines(|line| self.take(line))?;
        self.end_unfinished();
        self.log
            .flush()
            .with_context(|| format!("cannot write {}", self.log_path.display()))?;
        if self.total.failed > 0 {
            let log_path = self.log_path.display();
            writeln!(self.out, "test: whole log: {log_path}").ok();
        } else if !status.success() {
            for text in &self.outside {
                writeln!(self.out, "{text}").ok();
            }
            cargo.check(status)?;
        }
        Ok(self.total)
    }

    fn take(&mut self, text: &str) -> Result<()> {
        writeln!(self.log, "{text}")
            .with_context(|| format!("cannot write {}", self.log_path.display()))?;
        match Line::parse(text) {
            Line::Suite(name) => {
                self.end_unfinished();
                write!(self.out, "  {name} ... ").ok();
                self.out.flush().ok();
                self.current = Some(Suite {
                    name,
                    started: Instant::now(),
                    lines: Vec::new(),
                });
            }
            Line::Result(tally) => {
                // Documentation tests end more than once: one result for each edition.
                if let Some(suite) = self.current.take() {
                    suite.end(tally, &mut self.out);
                } else {
                    writeln!(self.out, "  ... {tally}").ok();
                }
                self.total += tally;
            }
            Line::Other => match &mut self.current {
                Some(suite) => suite.lines.push(text.to_owned()),
                None => self.outside.push(text.to_owned()),
            },
        }
        Ok(())
    }

    /// A suite that printed no result crashed or was ended at its time limit: it counts as one
    /// failed test.
    fn end_unfinished(&mut self) {
        if let Some(suite) = self.current.take() {
            writeln!(self.out, "did not finish").ok();
            suite.show(&mut self.out);
            self.total += Tally::FAILED;
        }
    }
}

impl Suite {
    fn end(&self, tally: Tally, out: &mut impl Write) {
        let seconds = self.started.elapsed().as_secs_f64();
        writeln!(out, "{tally} ({seconds:.1} s)").ok();
        if tally.failed > 0 {
            self.show(out);
        }
    }

    /// Shows all that the suite printed, except for the tests that passed.
    fn show(&self, out: &mut impl Write) {
        writeln!(out, "---- output of {} ----", self.name).ok();
        for text in self.lines.iter().filter(|text| !is_passed_test(text)) {
            writeln!(out, "{text}").ok();
        }
        writeln!(out, "---- end of {} ----", self.name).ok();
    }
}

fn is_passed_test(text: &str) -> bool {
    text.starts_with("test ") && text.ends_with(" ... ok")
}

#[cfg(test)]
mod tests {
    use std::{env, process, time::Duration};

    use super::*;

    /// Runs a shell script in place of cargo; returns what was counted and what was shown.
    fn run_script(name: &str, script: &str) -> (Result<Tally>, String) {
        let dir = env::temp_dir().join(format!("xtask-{name}-{}", process::id()));
        let cargo = Cmd::new("sh", Duration::from_secs(10)).args(["-c", script]);
        let mut shown = Vec::new();
        let outcome = Runner::new(&mut shown, &dir, "unit").unwrap().run(&cargo);
        fs::remove_dir_all(&dir).unwrap();
        (outcome, String::from_utf8(shown).unwrap())
    }

    fn tally(passed: u64, failed: u64) -> Tally {
        Tally { passed, failed }
    }

    #[test]
    fn results_of_all_suites_are_added() {
        let (outcome, shown) = run_script(
            "sum",
            "echo '     Running tests/a.rs (deps/a-0)'
             echo 'test w ... ok'
             echo 'test result: ok. 2 passed; 0 failed; 0 ignored'
             echo '     Running tests/b.rs (deps/b-0)'
             echo 'test x ... ok'
             echo 'test y ... FAILED'
             echo 'why it failed' >&2
             echo 'test result: FAILED. 3 passed; 1 failed; 0 ignored'
             exit 101",
        );
        assert_eq!(outcome.unwrap(), tally(5, 1));
        assert!(
            shown.contains("tests/a.rs ... 2 passed, 0 failed"),
            "{shown}"
        );
        assert!(
            shown.contains("test y ... FAILED\nwhy it failed\n"),
            "{shown}"
        );
        assert!(!shown.contains("test x"), "{shown}");
    }

    #[test]
    fn a_suite_that_crashes_counts_as_failed() {
        let (outcome, shown) = run_script(
            "crash",
            "echo '     Running tests/a.rs (deps/a-0)'
             echo 'last words'
             echo '     Running tests/b.rs (deps/b-0)'
             echo 'test result: ok. 3 passed; 0 failed; 0 ignored'
             exit 101",
        );
        assert_eq!(outcome.unwrap(), tally(3, 1));
        assert!(shown.contains("last words"), "{shown}");
    }

    #[test]
    fn a_failure_without_a_test_is_an_error() {
        let (outcome, shown) = run_script("build", "echo 'cannot compile'; exit 101");
        assert!(outcome.unwrap_err().to_string().contains("failed"));
        assert_eq!(shown, "cannot compile\n");
    }
}
