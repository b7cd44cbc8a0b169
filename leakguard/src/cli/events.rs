//! `leakguard events`: what was dropped, from the running agent.

use anyhow::{anyhow, bail};

use serde::Deserialize;

use super::args::EventsArgs;
use super::errors;
use super::output::Output;
use super::pcap::{PcapOutput, Target};
use crate::daemon::protocol::{Answer, Ask, Captured};
use crate::daemon::{Conversation, connect};
use crate::error::{Exit, WithExit as _};
use crate::event::Entry;

/// Runs the command.
pub(super) fn run(args: &EventsArgs) -> anyhow::Result<Exit> {
    let EventsArgs {
        json,
        follow,
        pcap,
        control,
    } = args;
    let target = pcap.as_deref().map(Target::check).transpose()?;
    let question = Ask::Events {
        follow: *follow,
        packets: target.is_some(),
    };
    let Some(mut agent) = connect(&control.control, &question).map_err(errors::control)? else {
        return Err(anyhow!(
            "no agent listens on {}; start one with `leakguard run`, or name its socket with --control",
            control.control.display()
        ))
        .with_exit(Exit::Failed);
    };
    let ended = match target {
        Some(target) => capture(&mut agent, target.begin()?)?,
        None => print(&mut agent, *json)?,
    };
    if *follow && ended {
        log::warn!("no more events: the agent has ended, or this was too slow for too long");
    }
    Ok(Exit::Done)
}

/// How much is printed at once, at the most.
const BATCH_BYTES: usize = 64 * 1024;

/// What every event has, and nothing else that an agent says.
#[derive(Deserialize)]
struct Numbered {
    #[serde(rename = "v")]
    _version: u32,
    #[serde(rename = "seq")]
    _number: u64,
}

/// Prints events; says whether the agent has ended them.
fn print(agent: &mut Conversation, json: bool) -> anyhow::Result<bool> {
    let mut output = Output::stdout();
    let mut lines = String::new();
    while let Some(line) = agent.line()? {
        let written = if json {
            // A reader of JSON may know more of events than this does.
            serde_json::from_str::<Numbered>(&line).map(|_| lines.push_str(&line))
        } else {
            serde_json::from_str::<Entry>(&line).map(|event| lines.push_str(&event.to_string()))
        };
        if written.is_ok() {
            lines.push('\n');
        } else {
            flush(&mut output, &mut lines)?;
            other(agent, &line)?;
        }
        // What has come together is printed together.
        if lines.len() < BATCH_BYTES && agent.has_line() {
            continue;
        }
        flush(&mut output, &mut lines)?;
        if output.reader_gone() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Prints what is there, if anything is.
fn flush(output: &mut Output, lines: &mut String) -> anyhow::Result<()> {
    if let Some(whole) = lines.strip_suffix('\n') {
        output.line(whole)?;
        lines.clear();
    }
    Ok(())
}

/// Writes packets; says whether the agent has ended them.
fn capture(agent: &mut Conversation, mut output: PcapOutput) -> anyhow::Result<bool> {
    while let Some(line) = agent.line()? {
        match serde_json::from_str::<Captured>(&line) {
            Ok(captured) => output.add(&captured)?,
            Err(_) => other(agent, &line)?,
        }
        // Whoever reads the file while it grows sees all there is when nothing more comes for now.
        if !agent.has_line() {
            output.flush()?;
        }
        if output.reader_gone() {
            return Ok(false);
        }
    }
    output.finish()?;
    Ok(true)
}

/// What the agent says that is no event.
fn other(agent: &Conversation, line: &str) -> anyhow::Result<()> {
    match serde_json::from_str(line) {
        Ok(Answer::Missed { events }) => log::warn!("too slow: missed {events} events"),
        Ok(Answer::Denied) => return Err(errors::control(agent.denied())),
        Ok(Answer::Refused { message }) => bail!(message),
        _ => bail!("the agent speaks another version; it sent: {line}"),
    }
    Ok(())
}
