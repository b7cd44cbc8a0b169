//! The command line: one subcommand per module, their options in [`args`].
//!
//! This is where errors of the other modules get their exit code, and the only place that writes to standard output.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use crate::error::{self, Exit};

mod allow;
mod apply;
pub mod args;
mod audit;
mod config;
mod confirm;
mod demo;
mod doctor;
mod errors;
mod events;
mod explain;
mod logging;
mod output;
mod output_file;
mod pcap;
mod preflight;
mod purge;
mod release;
mod report;
mod resolver;
mod run;
mod status;
mod top;
mod verify;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "leakguard",
    version,
    about = "Keep DNS inside the tunnel, enforced in the Linux kernel",
    after_help = TOP_HELP,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: args::LogArgs,
}

const TOP_HELP: &str = "\
Examples:
  leakguard demo                         see it work in a throw-away network
  sudo leakguard run --tunnel wg0        only wg0 may carry DNS, until `leakguard release`
  sudo leakguard status                  what is enforced now, read from the kernel

Exit codes: 0 done or protected, 1 failed, 2 bad usage or configuration,
            3 not protected as wanted, 4 a kernel feature or privilege is missing";

#[derive(Debug, Subcommand)]
enum Command {
    /// Enforce, watch interfaces and report what is dropped, in the foreground
    Run(args::RunArgs),
    /// Enforce without an agent, then exit (early boot, cron, Ansible)
    Apply(args::ApplyArgs),
    /// Keep what `apply --confirm` has enforced
    Confirm(args::ConfirmArgs),
    /// Show what is enforced now, with or without an agent
    Status(args::StatusArgs),
    /// Show the packets that were dropped and who sent them
    Events(args::EventsArgs),
    /// Watch rates, interfaces and senders live
    Top(args::TopArgs),
    /// Make a page of recorded events: who, what, when
    Report(args::ReportArgs),
    /// Send what must not leave, and count what does; ask the tunnel's resolver
    Verify(args::VerifyArgs),
    /// Say what would become of a packet, and why, without sending it
    Explain(args::ExplainArgs),
    /// Find what is wrong with this host, why it matters, and what to do
    Doctor(args::DoctorArgs),
    /// Add, remove or list tunnels at run time
    Allow(args::AllowArgs),
    /// Set up whom this host asks for names, and put it back
    Resolver(args::ResolverArgs),
    /// Find out whether an audit log was changed
    Audit(args::AuditArgs),
    /// Lift enforcement
    Release(args::ReleaseArgs),
    /// Lift enforcement and remove every trace but the configuration file
    Purge(args::PurgeArgs),
    /// Check a configuration file, or show what applies
    Config(args::ConfigArgs),
    /// Show a leak, and how it is stopped, in a throw-away network
    ///
    /// Builds a host, its ISP and a VPN server in network namespaces of their own, with a real WireGuard tunnel and
    /// real resolvers. Shows a DNS lookup leaking, turns leakguard on, shows the same lookup refused and reported, and
    /// takes everything down again. The machine's own network, DNS and root cgroup are not touched. Needs root.
    Demo,
}

/// Runs the command line of this process and reports an error on standard error.
pub fn main() -> ExitCode {
    let Cli { command, log } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error).into(),
    };
    logging::start(&log);
    let result = match &command {
        Command::Run(args) => run::run(args, log.log_format),
        Command::Apply(args) => apply::run(args),
        Command::Confirm(args) => confirm::run(args),
        Command::Status(args) => status::run(args),
        Command::Events(args) => events::run(args),
        Command::Top(args) => top::run(args),
        Command::Report(args) => report::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Allow(args) => allow::run(args),
        Command::Resolver(args) => resolver::run(args),
        Command::Audit(args) => audit::run(args),
        Command::Release(args) => release::run(args),
        Command::Purge(args) => purge::run(args),
        Command::Config(args) => config::run(args),
        Command::Demo => demo::run(),
    };
    result
        .unwrap_or_else(|error| {
            // Nobody is left to tell if standard error is closed; the exit code still says it.
            drop(io::stderr().write_all(error::render(&error).as_bytes()));
            Exit::of(&error)
        })
        .into()
}

/// The one thread that everything asynchronous runs on.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")
}

/// Prints what clap has to say: help and version, or what is wrong with the command line.
fn refuse(error: &clap::Error) -> Exit {
    // As above: the exit code says it too.
    drop(error.print());
    if error.use_stderr() {
        Exit::Usage
    } else {
        Exit::Done
    }
}

#[cfg(test)]
mod tests;
