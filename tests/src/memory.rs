//! A limit on memory, and the kernel's way of keeping it.

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use leakguard::lab::output_within;

use crate::bounded::Bounded;

/// Room for the agent, and little more.
const LIMIT: &str = "67108864";
/// How long memory of this size may take to fill.
const PATIENCE: Duration = Duration::from_mins(1);

/// What a process holds of the machine's memory, in KiB.
#[derive(Clone, Copy, Debug)]
pub struct Resident {
    /// Now.
    pub now: u64,
    /// At most, until now.
    pub most: u64,
}

/// What a process holds of the machine's memory; `None` if it has none any more.
pub fn resident(pid: u32) -> Option<Resident> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kilobytes = |name| {
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some(Resident {
        now: kilobytes("VmRSS:")?,
        most: kilobytes("VmHWM:")?,
    })
}

/// A cgroup of the memory controller with a limit; removed when dropped.
#[derive(Debug)]
pub struct MemoryLimit {
    cgroup: Bounded,
    /// The file that counts processes which the kernel has killed for want of memory.
    kills: &'static str,
}

impl MemoryLimit {
    /// Makes one.
    ///
    /// # Panics
    ///
    /// If the machine has no memory controller that a child cgroup could use.
    pub fn new() -> Self {
        let cgroup = Bounded::new("memory", "memory.limit_in_bytes", "memory");
        let (limit, kills) = if cgroup.is_unified() {
            ("memory.max", "memory.events")
        } else {
            ("memory.limit_in_bytes", "memory.oom_control")
        };
        cgroup.set(limit, LIMIT);
        Self { cgroup, kills }
    }

    /// Puts a process under the limit; it is the first that the kernel takes if the limit is reached.
    pub fn expose(&self, pid: u32) {
        self.cgroup.add(pid);
        fs::write(format!("/proc/{pid}/oom_score_adj"), "1000").unwrap();
    }

    /// Fills the memory up to the limit and beyond; gives how whoever did so ended: he goes when nobody else is left.
    pub fn exhaust(&self) -> ExitStatus {
        let members = fs::File::options()
            .write(true)
            .open(self.cgroup.file("cgroup.procs"))
            .unwrap();
        // It keeps what it reads until a line ends, which never happens.
        let mut glutton = Command::new("tail");
        glutton.arg("/dev/zero");
        // SAFETY: write is async-signal-safe, and the closure neither allocates nor locks.
        unsafe {
            // "0" is the process that writes.
            glutton.pre_exec(move || (&members).write_all(b"0"));
        }
        output_within(glutton, PATIENCE).unwrap().status
    }

    /// How many processes the kernel has killed under this limit.
    pub fn kills(&self) -> u64 {
        let text = fs::read_to_string(self.cgroup.file(self.kills)).unwrap();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.unwrap().parse().unwrap()
    }
}

impl Default for MemoryLimit {
    fn default() -> Self {
        Self::new()
    }
}
