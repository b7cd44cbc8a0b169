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

/// A cgroup, removed when dropped with those below it; processes left in it go to its parent.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    members: Arc<File>,
    /// Whether it is removed when dropped.
    owned: bool,
}

impl Cgroup {
    /// Creates a child of the cgroup2 root whose name ends in `label`.
    pub fn new(label: &str) -> Result<Self, LabError> {
        Self::create(&host::cgroup2_root()?.join(unique_name(label)))
    }

    /// Creates a cgroup below this one.
    pub fn below(&self, name: &str) -> Result<Self, LabError> {
        Self::create(&self.path.join(name))
    }

    /// The cgroup that a process is in. Somebody else made it and removes it.
    pub fn of_process(pid: u32) -> Result<Self, LabError> {
        let file = format!("/proc/{pid}/cgroup");
        let text = fs::read_to_string(&file).map_err(LabError::io(format!("read {file}")))?;
        let path = host::cgroup2_path(&text).and_then(|path| path.strip_prefix('/'));
        let path = host::cgroup2_root()?.join(path.unwrap_or_default());
        Self::open(path, false)
    }

    fn create(path: &Path) -> Result<Self, LabError> {
        fs::create_dir(path).map_err(LabError::io(format!("create {}", path.display())))?;
        Self::open(path.to_owned(), true).inspect_err(|_| remove(path))
    }

    fn open(path: PathBuf, owned: bool) -> Result<Self, LabError> {
        let members = path.join(MEMBERS);
        let file = File::options()
            .write(true)
            .open(&members)
            .map_err(LabError::io(format!("open {}", members.display())))?;
        Ok(Self {
            path,
            members: Arc::new(file),
            owned,
        })
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
        if self.owned {
            remove(&self.path);
        }
    }
}

fn remove(path: &Path) {
    let removed = wait_until("cgroup is empty", REMOVAL_LIMIT, || {
        for child in children(path) {
            remove(&child);
        }
        evict(path);
        match fs::remove_dir(path) {
            Ok(()) => Ok(true),
            // With its parent.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(false),
            Err(error) => Err(LabError::io(format!("remove {}", path.display()))(error)),
        }
    });
    if let Err(error) = removed {
        log::warn!("{}: {error}", path.display());
    }
}

/// The cgroups right below one, such as those that a container engine made.
fn children(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| path.is_dir()).collect()
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
