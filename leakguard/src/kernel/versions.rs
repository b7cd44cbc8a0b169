//! The state of other versions: an older one's is superseded, a newer one's refused, and all of them are released.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use leakguard_common::abi::ABI_VERSION;

use super::KernelError;
use super::held::{open, unpin};
use super::inherit::{check_namespace, identities};
use super::links::{self, is_here};
use super::netns::Identity;
use super::pins::{Lock, Other, Pins, entries};
use super::syscall::link_info;

/// The state of an older version, locked: its agent is gone, and none can come.
#[derive(Debug)]
pub(super) struct Older {
    version: u32,
    pins: Pins,
    _lock: Lock,
}

/// Finds and locks the state of older versions; an error if there is any that cannot be superseded.
pub(super) fn survey(pins: &Pins) -> Result<Vec<Older>, KernelError> {
    let mut older = Vec::new();
    for Other {
        version,
        pins: other,
    } in pins.others()?
    {
        let Some(version) = version.filter(|&version| version < ABI_VERSION) else {
            return Err(KernelError::OtherVersion {
                path: other.root().to_owned(),
                bpffs: other.bpffs().to_owned(),
            });
        };
        let lock = other.lock()?;
        check_namespace(&other)?;
        older.push(Older {
            version,
            pins: other,
            _lock: lock,
        });
    }
    Ok(older)
}

impl Older {
    /// Its version.
    pub(super) fn version(&self) -> u32 {
        self.version
    }

    /// Lifts it. Call this only when this version enforces everything it did.
    ///
    /// What runs on a device that was moved to another namespace stays: nothing else is there.
    pub(super) fn lift(self, ours: &Pins) -> Result<(), KernelError> {
        for pin in self.pins.links()? {
            let Some(link) = open(&pin)? else { continue };
            let elsewhere = match link_info(link.as_fd()) {
                Ok(info) => is_here(info)? == Some(false),
                Err(_no_link) => false,
            };
            if elsewhere {
                let aside = ours.moved_link(self.version);
                fs::rename(&pin, &aside)
                    .map_err(KernelError::call("rename", pin.display().to_string()))?;
            } else {
                links::detach(&pin)?;
            }
        }
        self.pins.remove()
    }
}

/// Lifts whatever any version has left; says whether there was anything. What an agent holds is refused.
pub(super) fn release_all(pins: &Pins) -> Result<bool, KernelError> {
    let mut all: Vec<Pins> = pins.others()?.into_iter().map(|other| other.pins).collect();
    if pins.exist()? {
        all.push(pins.clone());
    }
    let is_directory = |state: &&Pins| state.root().is_dir();
    // All or nothing: nothing is lifted where an agent holds one of them.
    let locks: Vec<Lock> = all
        .iter()
        .filter(is_directory)
        .map(Pins::lock)
        .collect::<Result<_, _>>()?;
    for state in &all {
        detach_below(state.root())?;
        if !is_directory(&state) {
            unpin(state.root())?;
        }
        state.remove()?;
    }
    drop(locks);
    Ok(!all.is_empty())
}

/// Detaches every link that is pinned under a directory, whatever the layout.
fn detach_below(path: &Path) -> Result<(), KernelError> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => entries(path)?
            .iter()
            .try_for_each(|path| detach_below(path)),
        Ok(_) => {
            // A map has nothing to detach from; both go with the directory.
            if let Some(link) = open(path)?
                && link_info(link.as_fd()).is_ok()
            {
                links::detach(path)?;
            }
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(KernelError::call("stat", path.display().to_string())(error)),
    }
}

/// Whether state of any version says that it enforces in another namespace, and none that it does here.
pub(super) fn is_elsewhere(pins: &Pins) -> Result<bool, KernelError> {
    let current = Identity::current()?;
    let others = pins.others()?.into_iter().map(|other| other.pins);
    let found: Vec<Identity> = others
        .chain([pins.clone()])
        // What cannot be read says nothing.
        .flat_map(|pins| identities(&pins).unwrap_or_default())
        .collect();
    Ok(!found.is_empty() && !found.contains(&current))
}
