//! `leakguard run`: enforce, watch and report in the foreground.

use std::path::PathBuf;

use anyhow::Context as _;

use super::args::{CgroupArgs, LogFormat, RunArgs};
use super::confirm::refuse_if_pending;
use super::{errors, preflight, runtime};
use crate::config::{Config, Mode};
use crate::confirm::forget_abandoned;
use crate::daemon::{self, Ended, Form, Printer};
use crate::error::{Exit, WithExit as _};
use crate::guard::{Guard, Place};
use crate::host::cgroup2_root;
use crate::interfaces::{Link, snapshot, visible_tunnels};
use crate::kernel::object::Loaded;
use leakguard_common::abi::Role;

/// Runs the command.
pub(super) fn run(args: &RunArgs, format: LogFormat) -> anyhow::Result<Exit> {
    let RunArgs {
        policy: _,
        min_level,
        outputs: _,
        cgroup,
        bpffs,
        control,
    } = args;
    let config = args.load()?;
    refuse_if_pending(&control.control)?;
    forget_abandoned(&control.control).map_err(errors::control)?;
    let printer = Printer::start(match format {
        LogFormat::Text => Form::Text,
        LogFormat::Json => Form::Json,
    })
    .context("cannot start the thread that prints events")?;
    runtime()?.block_on(async {
        require_tunnel(&config, "run").await?;
        preflight::check(&config).await?;
        let place = place(cgroup, bpffs.bpffs.clone())?;
        let agent = daemon::run(
            &config,
            &place,
            &control.control,
            *min_level,
            printer,
            |guard| announce(guard, config.mode()),
        );
        // All that the agent holds is in it.
        let ended = Box::pin(agent).await.map_err(errors::daemon)?;
        if ended == Ended::Kept {
            log::info!(
                "ended; enforcement stays in the kernel, `leakguard release --bpffs {}` lifts it",
                bpffs.bpffs.display()
            );
        } else {
            log::info!("ended; enforcement is lifted");
        }
        Ok(match ended {
            Ended::Kept | Ended::Lifted => Exit::Done,
            Ended::Released => Exit::Released,
        })
    })
}

/// Says what is enforced now, or only observed.
fn announce(guard: &Guard, mode: Mode) {
    for Loaded {
        name,
        verified_instructions,
        jited_bytes,
    } in guard.loaded()
    {
        log::debug!("{name}: {verified_instructions:?} instructions verified, {jited_bytes} bytes");
    }
    let named = |role| {
        let names: Vec<&str> = guard
            .interfaces()
            .values()
            .filter(|interface| interface.role == role)
            .map(|interface| interface.name.as_str())
            .collect();
        if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(", ")
        }
    };
    let tunnels = named(Role::Tunnel);
    if tunnels == "none" && mode == Mode::Enforce {
        log::warn!(
            "no interface matches the tunnel patterns yet: DNS is blocked on every uplink until one does"
        );
    }
    log::info!(
        "{}; tunnel: {tunnels}; uplink: {}; local: {}",
        match mode {
            Mode::Enforce => "enforcing",
            Mode::Observe => "observing, nothing is dropped",
        },
        named(Role::Uplink),
        named(Role::Local)
    );
}

/// What is protected: the named cgroup or the whole host.
pub(super) fn place(cgroup: &CgroupArgs, bpffs: PathBuf) -> anyhow::Result<Place> {
    let cgroup = match &cgroup.cgroup {
        Some(cgroup) => cgroup.clone(),
        None => cgroup2_root().with_exit(Exit::Missing)?,
    };
    Ok(Place { cgroup, bpffs })
}

/// Refuses to block all DNS because nobody has said which interface may carry it.
pub(super) async fn require_tunnel(config: &Config, command: &str) -> anyhow::Result<()> {
    if config.tunnels_named() {
        return Ok(());
    }
    let snapshot = snapshot().await.context("cannot list the interfaces")?;
    let tunnels = visible_tunnels(&snapshot);
    let hint = match &tunnels[..] {
        [] => format!(
            "no interface here looks like one; start the VPN, or name it: leakguard {command} --tunnel NAME"
        ),
        [first, ..] => format!(
            "these look like tunnels: {}; for example: leakguard {command} --tunnel {}",
            tunnels
                .iter()
                .map(|link| described(link))
                .collect::<Vec<_>>()
                .join(", "),
            first.name
        ),
    };
    Err(anyhow::anyhow!(
        "no tunnel is named, so DNS would be blocked on every interface; {hint}"
    ))
    .with_exit(Exit::Usage)
}

fn described(link: &Link) -> String {
    match &link.kind {
        Some(kind) => format!("{} ({kind})", link.name),
        None => link.name.clone(),
    }
}
