//! A tree that stands for a host's root directory.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::{fs, io};

use nix::errno::Errno;

/// As many links as the kernel follows (`MAXSYMLINKS` in `include/linux/namei.h`).
const MAX_LINKS: usize = 40;

/// The root directory of this host, or of an image that is being built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root(PathBuf);

impl Root {
    /// The tree below a directory.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Whether it is this host's own.
    pub fn is_host(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// Whether a service manager runs here that can be told of a change.
    pub fn has_manager(&self) -> bool {
        self.is_host() && Path::new("/run/systemd/system").is_dir()
    }

    /// Where a path of the host is. Links to directories are followed as the host would, so never out of the tree; one
    /// at the end is not followed.
    pub fn locate(&self, path: &str) -> io::Result<PathBuf> {
        self.resolve(Path::new(path), false)
    }

    /// Where a path of the host leads to in the end.
    pub fn follow(&self, path: &str) -> io::Result<PathBuf> {
        self.resolve(Path::new(path), true)
    }

    /// Whether there is something at a path of the host, or where it leads to.
    pub fn has(&self, path: &str) -> bool {
        self.follow(path)
            .is_ok_and(|path| fs::symlink_metadata(path).is_ok())
    }

    fn resolve(&self, path: &Path, to_the_end: bool) -> io::Result<PathBuf> {
        let mut ahead: VecDeque<OsString> = names(path).collect();
        let mut within = PathBuf::new();
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            if name == ".." {
                within.pop();
                continue;
            }
            within.push(&name);
            let here = self.0.join(&within);
            let is_link = fs::symlink_metadata(&here).is_ok_and(|found| found.is_symlink());
            if !is_link || (ahead.is_empty() && !to_the_end) {
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::ELOOP.into());
            }
            let target = fs::read_link(&here)?;
            within.pop();
            if target.is_absolute() {
                within.clear();
            }
            for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
                ahead.push_front(name);
            }
        }
        Ok(self.0.join(within))
    }
}

/// The parts of a path, relative to the root.
fn names(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_never_lead_out_of_the_tree() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        let at = |path: &str| directory.path().join(path);
        fs::create_dir_all(at("run/resolve")).unwrap();
        fs::create_dir_all(at("etc")).unwrap();
        fs::write(at("run/resolve/stub"), "x").unwrap();
        symlink("/run", at("var")).unwrap();
        symlink("../run/resolve/stub", at("etc/resolv.conf")).unwrap();
        symlink("../../../../../etc/shadow", at("etc/out")).unwrap();
        symlink("loop", at("etc/loop")).unwrap();

        assert_eq!(
            root.locate("/etc/resolv.conf").unwrap(),
            at("etc/resolv.conf")
        );
        assert_eq!(
            root.follow("/etc/resolv.conf").unwrap(),
            at("run/resolve/stub")
        );
        assert_eq!(
            root.locate("/var/resolve/stub").unwrap(),
            at("run/resolve/stub")
        );
        assert_eq!(root.follow("/etc/out").unwrap(), at("etc/shadow"));
        assert!(!root.has("/etc/out") && root.has("/etc/resolv.conf"));
        assert!(root.follow("/etc/loop").is_err());
    }
}
