//! Why a host's resolver could not be set up or put back.

use std::io;
use std::path::{Path, PathBuf};

/// Why a host's resolver could not be set up or put back.
#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    /// A file cannot be read or changed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The user may not.
    #[error("cannot {action} {}; run it as root", path.display())]
    Denied {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file cannot be moved into its place.
    #[error(
        "{} is a mount of its own, which cannot be replaced: whoever made it (a container engine?) says what is in it",
        path.display()
    )]
    Mounted {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else is at it.
    #[error("another leakguard is changing the resolver; wait until it has ended, and try again")]
    Busy,
    /// The journal cannot be understood.
    #[error("cannot read the journal {}; it says what was there before: look at it, and mend it by hand", path.display())]
    Journal {
        /// The journal.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The journal is of another version of leakguard.
    #[error("the journal {} has form {version}; revert with the leakguard that has written it", path.display())]
    JournalVersion {
        /// The journal.
        path: PathBuf,
        /// Its form.
        version: u32,
    },
    /// Nobody is named who could answer.
    #[error(
        "no resolver is named: give its address in the tunnel, as in `--server 10.8.0.1`, or set servers = [\"10.8.0.1\"] in \
         [resolver] of the configuration file"
    )]
    NoServers,
    /// The settings do not fit the host.
    #[error("{0}")]
    Unfit(String),
    /// A program is missing.
    #[error(
        "{program} is not installed; install it (Debian: apt-get install {package}), or leave the cache out"
    )]
    Missing {
        /// What is missing.
        program: &'static str,
        /// Debian's package.
        package: &'static str,
    },
    /// A file of others cannot be added to.
    #[error("{path} is not what it should be; mend it first")]
    Json {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A configuration is refused by the program it is for. Nothing was changed.
    #[error("{program} refuses its configuration, so nothing was changed: {output}")]
    Refused {
        /// The program.
        program: &'static str,
        /// What it said.
        output: String,
    },
    /// A service could not be told.
    #[error("{what}: {output}")]
    Unit {
        /// What was tried.
        what: String,
        /// What came of it.
        output: String,
    },
    /// It failed half-way, and is as it was before.
    #[error("cannot set up the resolver; everything was put back")]
    PutBack(#[source] Box<Self>),
    /// It failed half-way, and could not be put back.
    #[error(
        "cannot set up the resolver, and not everything could be put back ({undone}); run `leakguard resolver revert`"
    )]
    HalfWay {
        /// Why not.
        undone: String,
        /// Why it failed.
        source: Box<Self>,
    },
}

impl ResolverError {
    /// Makes an error of a failed call.
    pub(super) fn io(action: &'static str, path: impl AsRef<Path>) -> impl Fn(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| {
            let path = path.clone();
            match source.kind() {
                io::ErrorKind::PermissionDenied => Self::Denied {
                    action,
                    path,
                    source,
                },
                io::ErrorKind::ResourceBusy => Self::Mounted { path },
                _ => Self::Io {
                    action,
                    path,
                    source,
                },
            }
        }
    }
}
