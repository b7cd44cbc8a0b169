//! A file that only ever gets whole lines at its end.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use nix::unistd::geteuid;

use super::OutputError;

/// The permission bits that let group and others write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// An open file whose end is the end of a line, unless something else has written to it.
#[derive(Debug)]
pub(super) struct AppendFile {
    file: File,
    path: PathBuf,
    /// Part of a line stands at the end and could not be taken away.
    torn: bool,
}

impl AppendFile {
    /// Opens or makes the file, and its directory if only that is missing.
    ///
    /// What was opened is what is checked: who may change a path must not choose what root writes to.
    pub(super) fn open(path: &Path) -> Result<Self, OutputError> {
        let failed = || OutputError::file("open", path);
        if let Some(directory) = path.parent() {
            match DirBuilder::new().mode(0o700).create(directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    log::debug!("cannot make {}: {error}", directory.display());
                }
                _ => {}
            }
        }
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            // A pipe must not hold up the thread until somebody reads it.
            .custom_flags(O_NOFOLLOW | O_NONBLOCK)
            .open(path)
            .map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ELOOP) => OutputError::Symlink {
                    path: path.to_owned(),
                },
                Some(Errno::EISDIR | Errno::ENXIO) => OutputError::NotRegular {
                    path: path.to_owned(),
                },
                _ => failed()(error),
            })?;
        check(path, &file.metadata().map_err(failed())?)?;
        Ok(Self {
            file,
            path: path.to_owned(),
            torn: false,
        })
    }

    /// The file, to be read.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Whether it has to be opened anew: it has no name any more, or its end is not one of a line.
    pub(super) fn is_stale(&self) -> bool {
        self.torn || self.file.metadata().is_ok_and(|found| found.nlink() == 0)
    }

    /// Writes lines; says how many bytes of whole lines stand in the file now.
    pub(super) fn append(&mut self, lines: &[u8]) -> (usize, Result<(), OutputError>) {
        let failed = |error| OutputError::file("write", &self.path)(error);
        let start = match self.file.metadata() {
            Ok(found) => found.len(),
            Err(error) => return (0, Err(failed(error))),
        };
        let mut written = 0;
        let error = loop {
            match self.file.write(lines.get(written..).unwrap_or_default()) {
                Ok(0) if written == lines.len() => return (written, Ok(())),
                Ok(0) => break io::ErrorKind::WriteZero.into(),
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break error,
            }
        };
        let part = lines.get(..written).unwrap_or_default();
        let whole = part
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |end| end + 1);
        if whole < written {
            self.torn = self.cut(start, whole, written).is_err();
        }
        (whole, Err(failed(error)))
    }

    /// Takes part of a line away again, unless somebody else has written behind it.
    fn cut(&self, start: u64, whole: usize, written: usize) -> io::Result<()> {
        if self.file.metadata()?.len() != start + written as u64 {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        self.file.set_len(start + whole as u64)
    }

    /// Waits until what was written is on the disk.
    pub(super) fn sync(&self) -> Result<(), OutputError> {
        self.file
            .sync_data()
            .map_err(OutputError::file("sync", &self.path))
    }
}

/// Whether only root, or who runs this, can have chosen and can change the file.
fn check(path: &Path, found: &Metadata) -> Result<(), OutputError> {
    let path = path.to_owned();
    let owner = found.uid();
    let mode = found.mode() & 0o7777;
    if !found.is_file() {
        Err(OutputError::NotRegular { path })
    } else if owner != 0 && owner != geteuid().as_raw() {
        Err(OutputError::Owner { path, owner })
    } else if mode & WRITABLE_BY_OTHERS != 0 {
        Err(OutputError::Writable { path, mode })
    } else if found.nlink() > 1 {
        Err(OutputError::Linked { path })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_file_is_made_for_its_owner_and_so_is_its_directory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("logs/events");
        let mut file = AppendFile::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let (written, result) = file.append(b"a\n");
        result.unwrap();
        assert_eq!(written, 2);
        drop(file);
        let mut file = AppendFile::open(&path).unwrap();
        file.append(b"b\n").1.unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"a\nb\n");
        assert!(!file.is_stale());
        fs::remove_file(&path).unwrap();
        assert!(file.is_stale());
    }

    #[test]
    fn what_somebody_else_could_have_chosen_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let refused = |path: &Path| AppendFile::open(path).unwrap_err();
        fs::write(at("target"), "").unwrap();
        symlink(at("target"), at("link")).unwrap();
        assert!(matches!(refused(&at("link")), OutputError::Symlink { .. }));
        fs::hard_link(at("target"), at("second")).unwrap();
        assert!(matches!(refused(&at("second")), OutputError::Linked { .. }));
        fs::create_dir(at("directory")).unwrap();
        let error = refused(&at("directory"));
        assert!(matches!(error, OutputError::NotRegular { .. }), "{error}");
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = refused(&at("pipe"));
        assert!(matches!(error, OutputError::NotRegular { .. }), "{error}");
        fs::write(at("open"), "").unwrap();
        fs::set_permissions(at("open"), Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(refused(&at("open")), OutputError::Writable { .. }));
        let error = refused(&at("no/such/directory/file"));
        assert!(!error.is_mistake(), "{error}");
    }
}
