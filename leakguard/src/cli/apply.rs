//! `leakguard apply`: the same enforcement without an agent.

use super::args::ApplyArgs;
use super::output::Output;
use super::run::{place, require_tunnel};
use super::{errors, runtime};
use crate::error::Exit;
use crate::guard::{Guard, Presence};

/// Runs the command.
pub(super) fn run(args: &ApplyArgs) -> anyhow::Result<Exit> {
    let ApplyArgs {
        policy,
        cgroup,
        bpffs,
    } = args;
    let config = policy.load()?;
    runtime()?.block_on(async {
        require_tunnel(&config, "apply").await?;
        let place = place(cgroup, bpffs.bpffs.clone())?;
        let (_guard, changed) = Guard::establish(&config, &place, Presence::Leaves)
            .await
            .map_err(errors::guard)?;
        Output::stdout().line(if changed { "applied" } else { "unchanged" })?;
        Ok(Exit::Done)
    })
}
