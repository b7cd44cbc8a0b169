//! How many instructions user space executes for its work: `tests/budgets.toml` says how many it may.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use leakguard::lab::output_within;
use leakguard_tests::{Budgets, WorkBudget, work_binary};

/// Emulated, each takes less than a second.
const LIMIT: Duration = Duration::from_mins(1);

/// What valgrind counts while a piece of work is done that many times.
fn executed(binary: &Path, work: &str, times: u64) -> u64 {
    const COUNT: &str = "Collected : ";

    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(binary)
        .args([work, &times.to_string()]);
    let output = output_within(command, LIMIT).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let line = said.lines().find_map(|line| line.split_once(COUNT));
    line.unwrap().1.trim().parse().unwrap()
}

#[test]
fn every_piece_of_work_stays_within_its_budget() {
    const FEW: u64 = 1_000;
    const MANY: u64 = 11_000;

    let binary = work_binary();
    println!("| work | instructions | at most |");
    println!("|---|---|---|");
    for (
        work,
        WorkBudget {
            instructions,
            reason,
        },
    ) in Budgets::read().work
    {
        assert!(!reason.is_empty(), "{work}");
        // What start and end take is in both.
        let [few, many] = [FEW, MANY].map(|times| executed(&binary, &work, times));
        let each = (many - few) / (MANY - FEW);
        println!("| {work} | {each} | {instructions} |");
        assert!(each <= instructions, "{work}: {each} instructions");
        // A budget that is far too large guards nothing.
        assert!(each * 2 > instructions, "{work}: only {each} instructions");
    }
}
