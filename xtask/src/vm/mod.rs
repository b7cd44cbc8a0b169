//! `cargo xtask vm`: the kernel tier, and what else depends on the kernel, on Debian's kernels, in emulated machines.
//!
//! The machine at hand has one kernel; the fallbacks for older ones are only real where they have run. A guest is a
//! kernel package and an initramfs with the test binaries of this build. It is always emulated (TCG), never
//! virtualised: that works on every machine, at a tenth of the speed.

mod cpio;
mod guest;
pub(crate) mod initramfs;
pub(crate) mod kernel;
mod modules;
mod vmlinux;

use std::{process::ExitCode, time::Instant};

use anyhow::{Context as _, Result};

use self::{guest::Guest, initramfs::Payload, kernel::Kernel};
use crate::{
    build,
    report::{self, say},
    setup,
    test::{self, libtest::Tally},
    workspace::Metadata,
};

/// What is tested unless kernels are named: the fallbacks without TCX, and with it.
const DEFAULT_KERNELS: [&str; 2] = ["6.1", "6.12"];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Series of Debian's cloud kernels (`6.1`), or versions as in a package's name (`6.1.0-56-cloud-amd64`)
    /// [default: 6.1 6.12]
    #[arg(value_name = "KERNEL")]
    kernels: Vec<String>,
    /// Run only this suite: attribution, budgets, kernel, verdicts, carriers or ipvlan
    #[arg(long, value_name = "NAME")]
    suite: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let kernels: Vec<&str> = if args.kernels.is_empty() {
        DEFAULT_KERNELS.to_vec()
    } else {
        args.kernels.iter().map(String::as_str).collect()
    };
    Ok(tally(&kernels, args.suite.as_deref())?.conclude())
}

/// Runs the suites for other kernels on each of the kernels, or one suite, and counts.
pub(crate) fn tally(kernels: &[&str], suite: Option<&str>) -> Result<Tally> {
    setup::ensure_all()?;
    setup::ensure_emulator()?;
    let agent = build::agent(true)?;
    let target_dir = Metadata::load()?.target_dir()?;
    let payload = Payload {
        agent,
        suites: test::guest_binaries(suite)?,
        // Built with the tests.
        sender: target_dir.join("debug/leakguard-sender"),
    };
    let work_dir = target_dir.join("vm");

    let mut total = Tally::default();
    for &name in kernels {
        let started = Instant::now();
        let tally = Kernel::find(name)
            .and_then(|kernel| {
                say("vm", format_args!("{}: starting", kernel.version()));
                Guest::prepare(&kernel, &payload, &work_dir)?.run()
            })
            .with_context(|| format!("the guest with kernel {name} did not run"))
            .unwrap_or_else(|error| {
                report::error(&error);
                Tally::FAILED
            });
        let seconds = started.elapsed().as_secs_f64();
        say("vm", format_args!("{name}: {tally} ({seconds:.1} s)"));
        total += tally;
    }
    Ok(total)
}
