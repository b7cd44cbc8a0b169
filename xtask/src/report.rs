//! What the user reads: plain lines on stdout, errors on stderr.
//!
//! A closed pipe (`cargo xtask test | head`) must not turn into a panic, so write errors are
//! dropped here, once.

use std::{
    fmt::Display,
    io::{self, Write as _},
};

/// Prints `area: text`.
pub(crate) fn say(area: &str, text: impl Display) {
    line(format_args!("{area}: {text}"));
}

/// Prints one line.
pub(crate) fn line(text: impl Display) {
    writeln!(io::stdout(), "{text}").ok();
}

/// Prints `error: …` and its causes, one a line.
pub(crate) fn error(error: &anyhow::Error) {
    let mut stderr = io::stderr();
    writeln!(stderr, "error: {error}").ok();
    for cause in error.chain().skip(1) {
        writeln!(stderr, "  cause: {cause}").ok();
    }
}
