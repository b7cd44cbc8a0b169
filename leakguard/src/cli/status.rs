//! `leakguard status`: what is enforced now, with or without an agent.

use leakguard_common::abi::Verdict;
use serde::Serialize;

use super::args::StatusArgs;
use super::output::Output;
use super::{errors, runtime};
use crate::daemon::connect;
use crate::daemon::protocol::{Answer, Ask};
use crate::error::{Exit, escape_control};
use crate::status::{self, Status};

/// Runs the command.
pub(super) fn run(args: &StatusArgs) -> anyhow::Result<Exit> {
    let StatusArgs {
        json,
        min_level,
        bpffs,
        control,
    } = args;
    let status = runtime()?
        .block_on(status::read(&bpffs.bpffs))
        .map_err(errors::guard)?;
    let report = Report {
        agent: agent(&control.control),
        status,
    };
    let mut output = Output::stdout();
    if *json {
        output.line(serde_json::to_string(&report)?)?;
    } else {
        print(&report, &mut output)?;
    }
    Ok(if report.status.protects(*min_level) {
        Exit::Done
    } else {
        Exit::NotProtected
    })
}

#[derive(Debug, Serialize)]
struct Report {
    /// The agent's process; absent when none runs, which leaves enforcement as it is.
    agent: Option<u32>,
    #[serde(flatten)]
    status: Status,
}

/// The agent that answers; one that does not is as good as none.
fn agent(control: &std::path::Path) -> Option<u32> {
    let answer = connect(control, &Ask::Hello {}).and_then(|agent| match agent {
        Some(mut agent) => agent.answer().map(Some),
        None => Ok(None),
    });
    match answer {
        Ok(Some(Answer::Agent { pid, .. })) => Some(pid),
        Ok(_) => None,
        Err(error) => {
            log::warn!("{error}");
            None
        }
    }
}

fn print(report: &Report, output: &mut Output) -> anyhow::Result<()> {
    let Report { agent, status } = report;
    output.line(format_args!("level      {}", status.level.name()))?;
    for cause in &status.causes {
        output.line(format_args!("           {}", escape_control(cause)))?;
    }
    match agent {
        Some(pid) => output.line(format_args!("agent      running, pid {pid}"))?,
        None if status.mode.is_none() => output.line("agent      not running")?,
        None => output
            .line("agent      not running: new interfaces are blocked, but not attached to")?,
    }
    let Some(mode) = status.mode else {
        return Ok(());
    };
    output.line(format_args!(
        "mode       {mode}, {}",
        status.block.join(" ")
    ))?;
    if let Some(cgroup) = &status.cgroup {
        output.line(format_args!("cgroup     {}", cgroup.display()))?;
    }
    for interface in &status.interfaces {
        output.line(format_args!(
            "interface  {:<15} {:<7} {} tc {}",
            escape_control(&interface.name),
            interface.role,
            if interface.up { "up  " } else { "down" },
            interface.tc
        ))?;
    }
    for packets in &status.packets {
        output.line(format_args!(
            "packets    {:>9} {:<10} {:<9} {} {:<5} on {:<7} at {}",
            packets.count,
            packets.verdict,
            packets.class,
            packets.family,
            packets.protocol,
            packets.role,
            packets.hook
        ))?;
    }
    let caught = status.netfilter.routed.unwrap_or(0) + status.netfilter.bridged.unwrap_or(0);
    output.line(format_args!(
        "dropped    {}, and {caught} caught by the second net",
        status.total(Verdict::Drop)
    ))?;
    output.line(format_args!(
        "events     {} reported, {} lost",
        status.events.submitted, status.events.lost
    ))?;
    Ok(())
}
