use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::LabError;
use super::scratch::Scratch;

/// A BPF file system of its own in a temporary directory, unmounted when dropped.
#[derive(Debug)]
pub struct Bpffs {
    directory: Scratch,
}

impl Bpffs {
    /// Mounts an empty one, for root only.
    pub fn new() -> Result<Self, LabError> {
        let directory = Scratch::new("bpffs")?;
        mount(
            Some("bpf"),
            directory.path(),
            Some("bpf"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
            Some("mode=0700"),
        )
        .map_err(LabError::syscall("mount", "bpf"))?;
        Ok(Self { directory })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        // Detached: the pins go whoever still has a file open. Copies of the mount in other mount
        // namespaces go with the directory, which the kernel unmounts from everywhere when it is
        // removed.
        if let Err(error) = umount2(self.path(), MntFlags::MNT_DETACH) {
            log::warn!("cannot unmount {}: {error}", self.path().display());
        }
    }
}
