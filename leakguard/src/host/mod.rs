//! Facts about the host that more than one part needs: mounts, and the time since it was booted.

mod cgroup;

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use nix::time::{ClockId, clock_gettime};

pub(crate) use cgroup::{cgroup_by_id, cgroup2_path, from_own_cgroup};

/// The most that is read of a file that is others'.
const MOST_READ: u64 = 1 << 20;

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// The text of a file that others may have made, as far as anybody needs it.
///
/// Opened with `O_NONBLOCK`, a pipe in its place keeps nobody waiting; an endless file fills no memory.
pub(crate) fn text_of(file: File) -> io::Result<String> {
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MOST_READ).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Why a fact about the host could not be established.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The mount table cannot be read.
    #[error("cannot read {MOUNTINFO}")]
    MountTable(#[source] io::Error),
    /// No cgroup2 hierarchy is mounted in this mount namespace.
    #[error(
        "no cgroup2 hierarchy is mounted: boot with systemd.unified_cgroup_hierarchy=1, \
         or mount one: mount -t cgroup2 none DIRECTORY"
    )]
    NoCgroup2,
}

/// One line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted, as seen from this process.
    pub point: PathBuf,
    /// The file system's type, such as `cgroup2` or `bpf`.
    pub fs_type: String,
    /// What was mounted: a device, or any name that whoever mounted it gave.
    pub source: String,
}

/// The mounts of this process's mount namespace, in the order of the kernel's table.
pub fn mounts() -> Result<Vec<Mount>, HostError> {
    let table = fs::read(MOUNTINFO).map_err(HostError::MountTable)?;
    Ok(table
        .split(|byte| *byte == b'\n')
        .filter_map(parse_mount)
        .collect())
}

/// The root of the cgroup2 hierarchy.
///
/// On hybrid layouts it is not `/sys/fs/cgroup` but a directory below it, hence the look at the
/// mount table.
pub fn cgroup2_root() -> Result<PathBuf, HostError> {
    mounts()?
        .into_iter()
        .find(|mount| mount.fs_type == "cgroup2")
        .map(|mount| mount.point)
        .ok_or(HostError::NoCgroup2)
}

/// Gives memory that is not in use any more back to the system.
///
/// glibc keeps what was freed below anything that is still in use: after the kernel's type information was read, ten
/// megabytes.
pub(crate) fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: one integer; it may be called at any time, by any thread (malloc_trim(3)).
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// The time since boot, in which the machine's sleep counts: the clock of `bpf_ktime_get_boot_ns`.
pub(crate) fn since_boot() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_BOOTTIME)?.into())
}

/// Parses one line as described in `proc_pid_mountinfo(5)`: the mount point is the fifth field, and
/// type and source follow a lone hyphen, because the number of optional fields before it varies.
fn parse_mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let point = unescape(fields.nth(4)?);
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let mut text = || Some(String::from_utf8_lossy(rest.next()?).into_owned());
    Some(Mount {
        point,
        fs_type: text()?,
        source: text()?,
    })
}

/// Undoes the kernel's octal escapes (space, tab, newline and backslash).
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(byte) = octal {
            bytes.push(byte);
            rest = &tail[3..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// Looks a program up as `execvp` would, in the directories of `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    use nix::unistd::{AccessFlags, access};

    std::env::var_os("PATH")?
        .as_bytes()
        .split(|byte| *byte == b':')
        .map(|directory| Path::new(std::ffi::OsStr::from_bytes(directory)).join(name))
        .find(|path| path.is_file() && access(path, AccessFlags::X_OK).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Option<(String, String)> {
        parse_mount(line.as_bytes()).map(|mount| (mount.point.display().to_string(), mount.fs_type))
    }

    #[test]
    fn hybrid_layout() {
        assert_eq!(
            parse("41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw"),
            Some(("/sys/fs/cgroup/unified".to_owned(), "cgroup2".to_owned()))
        );
    }

    #[test]
    fn optional_fields_before_the_hyphen() {
        assert_eq!(
            parse("26 25 0:23 / /sys/fs/cgroup rw shared:4 master:1 - cgroup2 cgroup rw"),
            Some(("/sys/fs/cgroup".to_owned(), "cgroup2".to_owned()))
        );
    }

    #[test]
    fn escaped_mount_point() {
        assert_eq!(
            parse(r"1 1 0:1 / /a\040b\134c rw - tmpfs t rw"),
            Some((r"/a b\c".to_owned(), "tmpfs".to_owned()))
        );
    }

    #[test]
    fn truncated_lines_are_skipped() {
        for line in [
            "",
            "41 31 0:38 /",
            "41 31 0:38 / /sys rw,relatime -",
            r"1 1 0:1 / /a\04",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
