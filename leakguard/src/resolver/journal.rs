//! What was there before, written down before it is changed.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::error::ResolverError;
use super::node::{Node, Wanted, is_absent, sync_directory};
use super::root::Root;
use super::seam;
use super::units::Unit;

/// Where the journal is, and what is kept.
pub(super) const DIRECTORY: &str = "/var/lib/leakguard/resolver";
/// The directory of versions of others that were replaced, in [`DIRECTORY`].
pub(super) const KEPT_PATH: &str = "/var/lib/leakguard/resolver/kept";
const KEPT: &str = "kept";
const JOURNAL: &str = "journal.json";
const LOCK: &str = "lock";

/// The form of the journal.
const VERSION: u32 = 1;

/// What was changed, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    version: u32,
    /// What was set up, in a few words.
    pub what: String,
    /// Whether somebody is at it, or was killed.
    pub underway: bool,
    /// What has to be told of a change.
    pub pending: BTreeSet<Unit>,
    /// Whether the agent is to put back what others change.
    pub watch: bool,
    /// The changes.
    pub entries: Vec<Entry>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Where, as the host calls it.
    pub path: String,
    /// What was there.
    pub before: Node,
    /// What is to be there.
    pub wanted: Wanted,
    /// What was to be there until then, while that is replaced.
    pub was: Option<Wanted>,
    /// Whether only a part of the file is leakguard's: others may change the rest.
    pub merged: bool,
    /// Whether the file system could not make it immutable.
    pub changeable: bool,
    /// What has to be told when it changes.
    pub units: BTreeSet<Unit>,
}

/// Whose version is at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Leakguard's.
    Ours,
    /// The one from before.
    Before,
    /// Somebody has changed it since.
    Foreign,
}

impl Entry {
    pub(super) fn standing(&self, now: &Node) -> Standing {
        if self.wanted.is_said_by(now) || self.was.as_ref().is_some_and(|was| was.is_said_by(now)) {
            Standing::Ours
        } else if self.before.says_the_same(now) {
            Standing::Before
        } else {
            Standing::Foreign
        }
    }
}

impl Journal {
    /// Reads it without a lock, to look at; `None` if nothing was changed.
    pub fn read(root: &Root) -> Result<Option<Self>, ResolverError> {
        let path = root
            .locate(&format!("{DIRECTORY}/{JOURNAL}"))
            .map_err(ResolverError::io("find", DIRECTORY))?;
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(ResolverError::io("read", path)(error)),
        };
        let journal: Self =
            serde_json::from_slice(&text).map_err(|source| ResolverError::Journal {
                path: path.clone(),
                source,
            })?;
        if journal.version == VERSION {
            Ok(Some(journal))
        } else {
            Err(ResolverError::JournalVersion {
                path,
                version: journal.version,
            })
        }
    }

    /// The change of a path.
    pub(super) fn entry(&self, path: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.path == path)
    }

    pub(super) fn entry_mut(&mut self, path: &str) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.path == path)
    }

    /// What was at a path before leakguard changed it, or is there now.
    pub(super) fn original(
        journal: Option<&Self>,
        root: &Root,
        path: &str,
    ) -> Result<Node, ResolverError> {
        let now = look(root, path)?;
        Ok(match journal.and_then(|journal| journal.entry(path)) {
            Some(entry) if entry.standing(&now) != Standing::Foreign || !entry.merged => {
                entry.before.clone()
            }
            _ => now,
        })
    }
}

/// What is at a path.
pub(super) fn look(root: &Root, path: &str) -> Result<Node, ResolverError> {
    let place = root.locate(path).map_err(ResolverError::io("find", path))?;
    Node::read(&place, path).map_err(ResolverError::io("read", path))
}

/// The right to change it all; nobody else has it at the same time.
#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
    lock: Flock<fs::File>,
}

impl Store {
    /// Takes it.
    pub(super) fn open(root: &Root) -> Result<Self, ResolverError> {
        let directory = root
            .locate(DIRECTORY)
            .map_err(ResolverError::io("find", DIRECTORY))?;
        let failed = |error| ResolverError::io("create", &directory)(error);
        loop {
            let parents = directory.parent().and_then(Path::parent);
            if let Some(parents) = parents {
                fs::create_dir_all(parents).map_err(failed)?;
            }
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&directory)
                .map_err(failed)?;
            fs::set_permissions(&directory, Permissions::from_mode(0o700)).map_err(failed)?;
            let path = directory.join(LOCK);
            let file = match OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
            {
                Ok(file) => file,
                // Whoever had it has just removed the directory.
                Err(error) if is_absent(&error) => continue,
                Err(error) => return Err(failed(error)),
            };
            let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(
                |(_, error)| match error {
                    nix::errno::Errno::EWOULDBLOCK => ResolverError::Busy,
                    error => failed(error.into()),
                },
            )?;
            // The one that was locked may have been removed meanwhile.
            let locked = lock.metadata().map_err(failed)?;
            if fs::metadata(&path).is_ok_and(|named| named.ino() == locked.ino()) {
                return Ok(Self { directory, lock });
            }
        }
    }

    /// Writes the journal down; when this returns, it outlasts a loss of power.
    pub(super) fn write(&self, journal: &mut Journal) -> Result<(), ResolverError> {
        journal.version = VERSION;
        let path = self.directory.join(JOURNAL);
        let text = serde_json::to_vec_pretty(journal).map_err(|source| ResolverError::Journal {
            path: path.clone(),
            source,
        })?;
        self.write_file(JOURNAL, &text)
            .map_err(ResolverError::io("write", path))
    }

    fn write_file(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let unfinished = self.directory.join(format!(".{name}"));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)?;
        file.write_all(content)?;
        file.sync_all()?;
        seam::changed();
        let path = self.directory.join(name);
        fs::rename(unfinished, &path)?;
        sync_directory(&path)?;
        seam::changed();
        Ok(())
    }

    /// Writes a file for a program to check; its path.
    pub(super) fn draft(&self, content: &[u8]) -> Result<PathBuf, ResolverError> {
        let path = self.directory.join("draft");
        fs::write(&path, content).map_err(ResolverError::io("write", &path))?;
        Ok(path)
    }

    /// Keeps a version of somebody else's that is about to be replaced; where it is.
    pub(super) fn keep(&self, path: &str, now: &Node) -> Result<Option<PathBuf>, ResolverError> {
        let failed = |error| ResolverError::io("keep a copy of", path)(error);
        let directory = self.directory.join(KEPT);
        let name = path.trim_start_matches('/').replace('/', "-");
        for number in 1_u32.. {
            let copy = directory.join(format!("{name}.{number}"));
            let there = Node::read(&copy, "").map_err(failed)?;
            if there.says_the_same(now) {
                return Ok(Some(copy));
            }
            if there != Node::Absent {
                continue;
            }
            if !matches!(now, Node::File { .. } | Node::Link { .. }) {
                return Ok(None);
            }
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&directory)
                .map_err(failed)?;
            let unlocked = match now.clone() {
                Node::File {
                    content,
                    mut attributes,
                } => {
                    attributes.flags = 0;
                    Node::File {
                        content,
                        attributes,
                    }
                }
                node => node,
            };
            unlocked.restore(&copy, "").map_err(failed)?;
            return Ok(Some(copy));
        }
        Ok(None)
    }

    /// Removes the journal, and everything else but what was kept.
    pub(super) fn close(self) -> Result<(), ResolverError> {
        let Self { directory, lock } = self;
        let failed = |error| ResolverError::io("remove", &directory)(error);
        for name in ["draft", JOURNAL, ".journal.json"] {
            match fs::remove_file(directory.join(name)) {
                Err(error) if !is_absent(&error) => return Err(failed(error)),
                _ => {}
            }
            seam::changed();
        }
        // What is not empty stays.
        let empty = fs::remove_dir(directory.join(KEPT)).is_ok() || !directory.join(KEPT).exists();
        fs::remove_file(directory.join(LOCK)).map_err(failed)?;
        seam::changed();
        if empty {
            fs::remove_dir(&directory).map_err(failed)?;
            if let Some(parent) = directory.parent()
                && let Err(error) = fs::remove_dir(parent)
            {
                log::debug!("{} stays: {error}", parent.display());
            }
        }
        drop(lock);
        Ok(())
    }
}
