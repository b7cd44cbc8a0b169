//! One run of an emulated machine, and what its console says.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    initramfs::{self, END, Payload},
    kernel::Kernel,
};
use crate::{
    process::Cmd,
    report::{line, say},
    test::libtest::{Line, Tally},
};

/// The suites take a minute; a machine that is busy or slow may take longer.
const LIMIT: Duration = Duration::from_mins(10);

/// How tests mark a line that is worth showing when they pass, too.
const MEASURED: &str = "measured: ";

/// A machine that is ready to start.
pub(super) struct Guest {
    qemu: Cmd,
    suites: usize,
    log: PathBuf,
}

impl Guest {
    /// Packs the initramfs.
    pub(super) fn prepare(kernel: &Kernel, payload: &Payload, work_dir: &Path) -> Result<Self> {
        fs::create_dir_all(work_dir)
            .with_context(|| format!("cannot create {}", work_dir.display()))?;
        let initramfs = work_dir.join(format!("{}.cpio", kernel.version()));
        initramfs::write(&initramfs, kernel, payload)?;
        // KVM would be faster where it works; where it is itself emulated, stock kernels do not start on it.
        let qemu = Cmd::new("qemu-system-x86_64", LIMIT)
            .args([
                "-machine",
                "q35",
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                "max",
            ])
            .args(["-smp", "2", "-m", "1024", "-nodefaults", "-display", "none"])
            .args(["-serial", "stdio", "-no-reboot"])
            .arg("-kernel")
            .arg(kernel.vmlinux())
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", "console=ttyS0 quiet panic=-1"])
            .label(format!(
                "qemu-system-x86_64 with kernel {}",
                kernel.version()
            ));
        Ok(Self {
            qemu,
            suites: payload.suites.len(),
            log: work_dir.join(format!("{}.log", kernel.version())),
        })
    }

    /// Runs it to its end; a suite without a result has failed, and then the console is shown.
    pub(super) fn run(&self) -> Result<Tally> {
        let mut log = File::create(&self.log)
            .with_context(|| format!("cannot create {}", self.log.display()))?;
        let mut console = Console::default();
        let status = self.qemu.lines(|text| {
            let text = text.trim_end_matches('\r');
            console.take(text);
            // At once, for who wants to watch.
            writeln!(log, "{text}").with_context(|| format!("cannot write {}", self.log.display()))
        })?;
        let Console {
            mut tally,
            results,
            ended,
            ..
        } = console;
        if !ended || results < self.suites {
            tally += Tally::FAILED;
        }
        if tally.failed > 0 {
            let text = fs::read_to_string(&self.log)
                .with_context(|| format!("cannot read {}", self.log.display()))?;
            line(format_args!(
                "---- console ----\n{text}---- end of the console ----"
            ));
            say(
                "vm",
                format_args!("the console is in {}", self.log.display()),
            );
        }
        if !ended {
            // Says whether the time was up.
            self.qemu.check(status)?;
        }
        Ok(tally)
    }
}

/// What the console has said so far.
#[derive(Debug, Default)]
struct Console {
    tally: Tally,
    /// How many suites have said how they ended.
    results: usize,
    ended: bool,
    suite: Option<(String, Instant)>,
}

impl Console {
    fn take(&mut self, text: &str) {
        match Line::parse(text) {
            Line::Suite(name) => self.suite = Some((name, Instant::now())),
            Line::Result(tally) => {
                if let Some((name, started)) = self.suite.take() {
                    let seconds = started.elapsed().as_secs_f64();
                    line(format_args!("  {name} ... {tally} ({seconds:.1} s)"));
                    self.results += 1;
                    self.tally += tally;
                }
            }
            Line::Other => {
                if let Some(measured) = text.strip_prefix(MEASURED) {
                    line(format_args!("    {measured}"));
                }
                self.ended |= text == END;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Console {
        let mut console = Console::default();
        for line in lines {
            console.take(line);
        }
        console
    }

    #[test]
    fn every_suite_counts_once() {
        let console = read(&[
            "     Running verdicts (/suites/verdicts)",
            "test result: ok. 7 passed; 0 failed; 0 ignored",
            "     Running kernel (/suites/kernel)",
            "test result: FAILED. 1 passed; 1 failed; 0 ignored",
            END,
        ]);
        assert_eq!(
            console.tally,
            Tally {
                passed: 8,
                failed: 1
            }
        );
        assert_eq!(console.results, 2);
        assert!(console.ended);
    }

    #[test]
    fn a_guest_that_panics_has_not_ended() {
        let console = read(&[
            "     Running verdicts (/suites/verdicts)",
            "[    3.1] Kernel panic - not syncing",
        ]);
        assert_eq!((console.results, console.ended), (0, false));
    }
}
