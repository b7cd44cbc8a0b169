//! Where work is done, and how much of it.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use leakguard::lab::wait_until;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Work of less than this in [`WINDOW`] is what a program does that has nothing to do.
const IDLE: Duration = Duration::from_millis(2);
const WINDOW: Duration = Duration::from_millis(200);

/// How long a consumer may take to get through what is buffered.
pub(super) const LIMIT: Duration = Duration::from_mins(1);

/// The time that the threads of a process have run.
pub(super) fn of_process(pid: u32) -> Result<Duration> {
    let mut time = Duration::ZERO;
    for thread in threads(pid)? {
        let path = format!("/proc/{pid}/task/{thread}/schedstat");
        // A thread may end meanwhile.
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let ran = text.split_whitespace().next().context("an empty line")?;
        time += Duration::from_nanos(ran.parse()?);
    }
    Ok(time)
}

/// The time that several processes have run.
pub(super) fn of_processes(pids: &[u32]) -> Result<Duration> {
    pids.iter().map(|&pid| of_process(pid)).sum()
}

fn threads(pid: u32) -> Result<Vec<i32>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .with_context(|| format!("process {pid} has ended"))?;
    tasks
        .map(|task| Ok(task?.file_name().to_string_lossy().parse()?))
        .collect()
}

/// Waits until processes have nothing left to do; returns the time that they have run.
pub(super) fn at_rest(pids: &[u32]) -> Result<Duration> {
    let mut then = of_processes(pids)?;
    let mut since = Instant::now();
    let mut failure = None;
    wait_until("the consumer is done", LIMIT, || {
        match of_processes(pids) {
            Ok(now) if now.saturating_sub(then) > IDLE => (then, since) = (now, Instant::now()),
            Ok(_) => {}
            Err(error) => failure = Some(error),
        }
        Ok(failure.is_some() || since.elapsed() > WINDOW)
    })?;
    match failure {
        Some(error) => Err(error),
        None => of_processes(pids),
    }
}

/// Keeps a process to one processor, with all of its threads.
pub(super) fn pin(pid: u32, cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    for thread in threads(pid)? {
        sched_setaffinity(Pid::from_raw(thread), &cpus)?;
    }
    Ok(())
}
