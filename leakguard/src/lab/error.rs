use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use nix::errno::Errno;

use crate::host::HostError;

/// Why a part of the lab could not be built or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// The lab creates network namespaces, mounts and cgroups.
    #[error("the lab needs root: run it again with sudo")]
    NotRoot,
    /// A program is not installed.
    #[error("{program} is not installed: apt-get install {package}")]
    MissingProgram {
        /// The program's name.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// The kernel offers no TUN device for the tunnel.
    #[error("/dev/net/tun does not exist: modprobe tun")]
    NoTun,
    /// A fact about the host could not be established.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A system call failed.
    #[error("{call} failed ({what})")]
    Syscall {
        /// The system call.
        call: &'static str,
        /// What it was for.
        what: String,
        #[source]
        /// The kernel's answer.
        source: Errno,
    },
    /// A file or a socket could not be used.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: String,
        #[source]
        /// Why it failed.
        source: io::Error,
    },
    /// A program could not be started.
    #[error("cannot start {program}")]
    Spawn {
        /// The program's name.
        program: String,
        #[source]
        /// Why it failed.
        source: io::Error,
    },
    /// A program that should have succeeded did not.
    #[error("{command} failed ({status}): {output}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote.
        output: String,
    },
    /// A program that should be running has ended.
    #[error("{program} ended early ({status}): {output}")]
    Ended {
        /// The program's name.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote.
        output: String,
    },
    /// A condition did not come true in time.
    #[error("{what}: not within {limit:?}")]
    Timeout {
        /// The condition that was awaited, with what is known about its absence.
        what: String,
        /// How long it was awaited.
        limit: Duration,
    },
    /// A program's JSON output is not JSON.
    #[error("{command} did not write JSON: {output}")]
    Json {
        /// The command line.
        command: String,
        /// What it wrote.
        output: String,
        #[source]
        /// Where it stops being JSON.
        source: serde_json::Error,
    },
    /// A closure running in a namespace, or a helper thread, could not get its thread.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// A path that the lab was given cannot be used in a system call.
    #[error("{} contains a NUL byte", .0.display())]
    Path(PathBuf),
}

impl LabError {
    /// Whether the machine lacks something, as opposed to something having gone wrong.
    pub fn is_requirement(&self) -> bool {
        matches!(
            self,
            Self::NotRoot | Self::MissingProgram { .. } | Self::NoTun | Self::Host(_)
        )
    }

    /// For `map_err` on file and socket operations.
    pub(super) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    /// For `map_err` on system calls.
    pub(crate) fn syscall(
        call: &'static str,
        what: impl Into<String>,
    ) -> impl FnOnce(Errno) -> Self {
        let what = what.into();
        move |source| Self::Syscall { call, what, source }
    }
}
