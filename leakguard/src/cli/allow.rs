//! `leakguard allow`: change the tunnels at run time.

use anyhow::bail;
use leakguard_common::abi::Role;

use super::args::{AllowArgs, AllowChangeArgs, AllowCommand, AllowListArgs};
use super::confirm::refuse_if_pending;
use super::output::Output;
use super::{errors, runtime};
use crate::daemon::connect;
use crate::daemon::protocol::{Answer, Ask};
use crate::error::{Exit, WithExit as _, escape_control};
use crate::guard::{self, GuardError};
use crate::status;

/// Runs the command.
pub(super) fn run(args: &AllowArgs) -> anyhow::Result<Exit> {
    match &args.command {
        AllowCommand::Add(args) => change(args, true),
        AllowCommand::Remove(args) => change(args, false),
        AllowCommand::List(args) => list(args),
    }
}

/// The loopback device of every network namespace.
const LOOPBACK: &str = "lo";

fn change(args: &AllowChangeArgs, allow: bool) -> anyhow::Result<Exit> {
    let AllowChangeArgs {
        interface,
        bpffs,
        control,
    } = args;
    if interface == LOOPBACK {
        return Err(anyhow::anyhow!(
            "{LOOPBACK} is this host itself: DNS over it does not leave, and is never blocked"
        ))
        .with_exit(Exit::Usage);
    }
    let question = Ask::Allow {
        interface: interface.clone(),
        allow,
    };
    let changed =
        if let Some(mut agent) = connect(&control.control, &question).map_err(errors::control)? {
            match agent.answer().map_err(errors::control)? {
                Answer::Done { changed } => changed,
                Answer::Refused { message } => {
                    return Err(anyhow::anyhow!(message)).with_exit(Exit::Usage);
                }
                other => bail!("the agent gave an answer to another question: {other:?}"),
            }
        } else {
            refuse_if_pending(&control.control)?;
            let role = if allow { Role::Tunnel } else { Role::Uplink };
            runtime()?
                .block_on(guard::set_role(&bpffs.bpffs, interface, role))
                .map_err(errors::guard)?
        };
    let interface = escape_control(interface);
    let mut output = Output::stdout();
    match (changed, allow) {
        (false, _) => output.line("unchanged")?,
        (true, true) => output.line(format_args!("{interface} may carry DNS"))?,
        (true, false) => output.line(format_args!("{interface} may not carry DNS"))?,
    }
    Ok(Exit::Done)
}

fn list(args: &AllowListArgs) -> anyhow::Result<Exit> {
    let status = runtime()?
        .block_on(status::read(&args.bpffs.bpffs))
        .map_err(errors::guard)?;
    if status.mode.is_none() {
        return Err(errors::guard(GuardError::NotEnforcing));
    }
    let mut output = Output::stdout();
    for interface in status.interfaces {
        if interface.role == Role::Tunnel.name() {
            output.line(escape_control(&interface.name))?;
        }
    }
    Ok(Exit::Done)
}
