//! `leakguard verify`: an active leak test.

use std::time::Instant;

use super::args::VerifyArgs;
use super::output::Output;
use super::{errors, runtime};
use crate::error::{Exit, escape_control};
use crate::preflight::Sources;
use crate::verify::{Check, Report, Request, verify};

/// Runs the command.
pub(super) fn run(args: &VerifyArgs) -> anyhow::Result<Exit> {
    let (config, classes) = args.load()?;
    let VerifyArgs {
        quick,
        json,
        resolver,
        policy: _,
        bpffs,
    } = args;
    let request = Request {
        config,
        classes,
        resolver: *resolver,
        quick: *quick,
        bpffs: bpffs.bpffs.clone(),
        sources: Sources::default(),
    };
    let started = Instant::now();
    let report = runtime()?
        .block_on(verify(&request))
        .map_err(errors::verify)?;
    log::debug!("took {:?}", started.elapsed());
    let mut output = Output::stdout();
    if *json {
        output.line(serde_json::to_string(&report)?)?;
    } else {
        print(&report, &mut output)?;
    }
    Ok(if report.passed() {
        Exit::Done
    } else {
        Exit::NotProtected
    })
}

fn print(report: &Report, output: &mut Output) -> anyhow::Result<()> {
    let Report {
        run,
        result,
        checks,
        leaks,
        canaries,
        ..
    } = report;
    output.line(format_args!(
        "run        {run}: {canaries} packets, whose names are {run}-….invalid"
    ))?;
    for check in checks {
        let Check {
            part,
            name,
            interface,
            result,
            reason,
        } = check;
        let interface = interface.as_deref().unwrap_or_default();
        output.line(format_args!(
            "{:<12} {:<11} {name:<16} {:<9} {}",
            result.name(),
            part.name(),
            escape_control(interface),
            escape_control(reason)
        ))?;
    }
    let failures = checks
        .iter()
        .filter(|check| check.result.is_failure())
        .count();
    output.line(format_args!(
        "result     {}: {} packets left by an uplink, {failures} of {} checks failed",
        result.name(),
        leaks.len(),
        checks.len()
    ))?;
    Ok(())
}
