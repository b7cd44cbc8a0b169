//! `leakguard apply`: the same enforcement without an agent, for good or on trial.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid};

use super::args::ApplyArgs;
use super::confirm::{command, refuse_if_pending};
use super::output::Output;
use super::run::{place, require_tunnel};
use super::{errors, preflight, runtime};
use crate::config::{Config, Layer};
use crate::confirm::{Ended, Saved, Trial, forget_abandoned};
use crate::error::{Exit, chain};
use crate::guard::{Guard, Place, Presence};
use crate::kernel::pins::Pins;

/// Runs the command.
pub(super) fn run(args: &ApplyArgs) -> anyhow::Result<Exit> {
    refuse_if_pending(&args.control.control)?;
    match args.policy.load() {
        Ok(config) if !args.fail_closed || config.tunnels_named() => match args.confirm {
            None => for_good(args, &config),
            Some(limit) => on_trial(args, &config, limit),
        },
        // It names no tunnel, which is refused with what could be named.
        Ok(config) => {
            let refusal = runtime()?.block_on(require_tunnel(&config, "apply"));
            closed(args, refusal)
        }
        Err(error) if args.fail_closed => closed(args, Err(error)),
        Err(error) => Err(error),
    }
}

fn for_good(args: &ApplyArgs, config: &Config) -> anyhow::Result<Exit> {
    runtime()?.block_on(async {
        let place = prepare(args, config).await?;
        let (_guard, changed) = Guard::establish(config, &place, Presence::Leaves)
            .await
            .map_err(errors::guard)?;
        forget_abandoned(&args.control.control).map_err(errors::control)?;
        Output::stdout().line(outcome(changed))?;
        Ok(Exit::Done)
    })
}

/// Blocks every class on every interface, because the configuration cannot be used, and fails with the reason.
fn closed(args: &ApplyArgs, unusable: anyhow::Result<()>) -> anyhow::Result<Exit> {
    let config = Config::new(Layer::default())?;
    runtime()?.block_on(async {
        let place = place(&args.cgroup, args.bpffs.bpffs.clone())?;
        Guard::establish(&config, &place, Presence::Leaves)
            .await
            .map_err(errors::guard)
    })?;
    unusable
        .context("the configuration cannot be used, so DNS is blocked on every interface")
        .map(|()| Exit::Done)
}

async fn prepare(args: &ApplyArgs, config: &Config) -> anyhow::Result<Place> {
    require_tunnel(config, "apply").await?;
    preflight::check(config).await?;
    place(&args.cgroup, args.bpffs.bpffs.clone())
}

fn outcome(changed: bool) -> &'static str {
    if changed { "applied" } else { "unchanged" }
}

/// Enforces in a process of its own, which stays and waits; this one says what that one has done.
fn on_trial(args: &ApplyArgs, config: &Config, limit: Duration) -> anyhow::Result<Exit> {
    let (mut report, reporter) = UnixStream::pair().context("cannot make a pair of sockets")?;
    // SAFETY: this process has one thread: the runtime is started after this, and logging starts none.
    match unsafe { fork() }.context("cannot start the process that waits for the confirmation")? {
        ForkResult::Child => {
            drop(report);
            wait(args, config, limit, reporter)
        }
        ForkResult::Parent { child } => {
            drop(reporter);
            let mut changed = [0];
            if report.read_exact(&mut changed).is_err() {
                // It has said why.
                return Ok(exit_of(child));
            }
            Output::stdout().line(format_args!(
                "{}; it is rolled back in {} s unless you run: {}",
                outcome(changed != [0]),
                limit.as_secs(),
                command(&args.control.control)
            ))?;
            Ok(Exit::Done)
        }
    }
}

/// How a process that enforces nothing has ended.
fn exit_of(child: Pid) -> Exit {
    match waitpid(child, None) {
        Ok(WaitStatus::Exited(_, code)) => Exit::with_code(code),
        _ => Exit::Failed,
    }
}

/// The life of the process that waits.
fn wait(
    args: &ApplyArgs,
    config: &Config,
    limit: Duration,
    mut reporter: UnixStream,
) -> anyhow::Result<Exit> {
    let control = &args.control.control;
    // Nothing that ends the terminal or the session may end this one.
    setsid().context("cannot leave the session")?;
    // SAFETY: ignoring a signal installs no handler.
    unsafe { signal(Signal::SIGHUP, SigHandler::SigIgn) }.context("cannot ignore SIGHUP")?;
    runtime()?.block_on(async {
        let place = prepare(args, config).await?;
        forget_abandoned(control).map_err(errors::control)?;
        Saved::check_version(&Pins::at(&place.bpffs)).map_err(errors::guard)?;
        let trial = Trial::open(control).map_err(errors::control)?;
        let mut guard = Guard::prepare(config, &place, Presence::Leaves).map_err(errors::guard)?;
        let before = Saved::read(&guard).await.map_err(errors::guard)?;
        let changed = match guard.begin().await {
            Ok(changed) => changed,
            Err(error) => {
                let undone = match &before {
                    None => guard.release().await,
                    Some(saved) => saved.restore(&mut guard).await,
                };
                if let Err(error) = undone {
                    log::warn!("cannot undo what was begun: {}", chain(&error));
                }
                return Err(errors::guard(error));
            }
        };
        detach().unwrap_or_else(|error| log::warn!("cannot let go of the terminal: {error}"));
        if let Err(error) = reporter.write_all(&[u8::from(changed)]) {
            log::debug!("whoever called has gone: {error}");
        }
        drop(reporter);
        // It is large, and would be part of this future.
        let ended = Box::pin(trial.wait(guard, before, limit))
            .await
            .map_err(errors::guard)?;
        log::info!("{ended:?}");
        // For whoever has started this process and sees its end, such as systemd.
        Ok(match ended {
            Ended::Confirmed => Exit::Done,
            Ended::RolledBack => Exit::NotProtected,
            Ended::Released => Exit::Released,
        })
    })
}

/// Lets go of the caller's directory and files: a terminal or a connection that is closed waits for nobody then.
fn detach() -> io::Result<()> {
    chdir("/")?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok(())
}
