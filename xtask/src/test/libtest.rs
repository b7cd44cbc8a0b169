//! Reads what `cargo test` prints: which test binary runs, what its tests say, how it ended.

use std::process::ExitCode;
use std::{fmt, ops::AddAssign, path::Path};

/// Numbers of tests.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl Tally {
    /// For something that failed before it could count its tests.
    pub(crate) const FAILED: Self = Self {
        passed: 0,
        failed: 1,
    };

    /// Prints the closing line, and says how the process is to end.
    pub(crate) fn conclude(self) -> ExitCode {
        crate::report::line(self);
        if self.is_success() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    /// Nothing failed, and something ran.
    pub(crate) fn is_success(self) -> bool {
        self.failed == 0 && self.passed > 0
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        let Self { passed, failed } = other;
        self.passed += passed;
        self.failed += failed;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed } = self;
        write!(f, "{passed} passed, {failed} failed")
    }
}

/// A line that says where `cargo test` is.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Line {
    /// A test binary starts.
    Suite(String),
    /// A test binary ends.
    Result(Tally),
    /// Anything else.
    Other,
}

impl Line {
    pub(crate) fn parse(line: &str) -> Self {
        if let Some(name) = parse_suite(line) {
            Self::Suite(name)
        } else if let Some(tally) = parse_result(line) {
            Self::Result(tally)
        } else {
            Self::Other
        }
    }
}

/// `     Running tests/egress.rs (target/debug/deps/egress-0123)` or `   Doc-tests leakguard`.
fn parse_suite(line: &str) -> Option<String> {
    // Cargo right-aligns its verbs in 12 columns; a test that prints such a word at the start of a
    // line does not match.
    if let Some(package) = line.strip_prefix("   Doc-tests ") {
        return Some(format!("{package} (documentation)"));
    }
    let (source, binary) = line
        .strip_prefix("     Running ")?
        .strip_suffix(')')?
        .split_once(" (")?;
    match source.strip_prefix("unittests ") {
        // The path alone is the same in every package.
        Some(path) => {
            let stem = Path::new(binary).file_name()?.to_str()?;
            let name = stem.rsplit_once('-').map_or(stem, |(name, _hash)| name);
            Some(format!("{name} ({path})"))
        }
        None => Some(source.to_owned()),
    }
}

/// `test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s`.
fn parse_result(line: &str) -> Option<Tally> {
    let (verdict, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    if !matches!(verdict, "ok" | "FAILED") {
        return None;
    }
    let count = |what: &str| {
        counts
            .split("; ")
            .find_map(|part| part.strip_suffix(what)?.trim_end().parse().ok())
    };
    Some(Tally {
        passed: count("passed")?,
        failed: count("failed")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites() {
        let parse = |line| match Line::parse(line) {
            Line::Suite(name) => name,
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(
            parse("     Running unittests src/lib.rs (target/debug/deps/leakguard_common-0a1b2c)"),
            "leakguard_common (src/lib.rs)"
        );
        assert_eq!(
            parse("     Running tests/egress.rs (/var/tmp/a (b)/debug/deps/egress-0a1b)"),
            "tests/egress.rs"
        );
        assert_eq!(parse("   Doc-tests leakguard"), "leakguard (documentation)");
    }

    #[test]
    fn results() {
        let ok = "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s";
        assert_eq!(
            Line::parse(ok),
            Line::Result(Tally {
                passed: 5,
                failed: 0
            })
        );
        let failed = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; \
                      finished in 1.20s";
        assert_eq!(
            Line::parse(failed),
            Line::Result(Tally {
                passed: 12,
                failed: 3
            })
        );
    }

    #[test]
    fn everything_else() {
        for line in [
            "",
            "test a::b ... ok",
            "Running tests/egress.rs (x)",
            "     Running something",
            "test result: maybe. 1 passed; 0 failed",
            "test result: ok. x passed; 0 failed",
            "test result: ok.",
            "test result: ok. 18446744073709551616 passed; 0 failed; ",
        ] {
            assert_eq!(Line::parse(line), Line::Other, "{line}");
        }
    }

    #[test]
    fn success_needs_a_test() {
        assert!(!Tally::default().is_success());
        assert!(!Tally::FAILED.is_success());
        let mut tally = Tally {
            passed: 3,
            failed: 0,
        };
        assert!(tally.is_success());
        tally += Tally::FAILED;
        assert!(!tally.is_success());
        assert_eq!(tally.to_string(), "3 passed, 1 failed");
    }
}
