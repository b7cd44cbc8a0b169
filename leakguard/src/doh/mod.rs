//! Known resolvers of DNS over HTTPS: by address, and by the name that a client asks for.

mod list;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use leakguard_common::abi::{LanKey, NameKey};

pub use self::list::{LineError, Resolvers};

use crate::config::{DohResolvers, FileError, read_file};

/// The greatest size of a list in bytes: as many addresses and names as the kernel is told of fit in it.
const MAX_BYTES: u64 = 8 << 20;

/// The list that leakguard brings with it.
const BUILT_IN: &str = include_str!("resolvers.txt");

/// Why a list cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DohError {
    /// It cannot be read, or must not be trusted.
    #[error("cannot use the list of resolvers")]
    File(#[from] FileError),
    /// A line of it is wrong.
    #[error("{}:{line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1 on.
        line: usize,
        /// What is wrong with it.
        problem: LineError,
    },
}

/// A list that is read again when it has changed.
#[derive(Clone, Debug)]
pub struct Source {
    path: Option<PathBuf>,
    stamp: Option<Stamp>,
    resolvers: Resolvers,
    keys: Keys,
}

impl Source {
    /// Reads a list.
    pub fn read(from: &DohResolvers) -> Result<Self, DohError> {
        let path = match from {
            DohResolvers::BuiltIn => None,
            DohResolvers::File(path) => Some(path.clone()),
        };
        // Before the text: a change in between is seen next time.
        let stamp = path.as_deref().and_then(|path| Stamp::of(path).ok());
        let resolvers = resolvers(path.as_deref())?;
        Ok(Self {
            path,
            stamp,
            keys: Keys::of(&resolvers),
            resolvers,
        })
    }

    /// What is in it.
    pub fn resolvers(&self) -> &Resolvers {
        &self.resolvers
    }

    /// What the programs are told of it.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Reads the list again if its file has changed; says whether it has. A file that cannot be used leaves what was read
    /// before in place.
    pub fn refresh(&mut self) -> Result<bool, DohError> {
        let Some(path) = &self.path else {
            return Ok(false);
        };
        let stamp = Stamp::of(path).ok();
        if stamp.is_some() && stamp == self.stamp {
            return Ok(false);
        }
        let resolvers = resolvers(Some(path))?;
        self.stamp = stamp;
        let changed = resolvers != self.resolvers;
        if changed {
            self.keys = Keys::of(&resolvers);
            self.resolvers = resolvers;
        }
        Ok(changed)
    }
}

fn resolvers(path: Option<&Path>) -> Result<Resolvers, DohError> {
    let text = match path {
        Some(path) => Cow::from(read_file(path, MAX_BYTES)?),
        None => Cow::from(BUILT_IN),
    };
    Resolvers::parse(&text).map_err(|(line, problem)| DohError::Line {
        path: path.map_or_else(|| "built-in list".into(), Path::to_owned),
        line,
        problem,
    })
}

/// What tells one version of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self {
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

/// The keys under which the programs look resolvers up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Of their addresses.
    pub addresses: Arc<BTreeSet<LanKey>>,
    /// Of their names.
    pub names: Arc<BTreeSet<NameKey>>,
}

impl Keys {
    fn of(resolvers: &Resolvers) -> Self {
        let names = resolvers.names().flat_map(list::name_keys);
        Self {
            addresses: Arc::new(resolvers.addresses().collect()),
            names: Arc::new(names.collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::io::Write as _;

    use leakguard_common::abi::MAX_DOH_ADDRESSES;

    use super::*;

    #[test]
    fn a_file_can_hold_as_many_addresses_as_the_kernel_is_told_of() {
        let mut text = String::new();
        for number in 0..MAX_DOH_ADDRESSES {
            let (high, low) = (number >> 16, number & 0xffff);
            writeln!(text, "2001:0db8:ffff:ffff:ffff:ffff:{high:04x}:{low:04x}").unwrap();
        }
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let read = resolvers(Some(file.path())).unwrap();
        assert_eq!(read.addresses().count(), MAX_DOH_ADDRESSES as usize);
    }
}
