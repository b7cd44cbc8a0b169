//! `leakguard audit`: whether an audit log is as it was written.

use super::args::{AuditArgs, AuditCommand, AuditVerifyArgs};
use super::output::Output;
use crate::error::{Exit, WithExit as _, escape_control};
use crate::outputs::audit::{Head, Report, verify};

/// Runs the command.
pub(super) fn run(args: &AuditArgs) -> anyhow::Result<Exit> {
    let AuditCommand::Verify(AuditVerifyArgs {
        file,
        expect_last,
        json,
    }) = &args.command;
    let report = verify(file, *expect_last).with_exit(Exit::Usage)?;
    let mut output = Output::stdout();
    if *json {
        output.line(serde_json::to_string(&report)?)?;
    } else {
        print(&report, expect_last.is_some(), &mut output)?;
    }
    Ok(if report.intact {
        Exit::Done
    } else {
        Exit::NotProtected
    })
}

fn print(report: &Report, expected: bool, output: &mut Output) -> anyhow::Result<()> {
    let Report {
        intact,
        lines,
        torn,
        last: Head { line, hash },
        continues,
        problem_count,
        problems,
    } = report;
    for problem in problems {
        output.line(format_args!(
            "line {:<6} {}",
            problem.at,
            escape_control(&problem.message)
        ))?;
    }
    if *problem_count > problems.len() as u64 {
        output.line(format_args!(
            "and {} more",
            problem_count - problems.len() as u64
        ))?;
    }
    let verdict = if *intact { "intact" } else { "NOT intact" };
    output.line(format_args!(
        "{verdict}: {lines} lines, {problem_count} problems"
    ))?;
    if *torn > 0 {
        output.line(format_args!(
            "{torn} lines were cut by a crash; the lines behind them say so"
        ))?;
    }
    if let Some(continues) = continues {
        output.line(format_args!(
            "goes on from the file whose last hash is {continues}"
        ))?;
    }
    output.line(format_args!("last line  {line}"))?;
    output.line(format_args!("last hash  {hash}"))?;
    if *intact && !expected {
        output.line(
            "Whether lines are missing at the end cannot be seen: compare with a hash that was kept elsewhere (--expect-last).",
        )?;
    }
    Ok(())
}
