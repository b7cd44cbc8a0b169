//! `cargo xtask ci`: what continuous integration runs.

use std::{process::ExitCode, time::Instant};

use anyhow::Result;

use crate::{
    dist, fuzz, kube, lint,
    report::{self, say},
    test::{self, libtest::Tally},
    vm,
};

/// The short form of the kernel matrix: the kernel that takes every fallback.
const KERNELS: [&str; 1] = ["6.1"];

/// Something that is counted, and its name.
type Part = (&'static str, fn() -> Result<Tally>);

/// What is run, in this order.
const PARTS: [Part; 5] = [
    ("the tests", || test::tally(&test::Args::default())),
    ("the chart", || kube::tally(&kube::Args::default())),
    ("the packages", dist::quick),
    ("the fuzzers", fuzz::tally),
    ("the kernels", || vm::quick(&KERNELS)),
];

/// Lints first: they fail in seconds. The last line is the tests' `N passed, N failed`.
pub(crate) fn run() -> Result<ExitCode> {
    lint::check()?;
    let mut total = Tally::default();
    for (name, tally) in PARTS {
        let began = Instant::now();
        total += tally().unwrap_or_else(|error| {
            // The others still say what they know.
            report::error(&error.context(format!("{name}: not all was run")));
            Tally::FAILED
        });
        let minutes = began.elapsed().as_secs_f64() / 60.0;
        say("ci", format_args!("{name}: {minutes:.1} minutes"));
    }
    Ok(total.conclude())
}
