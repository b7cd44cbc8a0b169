//! What is at a path: found, written and put back whole.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{
    MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, lchown, symlink,
};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use serde::{Deserialize, Serialize};

use super::attributes::{Attributes, Set, restore_flags, set_immutable};
use super::{bytes, seam};

/// Larger than any of the files that are changed.
const MAX_BYTES: u64 = 4 << 20;

/// What a path is called that stands for a setting of the kernel.
const SYSCTL: &str = "/proc/sys/";

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Node {
    /// Nothing.
    Absent,
    /// A file.
    File {
        /// What it says.
        #[serde(with = "bytes")]
        content: Vec<u8>,
        /// What else it has.
        attributes: Attributes,
    },
    /// A symbolic link.
    Link {
        /// Where it leads.
        #[serde(with = "bytes")]
        target: Vec<u8>,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
        /// When it was made: seconds and nanoseconds since 1970.
        modified: (i64, i64),
    },
    /// A directory.
    Directory,
    /// A setting of the running kernel.
    Value {
        /// What it is.
        value: String,
    },
}

/// What is to be at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Wanted {
    /// A file.
    File {
        /// What it says.
        #[serde(with = "bytes")]
        content: Vec<u8>,
        /// Whether nobody may change it.
        immutable: bool,
    },
    /// A symbolic link.
    Link {
        /// Where it leads.
        target: String,
    },
    /// A directory.
    Directory,
    /// A setting of the running kernel.
    Value {
        /// What it is.
        value: String,
    },
}

/// Whether a path stands for a setting of the running kernel.
pub(super) fn is_sysctl(path: &str) -> bool {
    path.starts_with(SYSCTL)
}

impl Node {
    /// What is at a place, without following a link.
    pub(super) fn read(place: &Path, path: &str) -> io::Result<Self> {
        let found = match fs::symlink_metadata(place) {
            Ok(found) => found,
            Err(error) if is_absent(&error) => return Ok(Self::Absent),
            Err(error) => return Err(error),
        };
        let modified = (found.mtime(), found.mtime_nsec());
        if found.is_symlink() {
            return Ok(Self::Link {
                target: fs::read_link(place)?.as_os_str().as_bytes().to_owned(),
                uid: found.uid(),
                gid: found.gid(),
                modified,
            });
        }
        if found.is_dir() {
            return Ok(Self::Directory);
        }
        if !found.is_file() {
            return Err(io::Error::other("it is neither a file nor a link"));
        }
        let mut content = Vec::new();
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(place)?;
        file.take(MAX_BYTES + 1).read_to_end(&mut content)?;
        if content.len() as u64 > MAX_BYTES {
            return Err(Errno::EFBIG.into());
        }
        if is_sysctl(path) {
            let value = String::from_utf8_lossy(&content).trim().to_owned();
            return Ok(Self::Value { value });
        }
        Ok(Self::File {
            content,
            attributes: Attributes::read(place, &found)?,
        })
    }

    /// What a file says.
    pub fn content(&self) -> Option<&[u8]> {
        match self {
            Self::File { content, .. } => Some(content),
            _ => None,
        }
    }

    /// Where a link leads.
    pub fn target(&self) -> Option<&Path> {
        match self {
            Self::Link { target, .. } => Some(Path::new(OsStr::from_bytes(target))),
            _ => None,
        }
    }

    /// Whether both say the same, whatever else they have.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File { content, .. }, Self::File { content: other, .. }) => content == other,
            (Self::Link { target, .. }, Self::Link { target: other, .. }) => target == other,
            (a, b) => a == b,
        }
    }

    /// Puts it back at a place, with all that it has.
    pub(super) fn restore(&self, place: &Path, path: &str) -> io::Result<()> {
        remove_unfinished(place)?;
        let now = Self::read(place, path)?;
        if now == *self {
            return Ok(());
        }
        unlock(&now, place)?;
        match self {
            Self::Absent => {
                let removed = match now {
                    Self::Directory => fs::remove_dir(place),
                    _ => fs::remove_file(place),
                };
                match removed {
                    // Others have put something into it.
                    Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => return Ok(()),
                    Err(error) if !is_absent(&error) => return Err(error),
                    _ => sync_directory(place)?,
                }
                seam::changed();
                Ok(())
            }
            Self::File {
                content,
                attributes,
            } => {
                replace(place, content, attributes, true)?;
                if restore_flags(place, attributes.flags)? == Set::Unsupported {
                    log::warn!(
                        "{}: its file system keeps no attributes of chattr",
                        place.display()
                    );
                }
                seam::changed();
                Ok(())
            }
            Self::Link {
                target,
                uid,
                gid,
                modified,
            } => {
                let target = OsStr::from_bytes(target);
                link(place, target, Some((*uid, *gid)), Some(*modified))
            }
            // Nobody removes one that others use.
            Self::Directory => Ok(()),
            Self::Value { value } => set_value(place, value),
        }
    }
}

impl Wanted {
    /// A text file that is not immutable.
    pub(super) fn text(content: impl Into<String>) -> Self {
        Self::File {
            content: content.into().into_bytes(),
            immutable: false,
        }
    }

    /// Does without the attribute that the file system does not know.
    pub(super) fn leave_changeable(&mut self) {
        if let Self::File { immutable, .. } = self {
            *immutable = false;
        }
    }

    /// Whether that is what is there, whatever else it has.
    pub(super) fn is_said_by(&self, node: &Node) -> bool {
        match (self, node) {
            (Self::File { content, .. }, Node::File { content: there, .. }) => content == there,
            (Self::Link { target }, Node::Link { target: there, .. }) => target.as_bytes() == there,
            (Self::Directory, Node::Directory) => true,
            (Self::Value { value }, Node::Value { value: there }) => value == there,
            _ => false,
        }
    }

    /// Whether that is what is there, immutable if it has to be.
    pub(super) fn holds(&self, node: &Node) -> bool {
        let locked = match (self, node) {
            (Self::File { immutable, .. }, Node::File { attributes, .. }) => {
                *immutable == attributes.is_immutable()
            }
            _ => true,
        };
        locked && self.is_said_by(node)
    }

    /// Puts it at a place where something else is. A file keeps the mode, the owner and the extended attributes of the
    /// one before. Says whether it could be made immutable, if it had to be.
    pub(super) fn put(&self, place: &Path, now: &Node) -> io::Result<Set> {
        remove_unfinished(place)?;
        unlock(now, place)?;
        match self {
            Self::File { content, immutable } => {
                if !self.is_said_by(now) {
                    let fresh = Attributes::fresh();
                    let attributes = match now {
                        Node::File { attributes, .. } => attributes,
                        _ => &fresh,
                    };
                    replace(place, content, attributes, false)?;
                }
                if !immutable {
                    return Ok(Set::Done);
                }
                let set = set_immutable(place, true)?;
                seam::changed();
                Ok(set)
            }
            Self::Link { target } => {
                link(place, OsStr::new(target), None, None)?;
                Ok(Set::Done)
            }
            Self::Directory => {
                fs::create_dir(place)?;
                // Whatever the caller's umask is: services that are not root have to read what is in it.
                fs::set_permissions(place, fs::Permissions::from_mode(0o755))?;
                sync_directory(place)?;
                seam::changed();
                Ok(Set::Done)
            }
            Self::Value { value } => {
                set_value(place, value)?;
                Ok(Set::Done)
            }
        }
    }
}

/// Makes a file changeable that is about to be replaced or removed.
fn unlock(now: &Node, place: &Path) -> io::Result<()> {
    if let Node::File { attributes, .. } = now
        && attributes.flags != 0
    {
        set_immutable(place, false)?;
        seam::changed();
    }
    Ok(())
}

/// Writes a file beside its place and moves it there, so that at any time there is the one or the other.
fn replace(
    place: &Path,
    content: &[u8],
    attributes: &Attributes,
    with_time: bool,
) -> io::Result<()> {
    let unfinished = unfinished(place);
    let mut file = create(&unfinished)?;
    seam::changed();
    file.write_all(content)?;
    attributes.give(&file, &unfinished)?;
    if with_time {
        attributes.give_time(&file)?;
    }
    file.sync_all()?;
    seam::changed();
    fs::rename(&unfinished, place)?;
    sync_directory(place)?;
    seam::changed();
    Ok(())
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

fn link(
    place: &Path,
    target: &OsStr,
    owner: Option<(u32, u32)>,
    modified: Option<(i64, i64)>,
) -> io::Result<()> {
    let unfinished = unfinished(place);
    symlink(target, &unfinished)?;
    seam::changed();
    if let Some((uid, gid)) = owner {
        lchown(&unfinished, Some(uid), Some(gid))?;
    }
    if let Some((seconds, nanoseconds)) = modified {
        let time = TimeSpec::new(seconds, nanoseconds);
        let keep = TimeSpec::UTIME_OMIT;
        utimensat(
            nix::fcntl::AT_FDCWD,
            &unfinished,
            &keep,
            &time,
            UtimensatFlags::NoFollowSymlink,
        )?;
    }
    fs::rename(&unfinished, place)?;
    sync_directory(place)?;
    seam::changed();
    Ok(())
}

fn set_value(place: &Path, value: &str) -> io::Result<()> {
    fs::write(place, format!("{value}\n"))?;
    seam::changed();
    Ok(())
}

/// Where what is to come to a place is made.
fn unfinished(place: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(place.file_name().unwrap_or_default());
    name.push(".leakguard");
    place.with_file_name(name)
}

/// Removes what somebody who was killed has left.
fn remove_unfinished(place: &Path) -> io::Result<()> {
    match fs::remove_file(unfinished(place)) {
        Err(error) if !is_absent(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Writes a directory's entries down, after one of them was changed.
pub(super) fn sync_directory(place: &Path) -> io::Result<()> {
    match place.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
