//! One run of an emulated machine.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    console::{Outcome, Record},
    initramfs::{self, Payload},
    kernel::Kernel,
};
use crate::{process::Cmd, test::Suite};

/// All suites take some minutes; a machine that is busy or slow may take longer.
const LIMIT: Duration = Duration::from_mins(40);

/// A machine that is ready to start.
pub(super) struct Guest {
    machine: Cmd,
    suites: usize,
    log: PathBuf,
}

impl Guest {
    /// Packs the initramfs; its files are called as the row.
    pub(super) fn prepare(
        name: &str,
        kernel: &Kernel,
        payload: &Payload,
        suites: &[&Suite],
        work_dir: &Path,
    ) -> Result<Self> {
        fs::create_dir_all(work_dir)
            .with_context(|| format!("cannot create {}", work_dir.display()))?;
        let initramfs = work_dir.join(format!("{name}.cpio"));
        initramfs::write(&initramfs, kernel, payload, suites)?;
        Ok(Self {
            machine: emulated(kernel, &initramfs),
            suites: suites.len(),
            log: work_dir.join(format!("{name}.log")),
        })
    }

    /// Runs it to its end; a suite without a result has failed, and then the console is shown.
    pub(super) fn run(&self) -> Result<Outcome> {
        let mut record = Record::create(&self.log)?;
        let status = self.machine.lines(|text| record.take(text))?;
        let ended = record.has_ended();
        let outcome = record.finish(self.suites)?;
        if !ended {
            // Says whether the time was up.
            self.machine.check(status)?;
        }
        Ok(outcome)
    }
}

fn emulated(kernel: &Kernel, initramfs: &Path) -> Cmd {
    // KVM would be faster where it works; where it is itself emulated, stock kernels do not start on it.
    Cmd::new("qemu-system-x86_64", LIMIT)
        .args(["-machine", "q35"])
        .args(["-accel", "tcg,thread=multi", "-cpu", "max"])
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
        ))
}
