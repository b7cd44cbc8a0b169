//! Reading the configuration file, which decides what is enforced, without trusting it blindly.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nix::{libc::O_NONBLOCK, unistd::geteuid};

use super::Position;
use crate::error::shell_word;

/// The greatest size of a configuration in bytes.
pub(super) const MAX_BYTES: u64 = 1 << 20;

/// The permission bits that let group and others write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// A file that cannot be read or must not be trusted.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// There is no such file.
    #[error("no configuration file {}; check the path, or leave it out to use the defaults", path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// The user may not read it.
    #[error("{} cannot be read by user {user}; run as root, or let the user read it", path.display())]
    Forbidden {
        /// The file.
        path: PathBuf,
        /// The user id.
        user: u32,
    },
    /// It is a directory.
    #[error("{} is a directory; name the file in it", path.display())]
    Directory {
        /// The path.
        path: PathBuf,
    },
    /// It is a device, a pipe or a socket.
    #[error("{} is not a regular file; write the settings to one and name that", path.display())]
    NotRegular {
        /// The path.
        path: PathBuf,
    },
    /// Another user than root owns it.
    #[error(
        "{} belongs to user {owner}, who could change what is enforced; run: chown root {}",
        path.display(), quoted(path)
    )]
    Owner {
        /// The file.
        path: PathBuf,
        /// The owner's user id.
        owner: u32,
    },
    /// Others than the owner can write it.
    #[error(
        "{} is writable by group or others (mode {mode:04o}); run: chmod go-w {}",
        path.display(), quoted(path)
    )]
    Writable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is too large to be what it should be.
    #[error("{} is larger than {} KiB; check the path", path.display(), max_bytes >> 10)]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// How large it may be.
        max_bytes: u64,
    },
    /// Its text is not UTF-8.
    #[error("{}:{position}: not valid UTF-8; save the file as UTF-8", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Where the first wrong byte is.
        position: Position,
    },
    /// The system refused for another reason.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// Reads the text of a file of a limited size that only its owner, root or the calling user, can have written.
pub(crate) fn read(path: &Path, max_bytes: u64) -> Result<String, FileError> {
    let user = geteuid().as_raw();
    let failed = |source: io::Error| {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => FileError::Missing { path },
            io::ErrorKind::PermissionDenied => FileError::Forbidden { path, user },
            _ => FileError::Io { path, source },
        }
    };
    // O_NONBLOCK: opening a pipe must not wait for its writer. What was opened is what is checked, not what the path
    // names a moment later.
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    check(path, &file.metadata().map_err(failed)?, user)?;

    let mut bytes = Vec::new();
    // The limit holds even if the file grows meanwhile.
    file.take(max_bytes + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > max_bytes {
        return Err(FileError::TooLarge {
            path: path.to_owned(),
            max_bytes,
        });
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        FileError::NotUtf8 {
            path: path.to_owned(),
            position: Position::after(&String::from_utf8_lossy(valid)),
        }
    })
}

/// Whether the file is of the right kind and in the right hands.
fn check(path: &Path, metadata: &Metadata, user: u32) -> Result<(), FileError> {
    let path = path.to_owned();
    if metadata.is_dir() {
        return Err(FileError::Directory { path });
    }
    if !metadata.is_file() {
        return Err(FileError::NotRegular { path });
    }
    check_owner(path, metadata.uid(), metadata.mode() & 0o7777, user)
}

fn check_owner(path: PathBuf, owner: u32, mode: u32, user: u32) -> Result<(), FileError> {
    if owner != 0 && owner != user {
        return Err(FileError::Owner { path, owner });
    }
    if mode & WRITABLE_BY_OTHERS != 0 {
        return Err(FileError::Writable { path, mode });
    }
    Ok(())
}

/// The path as a word of a shell command.
fn quoted(path: &Path) -> String {
    shell_word(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::{fs::PermissionsExt as _, net::UnixListener},
    };

    use nix::{sys::stat::Mode, unistd::mkfifo};
    use tempfile::TempDir;

    use super::*;

    fn file(contents: impl AsRef<[u8]>, mode: u32) -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leakguard.toml");
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    #[test]
    fn a_file_of_ones_own_is_read() {
        let (_directory, path) = file("mode = \"observe\"\n", 0o644);
        assert_eq!(read(&path, MAX_BYTES).unwrap(), "mode = \"observe\"\n");
    }

    #[test]
    fn a_missing_file_is_told_apart() {
        let (directory, _) = file("", 0o600);
        let error = read(&directory.path().join("absent"), MAX_BYTES).unwrap_err();
        assert!(matches!(error, FileError::Missing { .. }), "{error}");
    }

    #[test]
    fn a_file_writable_by_group_or_others_is_refused_with_the_remedy() {
        for mode in [0o620, 0o602, 0o666] {
            let (_directory, path) = file("", mode);
            let error = read(&path, MAX_BYTES).unwrap_err();
            assert!(matches!(error, FileError::Writable { mode: found, .. } if found == mode));
            let remedy = format!("(mode {mode:04o}); run: chmod go-w {}", path.display());
            assert!(error.to_string().ends_with(&remedy), "{error}");
        }
    }

    #[test]
    fn only_root_and_the_user_may_own_the_file() {
        let check = |owner, user| check_owner("/etc/l.toml".into(), owner, 0o600, user);
        for (owner, user) in [(0, 0), (0, 1000), (1000, 1000)] {
            check(owner, user).unwrap();
        }
        for (owner, user) in [(1000, 0), (1000, 1001)] {
            assert_eq!(
                check(owner, user).unwrap_err().to_string(),
                "/etc/l.toml belongs to user 1000, who could change what is enforced; run: chown root /etc/l.toml"
            );
        }
    }

    #[test]
    fn an_unreadable_file_is_refused() {
        let (_directory, path) = file("", 0o000);
        // Root reads every file.
        match read(&path, MAX_BYTES) {
            Ok(_) => assert!(geteuid().is_root()),
            Err(error) => assert!(matches!(error, FileError::Forbidden { .. }), "{error}"),
        }
    }

    #[test]
    fn a_directory_is_refused() {
        let (directory, _) = file("", 0o600);
        let error = read(directory.path(), MAX_BYTES).unwrap_err();
        assert!(matches!(error, FileError::Directory { .. }), "{error}");
    }

    #[test]
    fn a_device_and_a_pipe_are_refused_at_once() {
        let (directory, _) = file("", 0o600);
        let pipe = directory.path().join("pipe");
        mkfifo(&pipe, Mode::S_IRUSR).unwrap();
        for path in [pipe.as_path(), Path::new("/dev/null")] {
            let error = read(path, MAX_BYTES).unwrap_err();
            assert!(matches!(error, FileError::NotRegular { .. }), "{error}");
        }
    }

    #[test]
    fn a_path_that_cannot_be_opened_names_the_cause() {
        let (directory, path) = file("", 0o600);
        let error = read(&path.join("below"), MAX_BYTES).unwrap_err();
        assert!(matches!(error, FileError::Io { .. }), "{error}");
        let socket = directory.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        let error = read(&socket, MAX_BYTES).unwrap_err();
        assert!(matches!(error, FileError::Io { .. }), "{error}");
    }

    #[test]
    fn the_size_is_limited() {
        let limit = usize::try_from(MAX_BYTES).unwrap();
        let (_directory, path) = file(vec![b'\n'; limit], 0o600);
        assert_eq!(read(&path, MAX_BYTES).unwrap().len(), limit);
        let (_directory, path) = file(vec![b'\n'; limit + 1], 0o600);
        let error = read(&path, MAX_BYTES).unwrap_err();
        assert!(matches!(error, FileError::TooLarge { .. }), "{error}");
        assert!(error.to_string().contains("1024 KiB"), "{error}");
    }

    #[test]
    fn wrong_utf8_is_located() {
        let (_directory, path) = file(b"mode = 1\n# \xc3\xa4 \xff\n", 0o600);
        let error = read(&path, MAX_BYTES).unwrap_err();
        assert!(
            matches!(
                error,
                FileError::NotUtf8 {
                    position: Position { line: 2, column: 5 },
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn a_remedy_can_be_pasted_into_a_shell() {
        assert_eq!(
            quoted(Path::new("/etc/leakguard/leakguard.toml")),
            "/etc/leakguard/leakguard.toml"
        );
        assert_eq!(quoted(Path::new("/my dir/it's")), r"'/my dir/it'\''s'");
    }
}
