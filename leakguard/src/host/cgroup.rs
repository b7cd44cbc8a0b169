//! Cgroups by their ids, and by what `/proc/PID/cgroup` calls them.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use nix::libc;

use super::cgroup2_root;

/// The cgroup namespace that every process is in unless somebody has made another (`PROC_CGROUP_INIT_INO` in
/// `include/linux/proc_ns.h`).
const FIRST_NAMESPACE: &str = "cgroup:[4026531835]";

/// The directory of a cgroup, by its id; `None` if it is gone, or not to be seen from here.
pub(crate) fn cgroup_by_id(id: u64) -> Option<PathBuf> {
    let root = cgroup2_root().ok()?;
    match by_handle(&root, id) {
        Ok(path) => Some(path),
        // Opening by handle takes CAP_DAC_READ_SEARCH, with which every file of the host could be read. An agent does
        // without: as a service, and in a container, where a filter of system calls may refuse it as well.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => {
            by_number(&root, id)
        }
        Err(_) => None,
    }
}

/// A path that `/proc/PID/cgroup` gives, from the root of the hierarchy on; `None` where that cannot be told.
///
/// In a cgroup namespace such paths begin at its root, and lead out of it by `..` (`cgroup_path_ns`).
pub(crate) fn from_own_cgroup(path: &str) -> Option<String> {
    static ROOT: OnceLock<Option<PathBuf>> = OnceLock::new();
    join(ROOT.get_or_init(namespace_root).as_deref()?, path)
}

/// The cgroup2 line of what `/proc/PID/cgroup` says: a path below the root of the reader's cgroup namespace.
pub(crate) fn cgroup2_path(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// What file handles on the hierarchy are made of (`kernfs_encode_fh` in `fs/kernfs/mount.c`, 5.5 and later) is the id.
fn by_handle(root: &Path, id: u64) -> io::Result<PathBuf> {
    /// `struct file_handle`, with room for an id.
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        id: u64,
    }
    /// `FILEID_KERNFS` in `include/linux/exportfs.h`.
    const KERNFS: i32 = 0xfe;

    let root = File::open(root)?;
    let mut handle = Handle {
        bytes: 8,
        kind: KERNFS,
        id,
    };
    // SAFETY: the handle has the layout that the kernel expects, with as many bytes behind its head as it says.
    let opened = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            root.as_raw_fd(),
            &raw mut handle,
            libc::O_PATH | libc::O_CLOEXEC,
        )
    };
    let opened = i32::try_from(opened)
        .ok()
        .filter(|&fd| fd >= 0)
        .ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    let opened = unsafe { OwnedFd::from_raw_fd(opened) };
    let path = fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd()))?;
    // One that was removed meanwhile is called so.
    if path.is_dir() {
        Ok(path)
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// The same by looking at every cgroup: the id is the number of its directory's inode (64-bit systems, 5.5 and later).
fn by_number(root: &Path, id: u64) -> Option<PathBuf> {
    if fs::metadata(root).ok()?.ino() == id {
        return Some(root.to_owned());
    }
    find(root, &|entry| entry.ino() == id)
}

/// The first cgroup below `root` that is wanted, those near the root first.
fn find(root: &Path, is_wanted: &dyn Fn(&fs::DirEntry) -> bool) -> Option<PathBuf> {
    let mut level = vec![root.to_owned()];
    while !level.is_empty() {
        let mut next = Vec::new();
        for directory in level {
            // It may have gone.
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
                if is_wanted(&entry) {
                    return Some(entry.path());
                }
                next.push(entry.path());
            }
        }
        level = next;
    }
    None
}

/// Where in the hierarchy this process's cgroup namespace begins.
fn namespace_root() -> Option<PathBuf> {
    let namespace = fs::read_link("/proc/self/ns/cgroup").ok()?;
    if namespace.as_os_str() == FIRST_NAMESPACE {
        return Some("/".into());
    }
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let below = cgroup2_path(&text)?;
    let root = cgroup2_root().ok()?;
    // The kernel does not say it. Whoever is a member knows the way.
    let own = std::process::id().to_string();
    let holds_us = |directory: &Path| {
        fs::read_to_string(directory.join("cgroup.procs"))
            .is_ok_and(|members| members.lines().any(|member| member == own))
    };
    let found = if holds_us(&root) {
        root.clone()
    } else {
        find(&root, &|entry| holds_us(&entry.path()))?
    };
    let found = Path::new("/").join(found.strip_prefix(root).ok()?);
    let depth = Path::new(below).components().count() - 1;
    found.ancestors().nth(depth).map(Path::to_owned)
}

/// A path below `root`, without the `..` in it; `None` if it leads out of the hierarchy.
fn join(root: &Path, path: &str) -> Option<String> {
    let mut joined = root.to_owned();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => joined.push(name),
            Component::ParentDir => {
                if !joined.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Some(joined.to_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_lead_to_the_same_cgroup() {
        let root = cgroup2_root().unwrap();
        let id = fs::metadata(&root).unwrap().ino();
        assert_eq!(by_number(&root, id), Some(root.clone()));
        assert_eq!(cgroup_by_id(id), Some(root.clone()));
        if let Some(below) = find(&root, &|_| true) {
            let id = fs::metadata(&below).unwrap().ino();
            assert_eq!(by_number(&root, id), Some(below.clone()));
            assert_eq!(cgroup_by_id(id), Some(below));
        }
        assert_eq!(by_number(&root, u64::MAX - 1), None);
        assert_eq!(cgroup_by_id(u64::MAX - 1), None);
    }

    #[test]
    fn a_namespaces_paths_become_those_of_the_hierarchy() {
        let root = Path::new("/kubepods.slice/burstable.slice/pod1.slice/agent.scope");
        for (path, expected) in [
            (
                "/",
                Some("/kubepods.slice/burstable.slice/pod1.slice/agent.scope"),
            ),
            (
                "/../../pod2.slice/web.scope",
                Some("/kubepods.slice/burstable.slice/pod2.slice/web.scope"),
            ),
            (
                "/../../../../system.slice/cron.service",
                Some("/system.slice/cron.service"),
            ),
            ("/../../../..", Some("/")),
            ("/../../../../../x", None),
        ] {
            assert_eq!(join(root, path).as_deref(), expected, "{path}");
        }
        let first = join(Path::new("/"), "/system.slice/cron.service");
        assert_eq!(first.as_deref(), Some("/system.slice/cron.service"));
    }

    #[test]
    fn the_first_namespace_begins_at_the_root() {
        let namespace = fs::read_link("/proc/self/ns/cgroup").unwrap();
        if namespace.as_os_str() == FIRST_NAMESPACE {
            assert_eq!(namespace_root(), Some("/".into()));
        }
    }
}
