//! `leakguard events`: what was dropped, from the running agent.

use anyhow::{anyhow, bail};

use super::args::EventsArgs;
use super::errors;
use super::output::Output;
use crate::daemon::connect;
use crate::daemon::protocol::{Answer, Ask};
use crate::error::{Exit, WithExit as _};
use crate::event::Entry;

/// Runs the command.
pub(super) fn run(args: &EventsArgs) -> anyhow::Result<Exit> {
    let EventsArgs {
        json,
        follow,
        control,
    } = args;
    let question = Ask::Events {
        follow: *follow,
        packets: false,
    };
    let Some(mut agent) = connect(&control.control, &question).map_err(errors::control)? else {
        return Err(anyhow!(
            "no agent listens on {}; start one with `leakguard run`, or name its socket with --control",
            control.control.display()
        ))
        .with_exit(Exit::Failed);
    };
    let mut output = Output::stdout();
    while let Some(line) = agent.line()? {
        match serde_json::from_str::<Entry>(&line) {
            Ok(_) if *json => output.line(&line)?,
            Ok(event) => output.line(&event)?,
            Err(_) => match serde_json::from_str(&line) {
                Ok(Answer::Missed { events }) => log::warn!("too slow: missed {events} events"),
                Ok(Answer::Denied) => return Err(errors::control(agent.denied())),
                Ok(Answer::Refused { message }) => bail!(message),
                _ => bail!("the agent speaks another version; it sent: {line}"),
            },
        }
        if output.reader_gone() {
            return Ok(Exit::Done);
        }
    }
    if *follow {
        log::warn!("no more events: the agent has ended");
    }
    Ok(Exit::Done)
}
