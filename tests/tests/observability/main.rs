//! What `deploy/` has for Prometheus, Grafana and collectors: read by the real programs, beside a real agent.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod collectors;
mod dashboard;
mod rules;
mod watch;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use leakguard::lab::output_within;

/// How long anything that has to happen may take.
const LIMIT: Duration = Duration::from_mins(1);

/// A file of the project.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(file(path)).unwrap()
}

/// Runs a program to its end.
fn run(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments);
    output_within(command, LIMIT).unwrap()
}

/// All that it has said.
fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
