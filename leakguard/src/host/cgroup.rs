//! Cgroups by their ids.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::libc;

use super::cgroup2_root;

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
}
