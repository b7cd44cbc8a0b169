//! Where the calling thread runs.

use anyhow::Result;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Keeps the calling thread to one processor while `work` is done.
pub(crate) fn pinned<T>(cpu: usize, work: impl FnOnce() -> T) -> Result<T> {
    let myself = Pid::from_raw(0);
    let before = sched_getaffinity(myself)?;
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    sched_setaffinity(myself, &cpus)?;
    let done = work();
    sched_setaffinity(myself, &before)?;
    Ok(done)
}
