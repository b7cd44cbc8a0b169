//! The pin directory: everything that enforces lives here and survives the agent.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use leakguard_common::abi::ABI_VERSION;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use nix::mount::{MsFlags, mount};

use super::KernelError;
use super::requirements::{is_bpffs, missing};
use super::syscall::CgroupHook;

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
    file: Flock<File>,
}

impl Lock {
    /// Whether what is locked is still what is found there: a file system may have been unmounted, or another mounted
    /// over it.
    pub(super) fn is_of(&self, pins: &Pins) -> bool {
        let identity = |metadata: io::Result<fs::Metadata>| {
            metadata
                .map(|found| (found.dev(), found.ino()))
                .map_err(|error| log::debug!("cannot look at the pin directory: {error}"))
        };
        match (
            identity(self.file.metadata()),
            identity(fs::metadata(&pins.root)),
        ) {
            (Ok(locked), Ok(found)) => locked == found,
            _ => false,
        }
    }
}

/// What stands beside this version's directory.
#[derive(Debug)]
pub(super) struct Other {
    /// Its version; absent if it has no name that leakguard gives.
    pub(super) version: Option<u32>,
    /// Where it is. Only its root and its directories can be relied on.
    pub(super) pins: Pins,
}

impl Pins {
    /// The layout under a directory, whether or not anything is there.
    pub fn at(bpffs: &Path) -> Self {
        Self {
            bpffs: bpffs.to_owned(),
            root: bpffs.join(PARENT).join(directory_of(ABI_VERSION)),
        }
    }

    /// What other versions, or somebody else, have put beside this version's directory.
    pub(super) fn others(&self) -> Result<Vec<Other>, KernelError> {
        let mut others = Vec::new();
        for root in entries(&self.bpffs.join(PARENT))? {
            if root == self.root {
                continue;
            }
            let version = root
                .file_name()
                .and_then(|name| name.to_str())
                .and_then(|name| {
                    let version = name.strip_prefix('v')?.parse().ok()?;
                    (name == directory_of(version)).then_some(version)
                });
            others.push(Other {
                version,
                pins: Self {
                    bpffs: self.bpffs.clone(),
                    root,
                },
            });
        }
        others.sort_by_key(|other| other.version);
        Ok(others)
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
        Ok(entries(&self.maps_dir())?.is_empty() && entries(&self.links_dir())?.is_empty())
    }

    /// Where a map is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps_dir().join(name)
    }

    /// Where the link of the program that judges local sockets is pinned.
    pub fn cgroup_link(&self) -> PathBuf {
        self.link_of(CgroupHook::Egress)
    }

    /// Where the link of the program that judges socket options is pinned.
    pub fn setsockopt_link(&self) -> PathBuf {
        self.link_of(CgroupHook::Setsockopt)
    }

    pub(super) fn link_of(&self, hook: CgroupHook) -> PathBuf {
        self.links_dir().join(hook.name())
    }

    /// Where the TCX link of an interface is pinned.
    pub fn tcx_link(&self, ifindex: u32) -> PathBuf {
        self.links_dir().join(format!("{TCX}{ifindex}"))
    }

    /// The interfaces that a TCX link is pinned for, with the pins.
    pub fn tcx_links(&self) -> Result<Vec<(u32, PathBuf)>, KernelError> {
        let ifindex = |pin: &Path| {
            let name = pin.file_name()?.to_str()?;
            name.strip_prefix(TCX)?.parse().ok()
        };
        Ok(self
            .links()?
            .into_iter()
            .filter_map(|pin| Some((ifindex(&pin)?, pin)))
            .collect())
    }

    /// Everything that is pinned among the links.
    pub(super) fn links(&self) -> Result<Vec<PathBuf>, KernelError> {
        entries(&self.links_dir())
    }

    /// The pins of the links of devices that were moved to another namespace.
    pub(super) fn moved_links(&self) -> Result<Vec<PathBuf>, KernelError> {
        let mut links = self.links()?;
        links.retain(|pin| {
            let name = pin.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with(MOVED))
        });
        Ok(links)
    }

    /// A free name for the link of a device that was moved to another namespace.
    pub(super) fn moved_link(&self, ifindex: u32) -> PathBuf {
        unused(&self.links_dir(), &format!("{MOVED}{ifindex}"))
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
                .map_err(|error| {
                    if error.raw_os_error() == Some(libc::EROFS) {
                        return KernelError::Missing {
                            what: format!("the right to write to {}", self.bpffs.display()),
                            remedy: format!(
                                "it is mounted read-only: mount -o remount,rw {}, or name another directory with --bpffs",
                                self.bpffs.display()
                            ),
                            source: Some(Box::new(error)),
                        };
                    }
                    KernelError::call("mkdir", directory.display().to_string())(error)
                })?;
        }
        Ok(())
    }

    /// Takes the lock of existing state; fails at once if somebody holds it.
    pub fn lock(&self) -> Result<Lock, KernelError> {
        let subject = || self.root.display().to_string();
        let file = File::open(&self.root).map_err(KernelError::call("open", subject()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Lock { file }),
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
        match fs::remove_dir(self.bpffs.join(PARENT)) {
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

const PARENT: &str = "leakguard";
const TCX: &str = "tcx-";
const MOVED: &str = "moved-";

fn directory_of(version: u32) -> String {
    format!("v{version}")
}

/// What is in a directory; nothing if there is none.
pub(super) fn entries(directory: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let failed = || KernelError::call("readdir", directory.display().to_string());
    match fs::read_dir(directory) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.path()).map_err(failed()))
            .collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed()(error)),
    }
}

/// Moves what is pinned under a name that it has no right to out of the way; says where to.
///
/// It stays pinned: whoever put it there may need it.
pub(super) fn set_aside(pin: &Path) -> Result<PathBuf, KernelError> {
    let name = pin.file_name().unwrap_or_default().to_string_lossy();
    let directory = pin.parent().unwrap_or(pin);
    let aside = unused(directory, &format!("foreign-{name}"));
    fs::rename(pin, &aside).map_err(KernelError::call("rename", pin.display().to_string()))?;
    Ok(aside)
}

/// The first of these names with a number that nothing has.
fn unused(directory: &Path, name: &str) -> PathBuf {
    (0..u32::MAX)
        .map(|number| directory.join(format!("{name}-{number}")))
        .find(|path| path.symlink_metadata().is_err())
        .unwrap_or_else(|| directory.join(name))
}
