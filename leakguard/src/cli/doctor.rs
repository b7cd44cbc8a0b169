//! `leakguard doctor`: what is wrong with this host, and what to do.

use anyhow::anyhow;
use serde::Serialize;

use super::args::DoctorArgs;
use super::output::{Output, OutputError};
use super::runtime;
use crate::config::Source;
use crate::doctor::messages::{self, Explanation};
use crate::doctor::{DoctorError, Finding, Report, Request, Rule, Severity, examine};
use crate::error::{Exit, WithExit as _, escape_control};
use crate::status;

/// Runs the command.
pub(super) fn run(args: &DoctorArgs) -> anyhow::Result<Exit> {
    let runtime = runtime()?;
    let mut output = Output::stdout();
    if let Some(text) = &args.error {
        // Without the privilege to look, the rest can still be said.
        let status = runtime.block_on(status::read(&args.bpffs.bpffs)).ok();
        let explanations = messages::explain(text, status.as_ref());
        if explanations.is_empty() {
            return Err(anyhow!(
                "no message that is known is in that text; docs/doctor.md lists them"
            ));
        }
        if args.json {
            output.line(serde_json::to_string(&Explained { v: 1, explanations })?)?;
        } else {
            explain(&explanations, &mut output)?;
        }
        return Ok(Exit::Done);
    }
    let request = Request {
        root: args.root.clone(),
        source: args.policy.source.config.clone().map(Source::Required),
        layer: args.policy.layer(),
        bpffs: args.bpffs.bpffs.clone(),
        control: args.control.control.clone(),
    };
    let report = runtime.block_on(examine(&request));
    let report = match report {
        Err(error @ (DoctorError::Rule(_) | DoctorError::Root { .. })) => {
            Err(error).with_exit(Exit::Usage)
        }
        report => Ok(report?),
    }?;
    if args.json {
        output.line(serde_json::to_string(&report)?)?;
    } else {
        print(&report, &mut output)?;
    }
    Ok(if report.worst == Severity::Problem {
        Exit::NotProtected
    } else {
        Exit::Done
    })
}

#[derive(Debug, Serialize)]
struct Explained {
    v: u32,
    explanations: Vec<Explanation>,
}

fn print(report: &Report, output: &mut Output) -> Result<(), OutputError> {
    for Finding {
        rule:
            Rule {
                id,
                subject,
                severity,
                title,
                why,
            },
        evidence,
        remedy,
    } in &report.findings
    {
        output.line(format_args!(
            "{:<9} {subject}: {title} [{id}]",
            severity.name()
        ))?;
        for line in evidence {
            output.line(format_args!("          {}", escape_control(line)))?;
        }
        output.line(format_args!("     why  {why}"))?;
        for (number, line) in remedy.lines().enumerate() {
            let word = if number == 0 { "do" } else { "" };
            output.line(format_args!("{word:>8}  {}", escape_control(line)))?;
        }
    }
    if !report.ok.is_empty() {
        let subjects: Vec<&str> = report.ok.iter().map(|subject| subject.name()).collect();
        output.line(format_args!("{:<9} {}", "ok", subjects.join(", ")))?;
    }
    if !report.unseen.is_empty() {
        let subjects: Vec<&str> = report.unseen.iter().map(|subject| subject.name()).collect();
        output.line(format_args!("{:<9} {}", "not seen", subjects.join(", ")))?;
    }
    let count = |severity: Severity| {
        let findings = report.findings.iter();
        findings
            .filter(|finding| finding.rule.severity == severity)
            .count()
    };
    output.line(format_args!(
        "{} problems, {} warnings, {} notes",
        count(Severity::Problem),
        count(Severity::Warning),
        count(Severity::Note)
    ))
}

fn explain(explanations: &[Explanation], output: &mut Output) -> Result<(), OutputError> {
    for Explanation {
        message,
        said_by,
        means,
        leakguard,
        supported: _,
        now,
        remedy,
    } in explanations
    {
        output.line(format_args!("message    {message}"))?;
        output.line(format_args!("said by    {said_by}"))?;
        output.line(format_args!("means      {means}"))?;
        output.line(format_args!("leakguard  {leakguard}"))?;
        output.line(format_args!("now        {now}"))?;
        output.line(format_args!("do         {remedy}"))?;
    }
    Ok(())
}
