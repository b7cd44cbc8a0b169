//! `leakguard status`: what is enforced now, with or without an agent.

use std::net::IpAddr;

use leakguard_common::abi::Verdict;
use serde::Serialize;

use super::args::StatusArgs;
use super::output::Output;
use super::{errors, runtime};
use crate::config::KillSwitchMode;
use crate::confirm::{self, Pending};
use crate::daemon::protocol::{Answer, Ask};
use crate::daemon::{ClientCounts, ControlError, HealthReport, connect};
use crate::error::{Exit, chain, escape_control};
use crate::outputs::OutputReport;
use crate::status::{self, Doh, KillSwitch, Netfilter, Redirect, Status};

/// Runs the command.
pub(super) fn run(args: &StatusArgs) -> anyhow::Result<Exit> {
    let StatusArgs {
        json,
        min_level,
        require_agent,
        bpffs,
        control,
    } = args;
    let status = runtime()?
        .block_on(status::read(&bpffs.bpffs))
        .map_err(errors::guard)?;
    let (agent, health) = agent(&control.control).unzip();
    let report = Report {
        agent,
        health,
        confirmation: confirmation(&control.control),
        status,
    };
    let mut output = Output::stdout();
    if *json {
        output.line(serde_json::to_string(&report)?)?;
    } else {
        print(&report, &mut output)?;
    }
    let is_missed = *require_agent && !works(&control.control);
    Ok(if report.status.protects(*min_level) && !is_missed {
        Exit::Done
    } else {
        Exit::NotProtected
    })
}

/// Whether an agent is there and its owner, who enforces, answers.
fn works(control: &std::path::Path) -> bool {
    match asked(control, &Ask::Works {}) {
        Ok(Some(Answer::Done { .. })) => return true,
        Ok(Some(Answer::Refused { message })) => {
            log::warn!("the agent: {}", escape_control(&message));
        }
        Ok(Some(other)) => log::warn!("the agent gave an answer to another question: {other:?}"),
        Ok(None) => log::warn!("no agent runs"),
        Err(error) => log::warn!("{}", chain(&error)),
    }
    false
}

#[derive(Debug, Serialize)]
struct Report {
    /// The agent's process; absent when none runs, which leaves enforcement as it is.
    agent: Option<u32>,
    /// What the agent has had to mend since it started; absent with it.
    health: Option<HealthReport>,
    /// What waits for `leakguard confirm`; absent if nothing does.
    confirmation: Option<Confirmation>,
    #[serde(flatten)]
    status: Status,
}

/// What `apply --confirm` has enforced.
#[derive(Debug, Serialize)]
struct Confirmation {
    /// `pending`; or `abandoned`, if the process that waited was killed, so that nothing will roll it back.
    state: &'static str,
    /// The process that will roll it back.
    pid: Option<u32>,
    /// The time until then, in seconds.
    remaining: Option<u64>,
}

fn confirmation(control: &std::path::Path) -> Option<Confirmation> {
    match confirm::pending(control) {
        Ok(Pending::Yes { pid, remaining }) => Some(Confirmation {
            state: "pending",
            pid: Some(pid),
            remaining: Some(remaining.as_secs()),
        }),
        Ok(Pending::Abandoned) => Some(Confirmation {
            state: "abandoned",
            pid: None,
            remaining: None,
        }),
        Ok(Pending::No) => None,
        Err(error) => {
            log::warn!("{error}");
            None
        }
    }
}

/// What the agent answers; `None` if none runs.
fn asked(control: &std::path::Path, question: &Ask) -> Result<Option<Answer>, ControlError> {
    let agent = connect(control, question)?;
    agent.map(|mut agent| agent.answer()).transpose()
}

/// The agent that answers; one that does not is as good as none.
fn agent(control: &std::path::Path) -> Option<(u32, HealthReport)> {
    match asked(control, &Ask::Hello {}) {
        Ok(Some(Answer::Agent { pid, health, .. })) => Some((pid, health)),
        Ok(_) => None,
        Err(error) => {
            log::warn!("{error}");
            None
        }
    }
}

/// The kill switch in a few words.
fn described(kill_switch: &KillSwitch) -> String {
    let KillSwitch {
        mode,
        engaged,
        tunnel,
        endpoints,
        dhcp,
        ndp,
        lan,
    } = kill_switch;
    if *mode == KillSwitchMode::Off.name() {
        return (*mode).to_owned();
    }
    let state = match tunnel {
        Some(tunnel) => format!("not engaged: {} is up", escape_control(tunnel)),
        None if *engaged => "engaged".to_owned(),
        None => "not engaged".to_owned(),
    };
    let mut exempt = vec![format!("{endpoints} endpoints")];
    exempt.extend(dhcp.then(|| "dhcp".to_owned()));
    exempt.extend(ndp.then(|| "ndp".to_owned()));
    exempt.extend(lan.iter().cloned());
    format!("{mode}, {state}; exempt: {}", exempt.join(", "))
}

fn print(report: &Report, output: &mut Output) -> anyhow::Result<()> {
    let Report {
        agent,
        health,
        confirmation,
        status,
    } = report;
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
    if let Some(HealthReport {
        repairs,
        netlink_resyncs,
        resolver_restores,
        outputs,
        clients,
    }) = health
    {
        let mended: Vec<String> = repairs
            .iter()
            .filter(|&(_, &count)| count > 0)
            .map(|(part, count)| format!("{part} {count}"))
            .collect();
        let mended = if mended.is_empty() {
            "none".to_owned()
        } else {
            mended.join(", ")
        };
        output.line(format_args!(
            "repairs    {mended}; netlink re-read {netlink_resyncs} times; resolver put back {resolver_restores} times"
        ))?;
        for (name, counted) in outputs {
            let OutputReport {
                delivered,
                lagged,
                failed,
            } = counted;
            output.line(format_args!(
                "output     {name:<9} {delivered} events written; lost: {lagged} too slow, {failed} failed"
            ))?;
        }
        let ClientCounts {
            following,
            refused,
            dropped,
        } = clients;
        output.line(format_args!(
            "clients    {following} read events; {refused} refused, {dropped} dropped"
        ))?;
    }
    match confirmation {
        Some(Confirmation { remaining: Some(remaining), .. }) => output.line(format_args!(
            "confirm    pending: rolled back in {remaining} s unless you run `leakguard confirm`"
        ))?,
        Some(_) => output.line(
            "confirm    the process that waited was killed: nothing will roll back; keep it with `leakguard confirm`",
        )?,
        None => {}
    }
    let Some(mode) = status.mode else {
        return Ok(());
    };
    output.line(format_args!(
        "mode       {mode}, {}",
        status.block.join(" ")
    ))?;
    if let Some(redirect) = &status.redirect {
        let Redirect {
            to,
            up,
            near,
            spared,
        } = redirect;
        let to: Vec<String> = to.iter().map(IpAddr::to_string).collect();
        let state = if *up {
            ""
        } else {
            ", no tunnel is up: calls fail"
        };
        output.line(format_args!(
            "redirect   port 53 to {}{state}; left alone: {near} networks here, {spared} listed",
            to.join(" and ")
        ))?;
    }
    if let Some(Doh { addresses, names }) = status.doh {
        output.line(format_args!(
            "doh        {addresses} addresses and {names} names are known"
        ))?;
    }
    if let Some(kill_switch) = &status.kill_switch {
        output.line(format_args!("kill switch {}", described(kill_switch)))?;
    }
    if let Some(ipv6) = status.ipv6 {
        output.line(format_args!("ipv6       {ipv6}"))?;
    }
    if let Some(hardening) = &status.hardening {
        output.line(format_args!(
            "hardening  packet sockets {}; setsockopt {}, netdev {}",
            hardening.packet_sockets, hardening.setsockopt, hardening.netdev
        ))?;
        for warning in hardening.inventory.warnings() {
            output.line(format_args!("           {warning}"))?;
        }
    }
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
    let Netfilter {
        routed,
        bridged,
        egress,
    } = status.netfilter;
    let caught: u64 = [routed, bridged, egress].into_iter().flatten().sum();
    output.line(format_args!(
        "dropped    {}, and {caught} caught by the second net",
        status.total(Verdict::Drop)
    ))?;
    output.line(format_args!(
        "events     {} packets reported, {} suppressed, {} lost",
        status.events.submitted, status.events.suppressed, status.events.lost
    ))?;
    Ok(())
}
