//! `leakguard confirm`: keep what `apply --confirm` has enforced. And what the other commands do while that is pending.

use std::path::Path;

use anyhow::bail;

use super::args::ConfirmArgs;
use super::errors;
use super::output::Output;
use crate::confirm::{self, Pending};
use crate::daemon::connect;
use crate::daemon::protocol::{Answer, Ask};
use crate::error::{Exit, escape_control};

/// Runs the command.
pub(super) fn run(args: &ConfirmArgs) -> anyhow::Result<Exit> {
    let control = &args.control.control;
    let question = connect(&confirm::socket(control), &Ask::Confirm {});
    let Some(mut process) = question.map_err(errors::control)? else {
        if confirm::forget_abandoned(control).map_err(errors::control)? {
            Output::stdout().line(
                "kept; the process that waited for this had been killed, so nothing would have rolled it back",
            )?;
            return Ok(Exit::Done);
        }
        bail!(
            "nothing waits for a confirmation: it was confirmed or rolled back already, or `leakguard apply \
             --confirm` was never run; see `leakguard status`"
        );
    };
    match process.answer().map_err(errors::control)? {
        Answer::Done { .. } => Output::stdout().line("confirmed; what is enforced stays")?,
        Answer::Refused { message } => bail!(message),
        other => bail!("an answer to another question: {other:?}"),
    }
    Ok(Exit::Done)
}

/// Refuses to change what waits for a confirmation, and forgets one that nobody waits for any more.
pub(super) fn refuse_if_pending(control: &Path) -> anyhow::Result<()> {
    match confirm::pending(control).map_err(errors::control)? {
        Pending::Yes { remaining, .. } => bail!(
            "what is enforced waits for a confirmation, {} s left: keep it with `{}`, or wait until it is rolled back",
            remaining.as_secs(),
            command(control)
        ),
        Pending::No | Pending::Abandoned => Ok(()),
    }
}

/// The command that confirms.
pub(super) fn command(control: &Path) -> String {
    if control == Path::new(super::args::DEFAULT_CONTROL) {
        return "leakguard confirm".into();
    }
    format!(
        "leakguard confirm --control {}",
        escape_control(&control.display().to_string())
    )
}
