//! `leakguard apply`: the same enforcement without an agent.

use super::args::{ApplyArgs, PolicyArgs};
use super::output::Output;
use super::run::{place, require_tunnel};
use super::{errors, runtime};
use crate::config::{Config, Layer};
use crate::error::Exit;
use crate::guard::{Guard, Presence};

/// Runs the command.
pub(super) fn run(args: &ApplyArgs) -> anyhow::Result<Exit> {
    let ApplyArgs {
        policy,
        fail_closed,
        cgroup,
        bpffs,
    } = args;
    runtime()?.block_on(async {
        let (config, unusable) = match usable(policy).await {
            Ok(config) => (config, None),
            // Without a tunnel, and every class.
            Err(error) if *fail_closed => (Config::new(Layer::default())?, Some(error)),
            Err(error) => return Err(error),
        };
        let place = place(cgroup, bpffs.bpffs.clone())?;
        let (_guard, changed) = Guard::establish(&config, &place, Presence::Leaves)
            .await
            .map_err(errors::guard)?;
        if let Some(error) = unusable {
            return Err(error.context(
                "the configuration cannot be used, so DNS is blocked on every interface",
            ));
        }
        Output::stdout().line(if changed { "applied" } else { "unchanged" })?;
        Ok(Exit::Done)
    })
}

/// The configuration, if it can be enforced.
async fn usable(policy: &PolicyArgs) -> anyhow::Result<Config> {
    let config = policy.load()?;
    require_tunnel(&config, "apply").await?;
    Ok(config)
}
