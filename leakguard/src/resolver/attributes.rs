//! What a file has besides its bytes: mode, owner, time, extended attributes, and the attributes of `chattr`.

use std::ffi::{CStr, CString};
use std::fs::{File, FileTimes, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::libc;
use serde::{Deserialize, Serialize};

use super::bytes;

/// `FS_IMMUTABLE_FL` in `include/uapi/linux/fs.h`: nobody can change, replace or remove the file.
const IMMUTABLE: libc::c_int = 0x10;
/// `FS_APPEND_FL`, which forbids nearly as much.
const APPEND: libc::c_int = 0x20;
/// Those of the attributes that `chattr` sets and any file system keeps: S, i, a, d, A.
const KEPT: libc::c_int = 0x08 | IMMUTABLE | APPEND | 0x40 | 0x80;

/// What a file has besides its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// The permission bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When it was written: seconds and nanoseconds since 1970.
    pub modified: (i64, i64),
    /// What `chattr` sets.
    pub flags: i32,
    /// Extended attributes, by name; access control lists and labels are among them.
    pub extended: Vec<Extended>,
}

/// One extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extended {
    name: String,
    #[serde(with = "bytes")]
    value: Vec<u8>,
}

impl Attributes {
    /// Those of a new file that everybody may read and root may change.
    pub fn fresh() -> Self {
        Self {
            mode: 0o644,
            ..Self::default()
        }
    }

    /// Those of a file.
    pub(super) fn read(path: &Path, found: &Metadata) -> io::Result<Self> {
        Ok(Self {
            mode: found.mode() & 0o7777,
            uid: found.uid(),
            gid: found.gid(),
            modified: (found.mtime(), found.mtime_nsec()),
            flags: flags(path)?.unwrap_or_default() & KEPT,
            extended: extended(path)?,
        })
    }

    /// Whether nobody can change the file.
    pub fn is_immutable(&self) -> bool {
        self.flags & IMMUTABLE != 0
    }

    /// Gives a new file all of them but those of `chattr`, with which it could not be moved into place.
    pub(super) fn give(&self, file: &File, path: &Path) -> io::Result<()> {
        fchown(file, Some(self.uid), Some(self.gid))?;
        file.set_permissions(Permissions::from_mode(self.mode))?;
        for Extended { name, .. } in extended(path)? {
            // A default ACL of the directory is no attribute of the file that was there; a label may have to stay.
            if !name.starts_with("security.") && !self.extended.iter().any(|kept| kept.name == name)
            {
                remove_extended(path, &name)?;
            }
        }
        for Extended { name, value } in &self.extended {
            set_extended(path, name, value)?;
        }
        Ok(())
    }

    /// Sets when the file was written.
    pub(super) fn give_time(&self, file: &File) -> io::Result<()> {
        let (seconds, nanoseconds) = self.modified;
        let nanoseconds = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or_default());
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let epoch = SystemTime::UNIX_EPOCH;
        let whole = if seconds < 0 {
            epoch.checked_sub(whole)
        } else {
            epoch.checked_add(whole)
        };
        match whole.and_then(|whole| whole.checked_add(nanoseconds)) {
            Some(time) => file.set_times(FileTimes::new().set_modified(time)),
            None => Ok(()),
        }
    }
}

/// Whether an attribute could be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Set {
    Done,
    /// The file system knows no such thing.
    Unsupported,
}

/// Makes a file immutable, or changeable again.
pub(super) fn set_immutable(path: &Path, immutable: bool) -> io::Result<Set> {
    let Some(before) = flags(path)? else {
        return Ok(Set::Unsupported);
    };
    let wanted = if immutable {
        before | IMMUTABLE
    } else {
        before & !(IMMUTABLE | APPEND)
    };
    if wanted == before {
        Ok(Set::Done)
    } else {
        set_flags(path, wanted)
    }
}

/// Gives a file what `chattr` had set.
pub(super) fn restore_flags(path: &Path, kept: i32) -> io::Result<Set> {
    let Some(before) = flags(path)? else {
        return Ok(Set::Unsupported);
    };
    let wanted = (before & !KEPT) | (kept & KEPT);
    if wanted == before {
        Ok(Set::Done)
    } else {
        set_flags(path, wanted)
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

/// Whether nobody can change an open file (`chattr +i`); not, where that cannot be found out.
pub(crate) fn is_immutable(file: &File) -> bool {
    flags_of(file).is_ok_and(|flags| flags.is_some_and(|flags| flags & IMMUTABLE != 0))
}

fn flags(path: &Path) -> io::Result<Option<libc::c_int>> {
    flags_of(&open(path)?)
}

/// What `chattr` has set; `None` where the file system knows no such thing.
fn flags_of(file: &File) -> io::Result<Option<libc::c_int>> {
    let mut flags: libc::c_int = 0;
    // SAFETY: the descriptor is open, and the kernel writes an int (`ioctl_getflags` in `fs/ioctl.c`) that outlives the
    // call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, &raw mut flags) };
    match Errno::result(result) {
        Ok(_) => Ok(Some(flags)),
        Err(error) if is_unsupported(error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn set_flags(path: &Path, flags: libc::c_int) -> io::Result<Set> {
    let file = open(path)?;
    // SAFETY: the descriptor is open, and the kernel reads an int (`ioctl_setflags`) that outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const flags) };
    match Errno::result(result) {
        Ok(_) => Ok(Set::Done),
        Err(error) if is_unsupported(error) => Ok(Set::Unsupported),
        Err(error) => Err(error.into()),
    }
}

fn is_unsupported(error: Errno) -> bool {
    matches!(
        error,
        Errno::ENOTTY | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL
    )
}

fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).or(Err(io::ErrorKind::InvalidInput.into()))
}

/// How often what may grow meanwhile is read again.
const ATTEMPTS: usize = 8;

/// Calls once for the size and once for the bytes.
fn sized(call: impl Fn(*mut libc::c_void, usize) -> isize) -> Result<Vec<u8>, Errno> {
    for _ in 0..ATTEMPTS {
        let size = Errno::result(call(std::ptr::null_mut(), 0))?;
        let mut buffer = vec![0_u8; size.unsigned_abs()];
        match Errno::result(call(buffer.as_mut_ptr().cast(), buffer.len())) {
            Ok(filled) => {
                buffer.truncate(filled.unsigned_abs());
                return Ok(buffer);
            }
            Err(Errno::ERANGE) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::ERANGE)
}

fn extended(path: &Path) -> io::Result<Vec<Extended>> {
    let path = c_string(path.as_os_str().as_bytes())?;
    // SAFETY: the path ends with a NUL, and the buffer is as long as is said.
    let listed =
        sized(|buffer, size| unsafe { libc::llistxattr(path.as_ptr(), buffer.cast(), size) });
    let names = match listed {
        Ok(names) => names,
        Err(error) if is_unsupported(error) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut found = Vec::new();
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        // SAFETY: both strings end with a NUL, and the buffer is as long as is said.
        let value = sized(|buffer, size| unsafe {
            libc::lgetxattr(path.as_ptr(), name.as_ptr(), buffer, size)
        });
        match value {
            Ok(value) => found.push(Extended {
                name: name.to_string_lossy().into_owned(),
                value,
            }),
            Err(Errno::ENODATA) => {}
            Err(error) => return Err(error.into()),
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn set_extended(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    let path = c_string(path.as_os_str().as_bytes())?;
    let name = c_string(name.as_bytes())?;
    // SAFETY: both strings end with a NUL, and the value is as long as is said.
    let result = unsafe {
        libc::lsetxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    Ok(Errno::result(result).map(drop)?)
}

fn remove_extended(path: &Path, name: &str) -> io::Result<()> {
    let path = c_string(path.as_os_str().as_bytes())?;
    let name = c_string(name.as_bytes())?;
    // SAFETY: both strings end with a NUL.
    let result = unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) };
    match Errno::result(result) {
        Ok(_) | Err(Errno::ENODATA) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
