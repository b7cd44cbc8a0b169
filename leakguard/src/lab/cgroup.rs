use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use super::{LabError, unique_name, wait_until};
use crate::host;

const MEMBERS: &str = "cgroup.procs";
/// How long a process that was just killed may keep its cgroup busy.
const REMOVAL_LIMIT: Duration = Duration::from_secs(2);

/// A child of the cgroup2 root, removed when dropped; processes left in it go back to the root.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    members: Arc<File>,
}

impl Cgroup {
    /// Creates a cgroup whose name ends in `label`.
    pub fn new(label: &str) -> Result<Self, LabError> {
        let path = host::cgroup2_root()?.join(unique_name(label));
        fs::create_dir(&path).map_err(LabError::io(format!("create {}", path.display())))?;
        match File::options().write(true).open(path.join(MEMBERS)) {
            Ok(file) => Ok(Self {
                path,
                members: Arc::new(file),
            }),
            Err(source) => {
                remove(&path);
                let action = format!("open {}", path.join(MEMBERS).display());
                Err(LabError::Io { action, source })
            }
        }
    }

    /// Where the cgroup is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes `command` start inside the cgroup: its first socket already belongs to it.
    pub fn attach(&self, command: &mut Command) {
        let members = Arc::clone(&self.members);
        // SAFETY: write is async-signal-safe, and the closure neither allocates nor locks.
        unsafe {
            // "0" is the process that writes.
            command.pre_exec(move || (&*members).write_all(b"0"));
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    let removed = wait_until("cgroup is empty", REMOVAL_LIMIT, || {
        evict(path);
        match fs::remove_dir(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(false),
            Err(error) => Err(LabError::io(format!("remove {}", path.display()))(error)),
        }
    });
    if let Err(error) = removed {
        log::warn!("{}: {error}", path.display());
    }
}

/// Moves the processes of a cgroup to its parent; the kernel takes one number per write.
fn evict(path: &Path) {
    let Some(parent) = path.parent().map(|parent| parent.join(MEMBERS)) else {
        return;
    };
    let members = fs::read_to_string(path.join(MEMBERS)).unwrap_or_default();
    for pid in members.lines() {
        // It may have ended since; rmdir decides.
        if let Err(error) = fs::write(&parent, pid) {
            log::debug!("moving process {pid} out of {}: {error}", path.display());
        }
    }
}
