//! What a machine says while suites run on it: kept in a log, read for results and facts.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result};

use crate::{
    report::{line, say},
    test::libtest::{Line, Tally},
};

/// The line that says that every suite was started and has ended.
pub(super) const END: &str = "guest: end";

/// How tests mark a line that is worth showing when they pass, too.
const MEASURED: &str = "measured: ";

/// How tests say what they have found of a kernel, for the matrix: `fact: NAME: VALUE`.
const FACT: &str = "fact: ";

/// What has come of the suites on one kernel.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Of all suites.
    pub(super) tally: Tally,
    /// By suite, in the order in which they ran.
    pub(super) suites: Vec<(String, Tally)>,
    /// What the tests have found of the kernel.
    pub(super) facts: BTreeMap<String, String>,
}

impl Outcome {
    /// Of a kernel on which nothing ran.
    pub(super) fn failed() -> Self {
        Self {
            tally: Tally::FAILED,
            ..Self::default()
        }
    }
}

/// Reads lines and keeps them.
#[derive(Debug)]
pub(super) struct Record {
    console: Console,
    log: File,
    path: PathBuf,
}

impl Record {
    /// Starts one in a file.
    pub(super) fn create(path: &Path) -> Result<Self> {
        Ok(Self {
            console: Console::default(),
            log: File::create(path).with_context(|| format!("cannot create {}", path.display()))?,
            path: path.to_owned(),
        })
    }

    /// Takes the next line.
    pub(super) fn take(&mut self, text: &str) -> Result<()> {
        let text = text.trim_end_matches('\r');
        self.console.take(text);
        // At once, for who wants to watch.
        writeln!(self.log, "{text}")
            .with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Whether the line was there that says that nothing else comes.
    pub(super) fn has_ended(&self) -> bool {
        self.console.ended
    }

    /// Counts; a suite of so many without a result has failed. Where one has, everything is shown.
    pub(super) fn finish(self, suites: usize) -> Result<Outcome> {
        let Console {
            mut outcome, ended, ..
        } = self.console;
        if !ended || outcome.suites.len() < suites {
            outcome.tally += Tally::FAILED;
        }
        if outcome.tally.failed > 0 {
            let text = fs::read_to_string(&self.path)
                .with_context(|| format!("cannot read {}", self.path.display()))?;
            line(format_args!(
                "---- console ----\n{text}---- end of the console ----"
            ));
            say(
                "vm-test",
                format_args!("the console is in {}", self.path.display()),
            );
        }
        Ok(outcome)
    }
}

/// What the console has said so far.
#[derive(Debug, Default)]
struct Console {
    outcome: Outcome,
    ended: bool,
    suite: Option<(String, Instant)>,
}

impl Console {
    fn take(&mut self, text: &str) {
        match Line::parse(text) {
            Line::Suite(name) => self.suite = Some((name, Instant::now())),
            Line::Result(tally) => {
                if let Some((name, started)) = self.suite.take() {
                    let seconds = started.elapsed().as_secs_f64();
                    line(format_args!("  {name} ... {tally} ({seconds:.1} s)"));
                    self.outcome.tally += tally;
                    self.outcome.suites.push((name, tally));
                }
            }
            Line::Other => {
                if let Some(measured) = text.strip_prefix(MEASURED) {
                    line(format_args!("    {measured}"));
                }
                let fact = text
                    .strip_prefix(FACT)
                    .and_then(|fact| fact.split_once(": "));
                if let Some((name, value)) = fact {
                    let facts = &mut self.outcome.facts;
                    facts.insert(name.to_owned(), value.to_owned());
                }
                self.ended |= text == END;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Console {
        let mut console = Console::default();
        for line in lines {
            console.take(line);
        }
        console
    }

    #[test]
    fn every_suite_counts_once() {
        let console = read(&[
            "     Running verdicts (/suites/verdicts)",
            "test result: ok. 7 passed; 0 failed; 0 ignored",
            "     Running kernel (/suites/kernel)",
            "test result: FAILED. 1 passed; 1 failed; 0 ignored",
            END,
        ]);
        let tally = |passed, failed| Tally { passed, failed };
        assert_eq!(console.outcome.tally, tally(8, 1));
        assert_eq!(
            console.outcome.suites,
            [
                ("verdicts".to_owned(), tally(7, 0)),
                ("kernel".to_owned(), tally(1, 1))
            ]
        );
        assert!(console.ended);
    }

    #[test]
    fn a_guest_that_panics_has_not_ended() {
        let console = read(&[
            "     Running verdicts (/suites/verdicts)",
            "[    3.1] Kernel panic - not syncing",
        ]);
        assert!(console.outcome.suites.is_empty() && !console.ended);
    }

    #[test]
    fn the_latest_fact_of_a_name_holds() {
        let console = read(&["fact: tc: head", "fact: tc: clsact", "fact: nothing"]);
        let facts: Vec<_> = console.outcome.facts.into_iter().collect();
        assert_eq!(facts, [("tc".to_owned(), "clsact".to_owned())]);
    }
}
