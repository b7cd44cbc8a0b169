//! The pin directory: everything that enforces lives here and survives the agent.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use leakguard_common::abi::ABI_VERSION;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};

use super::KernelError;
use super::requirements::{is_bpffs, missing};

/// The layout under a bpffs: `leakguard/v<ABI>/{maps,links}`.
///
/// Names hold no dot, which bpffs refuses, so interfaces are known by number. Kinds have directories of their
/// own, because opening a pin does not tell a link from a map.
#[derive(Clone, Debug)]
pub struct Pins {
    bpffs: PathBuf,
    root: PathBuf,
}

/// How a bpffs that leakguard has mounted is called in the mount table, so that `purge` can tell it.
pub const MOUNT_SOURCE: &str = "leakguard";

/// Held by whoever changes the state; released on drop.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Pins {
    /// The layout under a directory, whether or not anything is there.
    pub fn at(bpffs: &Path) -> Self {
        let root = bpffs.join("leakguard").join(format!("v{ABI_VERSION}"));
        Self {
            bpffs: bpffs.to_owned(),
            root,
        }
    }

    /// The directory of this ABI version.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The bpffs directory that the user named.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// Whether there is a pin directory; what this process may not see is an error, not an absence.
    pub fn exist(&self) -> Result<bool, KernelError> {
        self.root.try_exists().map_err(|error| {
            if error.kind() == io::ErrorKind::PermissionDenied {
                return missing(
                    format!("the right to look into {}", self.bpffs.display()),
                    "run leakguard as root",
                );
            }
            KernelError::call("stat", self.root.display().to_string())(error)
        })
    }

    /// Whether nothing is pinned.
    pub fn are_empty(&self) -> Result<bool, KernelError> {
        for directory in [self.maps_dir(), self.links_dir()] {
            let mut entries = fs::read_dir(&directory).map_err(KernelError::call(
                "readdir",
                directory.display().to_string(),
            ))?;
            if entries.next().is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Where a map is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps_dir().join(name)
    }

    /// Where the cgroup link is pinned.
    pub fn cgroup_link(&self) -> PathBuf {
        self.links_dir().join("egress")
    }

    /// Where the TCX link of an interface is pinned.
    pub fn tcx_link(&self, ifindex: u32) -> PathBuf {
        self.links_dir().join(format!("{TCX}{ifindex}"))
    }

    /// The interfaces that a TCX link is pinned for, with the pins.
    pub fn tcx_links(&self) -> Result<Vec<(u32, PathBuf)>, KernelError> {
        let links = self.links_dir();
        let entries = match fs::read_dir(&links) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(KernelError::call("readdir", links.display().to_string())(
                    error,
                ));
            }
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(KernelError::call("readdir", links.display().to_string()))?;
            let ifindex = entry
                .file_name()
                .to_str()
                .and_then(|name| name.strip_prefix(TCX))
                .and_then(|number| number.parse().ok());
            if let Some(ifindex) = ifindex {
                found.push((ifindex, entry.path()));
            }
        }
        Ok(found)
    }

    /// Makes the directories, mounting a bpffs where there is none and that is allowed.
    pub fn create(&self) -> Result<(), KernelError> {
        if !is_bpffs(&self.bpffs) {
            self.mount()?;
        }
        for directory in [self.maps_dir(), self.links_dir()] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&directory)
                .map_err(KernelError::call("mkdir", directory.display().to_string()))?;
        }
        Ok(())
    }

    /// Takes the lock of existing state; fails at once if somebody holds it.
    pub fn lock(&self) -> Result<Lock, KernelError> {
        let subject = || self.root.display().to_string();
        let file = File::open(&self.root).map_err(KernelError::call("open", subject()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Lock { _file: file }),
            Err((_, Errno::EWOULDBLOCK)) => Err(KernelError::Locked {
                path: self.root.clone(),
            }),
            Err((_, error)) => Err(KernelError::call("flock", subject())(error.into())),
        }
    }

    /// Unpins everything; what was only held by its pin is detached by that.
    pub fn remove(&self) -> Result<(), KernelError> {
        // Links first: a program must not lose its maps while it still runs. bpffs has no recursive removal of
        // its own, but its files are ordinary directory entries.
        for directory in [self.links_dir(), self.maps_dir(), self.root.clone()] {
            match fs::remove_dir_all(&directory) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(KernelError::call("rmdir", directory.display().to_string())(
                        error,
                    ));
                }
            }
        }
        // Another version's state may still be in there.
        match fs::remove_dir(self.bpffs.join("leakguard")) {
            Ok(()) => Ok(()),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(KernelError::call("rmdir", self.bpffs.display().to_string())(error)),
        }
    }

    fn mount(&self) -> Result<(), KernelError> {
        let shown = self.bpffs.display();
        log::info!("{shown} is not on a bpffs: mounting one there");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some(MOUNT_SOURCE), &self.bpffs, Some("bpf"), flags, Some("mode=0700")).map_err(|source| {
            KernelError::Missing {
                what: format!("a bpffs at {shown}"),
                remedy: format!(
                    "mkdir -p {shown} && mount -t bpf bpf {shown}, or name another directory with --bpffs"
                ),
                source: Some(Box::new(source)),
            }
        })?;
        if is_bpffs(&self.bpffs) {
            Ok(())
        } else {
            Err(missing(
                format!("a bpffs at {shown}"),
                "see what is mounted there",
            ))
        }
    }

    fn maps_dir(&self) -> PathBuf {
        self.root.join("maps")
    }

    fn links_dir(&self) -> PathBuf {
        self.root.join("links")
    }
}

const TCX: &str = "tcx-";
