//! Files of the host, or of a tree that stands for one.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};

use crate::host::text_of;

/// A directory that files are looked for in; links in it lead nowhere else.
///
/// What is there and cannot be read is remembered, so that nobody takes it for absent.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    directory: File,
    unseen: RefCell<Vec<String>>,
}

impl Root {
    /// Opens a directory.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            directory: File::open(path)?,
            unseen: RefCell::default(),
        })
    }

    /// Whether it is this host's own.
    pub(super) fn is_host(&self) -> bool {
        self.path == Path::new("/")
    }

    /// The text of a file; `None` if it is absent or cannot be read.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        let file = self.descriptor(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK);
        self.seen(path, file.and_then(text_of))
    }

    /// One word of a file, as the kernel's parameters are.
    pub(super) fn word(&self, path: &str) -> Option<String> {
        Some(self.read(path)?.trim().to_owned())
    }

    /// A number in a file.
    pub(super) fn number(&self, path: &str) -> Option<u64> {
        self.word(path)?.parse().ok()
    }

    /// What a path leads to, links followed.
    pub(super) fn metadata(&self, path: &str) -> Option<Metadata> {
        let metadata = self
            .descriptor(path, OFlag::O_PATH)
            .and_then(|file| file.metadata());
        self.seen(path, metadata)
    }

    /// Whether there is such a path.
    pub(super) fn exists(&self, path: &str) -> bool {
        self.metadata(path).is_some()
    }

    /// Where a link points, as it says itself.
    pub(super) fn link(&self, path: &str) -> Option<String> {
        let link = fs::read_link(self.path.join(relative(path))).ok()?;
        Some(link.to_string_lossy().into_owned())
    }

    /// The path that a path leads to in this host's own tree; the plain one where nothing is there.
    pub(super) fn locate(&self, path: &str) -> PathBuf {
        self.descriptor(path, OFlag::O_PATH)
            .and_then(|file| fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())))
            .unwrap_or_else(|_| self.path.join(relative(path)))
    }

    /// Opens a file for a question that is no reading, such as one by `ioctl`.
    pub(super) fn open_file(&self, path: &str) -> io::Result<File> {
        self.descriptor(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)
    }

    /// The names in a directory, sorted.
    pub(super) fn list(&self, path: &str) -> Vec<String> {
        let names = self
            .descriptor(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
            .and_then(|file| {
                let own = format!("/proc/self/fd/{}", file.as_raw_fd());
                let names = fs::read_dir(own)?.map(|entry| Ok(entry?.file_name()));
                names.collect::<io::Result<Vec<_>>>()
            });
        let names = self.seen(path, names).unwrap_or_default();
        let mut names: Vec<String> = names
            .iter()
            .map(|name| OsStr::to_string_lossy(name).into_owned())
            .collect();
        names.sort_unstable();
        names
    }

    /// The paths in a directory that end so, sorted.
    pub(super) fn files(&self, directory: &str, ending: &str) -> Vec<String> {
        let names = self.list(directory).into_iter();
        names
            .filter(|name| name.ends_with(ending) && !name.starts_with('.'))
            .map(|name| format!("{directory}/{name}"))
            .collect()
    }

    /// What is there and could not be read, each with the reason.
    pub(super) fn unseen(&self) -> Vec<String> {
        let mut unseen = self.unseen.borrow().clone();
        unseen.sort_unstable();
        unseen.dedup();
        unseen
    }

    fn descriptor(&self, path: &str, flags: OFlag) -> io::Result<File> {
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC);
        let opened = if self.is_host() {
            openat2(AT_FDCWD, path, how)
        } else {
            let how = how.resolve(ResolveFlag::RESOLVE_IN_ROOT);
            openat2(&self.directory, relative(path), how)
        };
        Ok(File::from(opened?))
    }

    /// Remembers why something that is there was not seen.
    fn seen<T>(&self, path: &str, result: io::Result<T>) -> Option<T> {
        result
            .inspect_err(|error| {
                // A part of the path that is no directory means that it is not there.
                let absent = matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                );
                // Processes end while they are looked at.
                if !absent && !path.starts_with("/proc/") {
                    self.unseen.borrow_mut().push(format!("{path}: {error}"));
                }
            })
            .ok()
    }
}

fn relative(path: &str) -> &str {
    path.trim_start_matches('/')
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_stay_in_the_tree() {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        fs::create_dir_all(at("run/stub")).unwrap();
        fs::create_dir(at("etc")).unwrap();
        fs::write(at("run/stub/file"), "inside\n").unwrap();
        symlink("/run/stub/file", at("etc/file")).unwrap();
        symlink("/nowhere", at("etc/dangling")).unwrap();
        symlink("/etc/loop", at("etc/loop")).unwrap();
        let root = Root::open(directory.path()).unwrap();
        assert_eq!(root.read("/etc/file").unwrap(), "inside\n");
        assert_eq!(root.link("/etc/file").unwrap(), "/run/stub/file");
        assert_eq!(
            root.locate("/etc/file"),
            at("run/stub/file").canonicalize().unwrap()
        );
        assert_eq!(root.read("/etc/dangling"), None);
        assert_eq!(root.unseen(), Vec::<String>::new());
        assert_eq!(root.read("/etc/loop"), None);
        assert_eq!(root.unseen().len(), 1, "{:?}", root.unseen());
        assert_eq!(root.list("/etc"), ["dangling", "file", "loop"]);
        assert_eq!(root.files("/etc", "le"), ["/etc/file"]);
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::create_dir(directory.path().join("directory")).unwrap();
        let root = Root::open(directory.path()).unwrap();
        assert_eq!(root.read("/pipe"), None);
        assert_eq!(root.read("/directory"), None);
        assert_eq!(root.unseen().len(), 2, "{:?}", root.unseen());
    }
}
