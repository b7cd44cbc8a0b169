//! What the agent itself takes, under the names that Prometheus gives to that.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeVal;

/// What this process has taken so far; what cannot be read has no series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Usage {
    /// On all processors, in user space and in the kernel.
    pub(super) cpu: Option<Duration>,
    /// What is in memory, in bytes.
    pub(super) resident: Option<u64>,
    /// How many descriptors are open.
    pub(super) open_fds: Option<u64>,
    /// How many may be.
    pub(super) max_fds: Option<u64>,
    /// When the agent began, since 1970.
    pub(super) started: Duration,
}

impl Usage {
    /// Reads it, for a process that began then.
    pub(super) fn read(started: SystemTime) -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            cpu: getrusage(UsageWho::RUSAGE_SELF)
                .ok()
                .map(|usage| duration(usage.user_time()) + duration(usage.system_time())),
            resident: resident(&status),
            open_fds: fs::read_dir("/proc/self/fd")
                .ok()
                .and_then(|entries| u64::try_from(entries.count()).ok()),
            max_fds: getrlimit(Resource::RLIMIT_NOFILE)
                .ok()
                .map(|(soft, _)| soft),
            started: started.duration_since(UNIX_EPOCH).unwrap_or_default(),
        }
    }
}

fn duration(time: TimeVal) -> Duration {
    let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
    let micros = u64::try_from(time.tv_usec()).unwrap_or_default();
    Duration::from_secs(seconds) + Duration::from_micros(micros)
}

/// `VmRSS` of `/proc/PID/status`, which is in KiB.
fn resident(status: &str) -> Option<u64> {
    let rest = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = rest.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_takes_something() {
        let now = SystemTime::now();
        let usage = Usage::read(now);
        assert!(usage.resident.unwrap() > 1 << 20, "{usage:?}");
        assert!(usage.open_fds.unwrap() >= 3, "{usage:?}");
        assert!(usage.open_fds < usage.max_fds, "{usage:?}");
        assert!(usage.cpu.is_some());
        assert_eq!(usage.started, now.duration_since(UNIX_EPOCH).unwrap());
    }

    #[test]
    fn a_process_without_memory_of_its_own_has_no_figure() {
        assert_eq!(
            resident("Name:\tx\nVmRSS:\t    2048 kB\n"),
            Some(2048 * 1024)
        );
        assert_eq!(resident("Name:\tkthreadd\n"), None);
        assert_eq!(resident("VmRSS:\tnonsense\n"), None);
    }
}
