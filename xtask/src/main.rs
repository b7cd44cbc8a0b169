//! Development commands: `cargo xtask <command>`.
//!
//! Every command does its own set-up, so that a fresh clone needs no other step. One file (or
//! directory) per subcommand; what they share is [`process`], [`workspace`] and [`report`].

mod bench;
mod boot;
mod build;
mod ci;
mod demo;
mod dist;
mod fleet;
mod fuzz;
mod kube;
mod lint;
mod nspawn;
mod process;
mod report;
mod setup;
mod soak;
mod test;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Development commands of leakguard.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find or install what building, demonstrating and testing need.
    Setup(setup::Args),
    /// Build the agent with its kernel programs embedded.
    Build(build::Args),
    /// Show a DNS leak and how it is stopped, in a throw-away network.
    Demo(demo::Args),
    /// Run the tests; ends with `N passed, N failed`.
    Test(test::Args),
    /// Run the long forms of the tests that have one: more repetitions, more interfaces.
    Soak(soak::Args),
    /// Run what depends on the kernel on Debian's kernels, in emulated machines; prints a table of kernels.
    #[command(name = "vm-test", alias = "vm")]
    Vm(vm::Args),
    /// Boot Debian with the units, in emulated machines, and look for DNS from power-on to power-off.
    Boot(boot::Args),
    /// Set up whom Debian asks for names, with its own systemd-resolved, `NetworkManager` and dhclient, and revert it.
    Nspawn(nspawn::Args),
    /// Make the packages: a .deb, an image for containers, an archive; with `--check`, install, upgrade and remove them.
    Dist(dist::Args),
    /// Roll leakguard out with Ansible to three Debians, one of which is lost on the way, and back.
    Fleet(fleet::Args),
    /// Look at the Helm chart and the manifests for Kubernetes; ends with `N passed, N failed`.
    Kube(kube::Args),
    /// Measure what leakguard costs, beside what could be used in its place; prints tables, draws diagrams.
    Bench(bench::Args),
    /// Formatting, architecture rules, systemd units, shell scripts, playbooks, clippy on the host and the BPF target, cargo-deny.
    Lint,
    /// What continuous integration runs: lint, all tests, a short run of each fuzzer.
    Ci,
    /// Fuzz the packet parser, the verdict and the reader of DNS names.
    Fuzz(fuzz::Args),
    /// What takes longer: ten million packets compared with another parser, then fuzzing.
    Nightly(fuzz::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Setup(args) => setup::run(&args),
        Command::Build(args) => build::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Soak(args) => soak::run(args),
        Command::Vm(args) => vm::run(&args),
        Command::Boot(args) => boot::run(&args),
        Command::Nspawn(args) => nspawn::run(&args),
        Command::Dist(args) => dist::run(&args),
        Command::Fleet(args) => fleet::run(&args),
        Command::Kube(args) => kube::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Lint => lint::run(),
        Command::Ci => ci::run(),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Nightly(args) => fuzz::nightly(&args),
    };
    outcome.unwrap_or_else(|error| {
        report::error(&error);
        ExitCode::FAILURE
    })
}
