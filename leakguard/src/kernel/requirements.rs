//! What must be there before anything is attached; each lack is named with its remedy.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, statfs};

use super::KernelError;

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Checks that this process may load and attach programs.
pub fn check_privileges() -> Result<(), KernelError> {
    const STATUS: &str = "/proc/self/status";
    const IDS: &str = "/proc/self/uid_map";
    let status = fs::read_to_string(STATUS).map_err(KernelError::call("read", STATUS))?;
    let effective = effective_capabilities(&status).unwrap_or_default();
    // Capabilities in another user namespace are none for bpf(2), but may be enough to break things.
    let ids = fs::read_to_string(IDS).map_err(KernelError::call("read", IDS))?;
    if !ids.split_whitespace().eq(["0", "0", "4294967295"]) {
        return Err(missing(
            "a privilege on the host (this is a user namespace of its own)",
            "run leakguard outside of it, as root",
        ));
    }
    let has = |capability: u32| effective & (1 << capability) != 0;
    if has(CAP_NET_ADMIN) && (has(CAP_SYS_ADMIN) || (has(CAP_BPF) && has(CAP_PERFMON))) {
        return Ok(());
    }
    Err(missing(
        "a privilege (CAP_NET_ADMIN, and CAP_BPF with CAP_PERFMON or CAP_SYS_ADMIN)",
        "run leakguard as root",
    ))
}

/// Lifts the limits on open files and on locked memory, which kernels before 5.11 charge maps and programs to.
///
/// Later kernels charge the memory cgroup and do not ask, so that being refused is no failure yet.
pub(super) fn lift_limits() {
    if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
        log::debug!("cannot lift the limit on locked memory: {error}");
    }
    // Every link is held open, and there is one for each uplink.
    let lifted = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = lifted {
        log::debug!("cannot lift the limit on open files: {error}");
    }
}

/// The effective capabilities in the text of `/proc/PID/status`.
pub(crate) fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Checks that a directory is on cgroup2, and gives its id.
pub fn check_cgroup(path: &Path) -> Result<u64, KernelError> {
    let remedy = || {
        format!(
            "name a directory of a cgroup2 mount with --cgroup (see `grep cgroup2 /proc/self/mountinfo`), or \
             mount one: mkdir -p {0} && mount -t cgroup2 cgroup2 {0}",
            "/sys/fs/cgroup"
        )
    };
    match statfs(path) {
        Ok(found) if found.filesystem_type() == CGROUP2_SUPER_MAGIC => {
            let metadata = fs::metadata(path)
                .map_err(KernelError::call("stat", path.display().to_string()))?;
            // The id of a cgroup is the inode of its directory (kernfs, 64-bit systems, 5.5 and later).
            Ok(metadata.ino())
        }
        Ok(_) => Err(missing(format!("cgroup2 at {}", path.display()), remedy())),
        Err(error) => Err(KernelError::Missing {
            what: format!("cgroup2 at {}", path.display()),
            remedy: remedy(),
            source: Some(Box::new(error)),
        }),
    }
}

/// Whether a directory is on a bpffs.
pub fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

/// The kernel's type information, if it has any.
pub fn kernel_btf() -> Option<PathBuf> {
    let path = PathBuf::from("/sys/kernel/btf/vmlinux");
    path.exists().then_some(path)
}

pub(super) fn missing(what: impl Into<String>, remedy: impl Into<String>) -> KernelError {
    KernelError::Missing {
        what: what.into(),
        remedy: remedy.into(),
        source: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_status_file() {
        let status = "Name:\tx\nCapEff:\t000000c000201000\nSeccomp:\t0\n";
        assert_eq!(effective_capabilities(status), Some(0x00c0_0020_1000));
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
    }

    #[test]
    fn a_directory_without_cgroup2_is_named_with_the_remedy() {
        let error = check_cgroup(Path::new("/proc")).unwrap_err();
        assert!(error.is_missing());
        assert!(error.to_string().contains("--cgroup"), "{error}");
    }
}
