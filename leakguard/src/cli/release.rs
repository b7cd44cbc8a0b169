//! `leakguard release`: lift enforcement, with or without an agent.

use anyhow::bail;

use super::args::ReleaseArgs;
use super::output::Output;
use super::{errors, runtime};
use crate::daemon::connect;
use crate::daemon::protocol::{Answer, Ask};
use crate::error::Exit;
use crate::guard;

/// Runs the command.
pub(super) fn run(args: &ReleaseArgs) -> anyhow::Result<Exit> {
    let ReleaseArgs { bpffs, control } = args;
    let mut output = Output::stdout();
    if let Some(mut agent) = connect(&control.control, &Ask::Release {}).map_err(errors::control)? {
        match agent.answer().map_err(errors::control)? {
            Answer::Done { .. } => output.line("released; the agent has ended")?,
            Answer::Refused { message } => bail!(message),
            other => bail!("the agent gave an answer to another question: {other:?}"),
        }
        return Ok(Exit::Done);
    }
    let released = runtime()?
        .block_on(guard::release(&bpffs.bpffs))
        .map_err(errors::guard)?;
    output.line(if released {
        "released"
    } else {
        "nothing was enforced"
    })?;
    Ok(Exit::Done)
}
