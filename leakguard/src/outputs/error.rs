//! Why an output does not take events.

use std::io;
use std::path::{Path, PathBuf};

/// Why an output does not take events.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// A symbolic link: whoever may change it chooses what is written to.
    #[error("{} is a symbolic link; name the file that it leads to", path.display())]
    Symlink {
        /// The path.
        path: PathBuf,
    },
    /// A directory, a device, a pipe or a socket.
    #[error("{} is not a regular file; name one, or a path where none is yet", path.display())]
    NotRegular {
        /// The path.
        path: PathBuf,
    },
    /// Somebody else's file.
    #[error("{} belongs to user {owner}, who could change it; run: chown root '{}'", path.display(), path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// The owner's user id.
        owner: u32,
    },
    /// Others than the owner can write it.
    #[error("{} is writable by group or others (mode {mode:04o}); run: chmod go-w '{}'", path.display(), path.display())]
    Writable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It has another name elsewhere.
    #[error("{} has another name elsewhere (a hard link); name a file that has one only", path.display())]
    Linked {
        /// The file.
        path: PathBuf,
    },
    /// There is something else in it.
    #[error("{} is not an audit log of leakguard; move it away, or name another", path.display())]
    NotAuditLog {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The journal does not take it.
    #[error("the journal does not answer")]
    Journal(#[source] io::Error),
    /// The receiver of OpenTelemetry logs does not take it.
    #[error("the receiver at {url} does not take them: {message}")]
    Otlp {
        /// Where it is.
        url: String,
        /// What the exporter says.
        message: String,
    },
    /// A thread cannot be started.
    #[error("cannot start the thread of an output")]
    Thread(#[source] io::Error),
}

impl OutputError {
    /// Whether somebody has to change the configuration or the file; it does not pass by itself.
    pub(crate) fn is_mistake(&self) -> bool {
        match self {
            Self::Symlink { .. }
            | Self::NotRegular { .. }
            | Self::Owner { .. }
            | Self::Writable { .. }
            | Self::Linked { .. }
            | Self::NotAuditLog { .. } => true,
            Self::File { .. } | Self::Journal(_) | Self::Otlp { .. } | Self::Thread(_) => false,
        }
    }

    /// Makes one of what the system says.
    pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }
}
