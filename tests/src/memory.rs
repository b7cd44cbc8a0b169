//! A limit on memory, and the kernel's way of keeping it.

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitStatus};
use std::time::Duration;

use leakguard::host::mounts;
use leakguard::lab::{output_within, wait_until};

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

/// A cgroup of the memory controller with a limit, of whichever version the machine has; removed when dropped.
#[derive(Debug)]
pub struct MemoryLimit {
    directory: PathBuf,
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
        let name = format!("leakguard-{}-memory", process::id());
        let made = |root: &Path, limit, kills| {
            let directory = root.join(&name);
            fs::create_dir(&directory).unwrap();
            let made = Self { directory, kills };
            fs::write(made.directory.join(limit), LIMIT).unwrap();
            made
        };
        for mount in mounts().unwrap() {
            let root = mount.point;
            let controls = fs::read_to_string(root.join("cgroup.subtree_control"));
            if mount.fs_type == "cgroup" && root.join("memory.limit_in_bytes").exists() {
                return made(&root, "memory.limit_in_bytes", "memory.oom_control");
            }
            if mount.fs_type == "cgroup2"
                && controls
                    .is_ok_and(|controls| controls.split_whitespace().any(|one| one == "memory"))
            {
                return made(&root, "memory.max", "memory.events");
            }
        }
        panic!(
            "no memory controller here: mount the cgroup v1 one, or write +memory to cgroup.subtree_control of the \
             cgroup2 root"
        );
    }

    /// Puts a process under the limit; it is the first that the kernel takes if the limit is reached.
    pub fn expose(&self, pid: u32) {
        fs::write(self.directory.join("cgroup.procs"), pid.to_string()).unwrap();
        fs::write(format!("/proc/{pid}/oom_score_adj"), "1000").unwrap();
    }

    /// Fills the memory up to the limit and beyond; gives how whoever did so ended: he goes when nobody else is left.
    pub fn exhaust(&self) -> ExitStatus {
        let members = fs::File::options()
            .write(true)
            .open(self.directory.join("cgroup.procs"))
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
        let text = fs::read_to_string(self.directory.join(self.kills)).unwrap();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.unwrap().parse().unwrap()
    }
}

impl Default for MemoryLimit {
    fn default() -> Self {
        Self::new()
    }
}

#[expect(
    clippy::print_stderr,
    reason = "a test that is over can only be told of what it leaves behind"
)]
impl Drop for MemoryLimit {
    fn drop(&mut self) {
        // Whoever was killed leaves it a moment later.
        let removed = wait_until("the memory cgroup is empty", Duration::from_secs(5), || {
            Ok(fs::remove_dir(&self.directory).is_ok())
        });
        if let Err(error) = removed {
            eprintln!("{}: {error}", self.directory.display());
        }
    }
}
