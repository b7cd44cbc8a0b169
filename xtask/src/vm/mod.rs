//! `cargo xtask vm-test`: what depends on the kernel, on Debian's kernels, in emulated machines; ends with a table.
//!
//! The machine at hand has one kernel; the fallbacks for older ones are only real where they have run. A guest is a
//! kernel package and an initramfs with the test binaries of this build. It is always emulated (TCG), never
//! virtualised: that works on every machine, at a tenth of the speed. The machine's own kernel is a row as well.

mod console;
mod cpio;
mod guest;
mod host;
pub(crate) mod initramfs;
pub(crate) mod kernel;
mod matrix;
mod modules;
mod vmlinux;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};

use self::{console::Outcome, guest::Guest, initramfs::Payload, kernel::Kernel, matrix::Row};
use crate::{
    build,
    report::{self, line, say},
    setup,
    test::{
        self, GUEST_TARGETS, KERNEL_TARGETS, NO_BTF_TARGET, QUICK_TARGETS, REDIRECT_TARGETS, Suite,
        libtest::Tally,
    },
    workspace::Metadata,
};

/// The name of the machine's own kernel.
const HOST: &str = "host";

/// The name of one that does not show its type information, and which one it is.
const NO_BTF: &str = "no-btf";
const NO_BTF_KERNEL: &str = "6.1";

/// What is tested unless kernels are named, from the least that a kernel has to the most.
const DEFAULT_KERNELS: [&str; 8] = [
    NO_BTF,
    "6.1-oldest",
    "6.1",
    "6.1-generic",
    "6.12",
    "6.12-generic",
    "6.12-rt",
    HOST,
];

/// Those of them that are other builds of what is there already: redirection is not tried again, which takes longest.
const OTHER_BUILDS: [&str; 4] = ["6.1-oldest", "6.1-generic", "6.12-generic", "6.12-rt"];

/// The file of the table, below the directory of this command.
const MATRIX: &str = "matrix.md";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Series of Debian's cloud kernels (`6.1`), with a flavour (`6.1-generic`, `6.12-rt`), `6.1-oldest`, versions as in
    /// a package's name (`6.1.0-56-cloud-amd64`), `no-btf` or `host`
    /// [default: no-btf 6.1-oldest 6.1 6.1-generic 6.12 6.12-generic 6.12-rt host]
    #[arg(value_name = "KERNEL")]
    kernels: Vec<String>,
    /// Run only this suite (may be repeated), on the kernels that have what it needs
    #[arg(long = "suite", value_name = "NAME")]
    suites: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let kernels: Vec<&str> = if args.kernels.is_empty() {
        DEFAULT_KERNELS.to_vec()
    } else {
        args.kernels.iter().map(String::as_str).collect()
    };
    let plan: Vec<(&str, Vec<&str>)> = kernels
        .into_iter()
        .map(|kernel| (kernel, targets(kernel, &args.suites)))
        .filter(|(_, targets)| !targets.is_empty())
        .collect();
    ensure!(
        !plan.is_empty(),
        "no kernel that is named has such a suite; there are {}",
        [
            KERNEL_TARGETS,
            GUEST_TARGETS,
            REDIRECT_TARGETS,
            &[NO_BTF_TARGET]
        ]
        .concat()
        .join(", ")
    );
    let path = work_dir()?.join(MATRIX);
    // After every kernel: the next one takes minutes, and may be waited for in vain.
    let rows = rows(&plan, |rows| {
        let text = matrix::render(rows);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    })?;
    line(format_args!("\n{}", matrix::render(&rows)));
    say(
        "vm-test",
        format_args!("the table is in {}", path.display()),
    );
    Ok(sum(&rows).conclude())
}

/// Runs the suites that take no longer than continuous integration may on each of the kernels, and counts.
pub(crate) fn quick(kernels: &[&str]) -> Result<Tally> {
    let plan: Vec<_> = kernels
        .iter()
        .map(|kernel| (*kernel, QUICK_TARGETS.to_vec()))
        .collect();
    Ok(sum(&rows(&plan, |_| Ok(()))?))
}

fn sum(rows: &[Row]) -> Tally {
    let mut total = Tally::default();
    for row in rows {
        total += row.outcome.tally;
    }
    total
}

/// The test targets for a kernel; or those of these names for which the kernel has what they need.
fn targets(kernel: &str, only: &[impl AsRef<str>]) -> Vec<&'static str> {
    let possible = match kernel {
        NO_BTF => vec![&[NO_BTF_TARGET][..]],
        HOST => vec![KERNEL_TARGETS, REDIRECT_TARGETS],
        _ if only.is_empty() && OTHER_BUILDS.contains(&kernel) => {
            vec![KERNEL_TARGETS, GUEST_TARGETS]
        }
        _ => vec![KERNEL_TARGETS, GUEST_TARGETS, REDIRECT_TARGETS],
    };
    let possible = possible.concat();
    let wanted =
        |target: &&str| only.is_empty() || only.iter().any(|only| only.as_ref() == *target);
    possible.into_iter().filter(wanted).collect()
}

fn work_dir() -> Result<PathBuf> {
    Ok(Metadata::load()?.target_dir()?.join("vm"))
}

/// Builds what is tested, and runs it on one kernel after the other; `each` is told what there is after each of them.
fn rows(
    plan: &[(&str, Vec<&'static str>)],
    each: impl Fn(&[Row]) -> Result<()>,
) -> Result<Vec<Row>> {
    setup::ensure_all()?;
    setup::ensure_emulator()?;
    let mut all: Vec<&str> = plan
        .iter()
        .flat_map(|(_, targets)| targets.clone())
        .collect();
    all.sort_unstable();
    all.dedup();
    let payload = Payload {
        agent: build::agent(true)?,
        suites: test::guest_binaries(&all)?,
        // Built with the tests.
        sender: Metadata::load()?
            .target_dir()?
            .join("debug/leakguard-sender"),
    };
    let work_dir = work_dir()?;

    let mut rows = Vec::new();
    for (name, targets) in plan {
        let started = Instant::now();
        let suites = payload.suites.iter();
        let suites = suites.filter(|suite| targets.contains(&suite.name.as_str()));
        let row = row(name, &payload, &suites.collect::<Vec<_>>(), &work_dir)
            .with_context(|| format!("the suites did not run on kernel {name}"))
            .unwrap_or_else(|error| {
                report::error(&error);
                Row {
                    kernel: (*name).to_owned(),
                    outcome: Outcome::failed(),
                }
            });
        let seconds = started.elapsed().as_secs_f64();
        let tally = row.outcome.tally;
        say("vm-test", format_args!("{name}: {tally} ({seconds:.1} s)"));
        rows.push(row);
        each(&rows)?;
    }
    Ok(rows)
}

fn row(name: &str, payload: &Payload, suites: &[&Suite], work_dir: &Path) -> Result<Row> {
    if name == HOST {
        let release = host::release()?;
        say("vm-test", format_args!("{release}: this machine"));
        return Ok(Row {
            kernel: format!("{release} (this machine)"),
            outcome: host::run(payload, suites, work_dir)?,
        });
    }
    let (series, more) = match name {
        NO_BTF => (NO_BTF_KERNEL, ", without BTF"),
        _ => (name, ""),
    };
    let kernel = Kernel::find(series)?;
    say("vm-test", format_args!("{}: starting", kernel.version()));
    let outcome = Guest::prepare(name, &kernel, payload, suites, work_dir)?.run()?;
    Ok(Row {
        kernel: format!("{}{more}", kernel.version()),
        outcome,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_runs_where_the_kernel_has_what_it_needs() {
        let all = |kernel| targets(kernel, &[] as &[&str]);
        assert_eq!(all(NO_BTF), [NO_BTF_TARGET]);
        assert!(!all("6.12-rt").contains(&"redirection"));
        assert!(all("6.1").contains(&"redirection"));
        assert!(targets(HOST, &["devices"]).is_empty());
        assert_eq!(targets("6.12-rt", &["redirection"]), ["redirection"]);
        for quick in QUICK_TARGETS {
            assert_eq!(targets("6.1", &[quick]), [*quick]);
        }
    }
}
