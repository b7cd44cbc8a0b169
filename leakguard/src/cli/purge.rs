//! `leakguard purge`: lift enforcement and remove every trace.

use std::path::Path;

use anyhow::{Context as _, bail};

use super::args::PurgeArgs;
use super::output::Output;
use super::release::{Lifted, lift};
use super::{errors, resolver};
use crate::config::DEFAULT_PATH;
use crate::error::{Exit, escape_control};
use crate::purge::{STATE_DIRECTORY, Swept, sweep};
use crate::resolver::Root;

/// Runs the command.
pub(super) fn run(args: &PurgeArgs) -> anyhow::Result<Exit> {
    let (bpffs, control) = (&args.bpffs.bpffs, &args.control.control);
    let lifted = lift(bpffs, control)?;
    let reverted = crate::resolver::revert(&Root::new("/")).map_err(errors::resolver);
    let Swept {
        removed,
        kept,
        failures,
    } = sweep(control, Path::new(STATE_DIRECTORY), bpffs);
    let mut output = Output::stdout();
    match lifted {
        Lifted::ByAgent => output.line("removed: enforcement; the agent has ended")?,
        Lifted::OnTrial | Lifted::Here => output.line("removed: enforcement")?,
        Lifted::Nothing
            if removed.is_empty()
                && failures.is_empty()
                && !reverted.as_ref().is_ok_and(|done| done.changed) =>
        {
            output.line("nothing was left")?;
        }
        Lifted::Nothing => {}
    }
    if let Ok(done) = &reverted {
        resolver::report(done, "wrote", &mut output)?;
    }
    for removed in removed {
        output.line(format_args!("removed: {}", escape_control(&removed)))?;
    }
    for kept in kept {
        output.line(format_args!("kept: {}", escape_control(&kept)))?;
    }
    if Path::new(DEFAULT_PATH).exists() {
        output.line(format_args!("kept: {DEFAULT_PATH}, which is yours"))?;
    }
    reverted.context("the host's resolver could not be put back")?;
    if !failures.is_empty() {
        bail!("not everything is gone: {}", failures.join("; "));
    }
    Ok(Exit::Done)
}
