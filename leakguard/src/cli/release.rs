//! `leakguard release`: lift enforcement, with or without an agent.

use std::path::Path;

use anyhow::bail;

use super::args::ReleaseArgs;
use super::output::Output;
use super::{errors, runtime};
use crate::confirm::{self, forget_abandoned};
use crate::daemon::connect;
use crate::daemon::protocol::{Answer, Ask};
use crate::error::Exit;
use crate::guard;

/// Who lifted enforcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lifted {
    /// The agent, which has ended.
    ByAgent,
    /// The process that waited for a confirmation, which has ended.
    OnTrial,
    /// This process.
    Here,
    /// Nobody: there was none.
    Nothing,
}

/// Runs the command.
pub(super) fn run(args: &ReleaseArgs) -> anyhow::Result<Exit> {
    let ReleaseArgs { bpffs, control } = args;
    let lifted = lift(&bpffs.bpffs, &control.control)?;
    Output::stdout().line(match lifted {
        Lifted::ByAgent => "released; the agent has ended",
        Lifted::OnTrial | Lifted::Here => "released",
        Lifted::Nothing => "nothing was enforced",
    })?;
    Ok(Exit::Done)
}

/// Lifts enforcement, by asking whoever holds it.
pub(super) fn lift(bpffs: &Path, control: &Path) -> anyhow::Result<Lifted> {
    if ask(control)? {
        return Ok(Lifted::ByAgent);
    }
    if ask(&confirm::socket(control))? {
        return Ok(Lifted::OnTrial);
    }
    let released = runtime()?
        .block_on(guard::release(bpffs))
        .map_err(errors::guard)?;
    forget_abandoned(control).map_err(errors::control)?;
    Ok(if released {
        Lifted::Here
    } else {
        Lifted::Nothing
    })
}

/// Asks whoever listens on a socket to lift enforcement and end; says whether somebody did.
fn ask(socket: &Path) -> anyhow::Result<bool> {
    let Some(mut holder) = connect(socket, &Ask::Release {}).map_err(errors::control)? else {
        return Ok(false);
    };
    match holder.answer().map_err(errors::control)? {
        Answer::Done { .. } => Ok(true),
        Answer::Refused { message } => bail!(message),
        other => bail!("the agent gave an answer to another question: {other:?}"),
    }
}
