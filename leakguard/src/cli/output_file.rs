//! Files that commands write for their user.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::libc;

use crate::error::{Exit, WithExit as _};

/// Only the owner may read what everybody looks up.
const MODE: u32 = 0o600;

/// What cannot be written to.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{0} is a symbolic link, which could lead anywhere: name the file itself")]
    Link(PathBuf),
    #[error("{0} is neither a file nor a pipe: name a new file")]
    Kind(PathBuf),
}

/// Checks that a file can be written, and changes nothing yet.
pub(super) fn check(path: &Path) -> anyhow::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) => {
            let kind = found.file_type();
            if kind.is_symlink() {
                return Err(Refused::Link(path.to_owned())).with_exit(Exit::Usage);
            }
            // A pipe, as Wireshark reads one; a device, such as /dev/null.
            if !kind.is_file() && !kind.is_fifo() && !kind.is_char_device() {
                return Err(Refused::Kind(path.to_owned())).with_exit(Exit::Usage);
            }
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error)
            .with_context(|| format!("cannot write to {}", path.display()))
            .with_exit(Exit::Usage),
    }
}

/// Opens a file for its owner only, in place of one that is there, as `tcpdump -w` does.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(MODE)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    if file.metadata()?.is_file() {
        // One that was there may have been open to everybody.
        file.set_permissions(Permissions::from_mode(MODE))?;
    }
    Ok(file)
}
