//! Whether an audit log is as it was written.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;

use serde::Serialize;

use super::chain::{Hash, Head, Line, Torn};

/// The longest line that is read as one; leakguard writes none nearly as long.
const MAX_LINE: u64 = 1 << 20;

/// How many problems are listed; all are counted.
const LISTED: usize = 100;

/// Why a file cannot be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: String,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// It has nothing in it.
    #[error("{path} is empty: there is nothing to verify")]
    Empty {
        /// The file.
        path: String,
    },
    /// Not one line of it was written by leakguard, or all of them are changed.
    #[error("{path} is not an audit log of leakguard: not one line is as it was written")]
    NotALog {
        /// The file.
        path: String,
    },
}

/// What is wrong at a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// The line is not as it was written, or leakguard has not written it.
    Changed,
    /// Lines are missing before it.
    Missing,
    /// It stood elsewhere, or stands twice.
    OutOfPlace,
    /// The line before it is another than the one it was written after.
    Replaced,
    /// The last line is not whole.
    Unfinished,
    /// The last line is not the one that was expected.
    OtherEnd,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The line of the file, from 1 on.
    pub at: u64,
    /// What kind of thing.
    pub kind: ProblemKind,
    /// One sentence for people.
    pub message: String,
}

/// What was found; its JSON form is a contract.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether the file is as it was written, as far as that can be told.
    pub intact: bool,
    /// Lines of the file.
    pub lines: u64,
    /// Lines that a crash has left unfinished, and that the next one says so of.
    pub torn: u64,
    /// The last line that is as it was written: keep it elsewhere to find out if the end is ever cut off.
    pub last: Head,
    /// The last hash of the file before this one, where it was begun by an agent that had written to another.
    pub continues: Option<Hash>,
    /// How many problems there are.
    pub problem_count: u64,
    /// The first of them.
    pub problems: Vec<Problem>,
}

/// Reads a log to its end.
pub fn verify(path: &Path, expected: Option<Hash>) -> Result<Report, VerifyError> {
    let shown = || path.display().to_string();
    let failed = |source| VerifyError::Read {
        path: shown(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("it is not a regular file")));
    }
    let report = examine(BufReader::new(file), expected).map_err(failed)?;
    if report.lines == 0 {
        return Err(VerifyError::Empty { path: shown() });
    }
    if report.last.line == 0 {
        return Err(VerifyError::NotALog { path: shown() });
    }
    Ok(report)
}

/// Verifies what a reader gives.
fn examine(mut reader: impl BufRead, expected: Option<Hash>) -> io::Result<Report> {
    let mut walk = Walk {
        expected,
        ..Walk::default()
    };
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let read = reader
            .by_ref()
            .take(MAX_LINE)
            .read_until(b'\n', &mut bytes)?;
        if read == 0 {
            return Ok(walk.finish());
        }
        match bytes.strip_suffix(b"\n") {
            Some(line) => walk.step(line),
            // Without an end: the last one, or longer than any line of a log.
            None if read as u64 == MAX_LINE => walk.step(&bytes),
            None => walk.unfinished(&bytes),
        }
    }
}

#[derive(Debug, Default)]
struct Walk {
    expected: Option<Hash>,
    /// Where the hash that was expected last was found.
    found_at: Option<u64>,
    lines: u64,
    torn: u64,
    last: Head,
    continues: Option<Hash>,
    /// Lines since the last good one that are not as they were written.
    bad: u64,
    /// The last of them, which the next line may account for.
    open: Option<Torn>,
    problems: Vec<Problem>,
    problem_count: u64,
}

impl Walk {
    fn problem(&mut self, at: u64, kind: ProblemKind, message: String) {
        self.problem_count += 1;
        if self.problems.len() < LISTED {
            self.problems.push(Problem { at, kind, message });
        }
    }

    /// The line before was not what a crash has left.
    fn close_open(&mut self) {
        if self.open.take().is_some() {
            self.problem(
                self.lines,
                ProblemKind::Changed,
                "it is not as leakguard has written it".to_owned(),
            );
        }
    }

    fn step(&mut self, bytes: &[u8]) {
        let Some(line) = Line::read(bytes) else {
            self.close_open();
            self.lines += 1;
            self.bad += 1;
            self.open = Some(Torn::of(bytes));
            return;
        };
        let Line {
            head,
            previous,
            torn,
        } = line;
        let next = self.last.line + 1;
        let chained = self.last.line == 0 || previous == self.last.hash;
        if torn.is_some() && torn == self.open && head.line == next && chained {
            self.open = None;
            self.torn += 1;
            self.bad -= 1;
        }
        self.close_open();
        self.lines += 1;
        let at = self.lines;
        if head.line < next {
            self.problem(
                at,
                ProblemKind::OutOfPlace,
                format!(
                    "it was written as line {}: it was moved or repeated",
                    head.line
                ),
            );
            return;
        }
        // A line that is not as it was written has taken the place of one that was.
        let accounted = next + self.bad;
        if head.line > accounted {
            let missing = if head.line == next + 1 {
                format!("line {next} of the log is missing before it")
            } else {
                format!(
                    "lines {next} to {} of the log are missing before it",
                    head.line - 1
                )
            };
            self.problem(at, ProblemKind::Missing, missing);
        } else if head.line == next && !chained {
            self.problem(
                at,
                ProblemKind::Replaced,
                "it was written after another line than the one before it".to_owned(),
            );
        } else if self.last.line == 0 && head.line == 1 && !previous.is_zero() {
            self.continues = Some(previous);
        }
        self.bad = 0;
        self.last = head;
        if self.expected == Some(head.hash) {
            self.found_at = Some(at);
        }
    }

    fn unfinished(&mut self, bytes: &[u8]) {
        self.close_open();
        if Line::read(bytes).is_some() {
            self.step(bytes);
        } else {
            self.lines += 1;
        }
        self.problem(
            self.lines,
            ProblemKind::Unfinished,
            "the last line is not whole: it was cut, or is being written, or the agent was killed and has not been \
             started since"
                .to_owned(),
        );
    }

    fn finish(mut self) -> Report {
        self.close_open();
        if let Some(expected) = self.expected
            && expected != self.last.hash
        {
            let message = match self.found_at {
                Some(at) => format!(
                    "the expected last line is line {at} of the file: {} more were written since",
                    self.lines - at
                ),
                None => {
                    "the expected last line is not in the file: its end was cut off or written anew"
                        .to_owned()
                }
            };
            self.problem(self.lines, ProblemKind::OtherEnd, message);
        }
        Report {
            intact: self.problem_count == 0,
            lines: self.lines,
            torn: self.torn,
            last: self.last,
            continues: self.continues,
            problem_count: self.problem_count,
            problems: self.problems,
        }
    }
}

#[cfg(test)]
mod tests;
