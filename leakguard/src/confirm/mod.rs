//! Enforcing on trial: a process of its own rolls back to what was enforced before, unless somebody confirms in time.
//!
//! It holds the lock of the state, so that nobody else changes it meanwhile, and answers on a socket beside the
//! agent's. If it is killed, what is enforced stays, and the socket that nobody serves tells of it.

mod saved;
mod wait;

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use saved::Saved;
pub use wait::{Ended, Trial};

use crate::daemon::protocol::{Answer, Ask};
use crate::daemon::{ControlError, connect};

/// Whether what is enforced waits for a confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// It does not.
    No,
    /// It does.
    Yes {
        /// The process that will roll back.
        pid: u32,
        /// The time left.
        remaining: Duration,
    },
    /// It did, but the process was killed: nothing will roll back.
    Abandoned,
}

/// The socket that a confirmation is given over: beside the agent's.
pub fn socket(control: &Path) -> PathBuf {
    let mut name = control.file_stem().unwrap_or_default().to_owned();
    name.push("-confirm.sock");
    control.with_file_name(name)
}

/// Looks whether a confirmation is pending.
pub fn pending(control: &Path) -> Result<Pending, ControlError> {
    let socket = socket(control);
    let Some(mut process) = connect(&socket, &Ask::Hello {})? else {
        let left = fs::symlink_metadata(&socket).is_ok_and(|found| found.file_type().is_socket());
        return Ok(if left {
            Pending::Abandoned
        } else {
            Pending::No
        });
    };
    Ok(match process.answer()? {
        Answer::Pending { pid, remaining_ms } => Pending::Yes {
            pid,
            remaining: Duration::from_millis(remaining_ms),
        },
        _ => Pending::No,
    })
}

/// Removes what a process that was killed has left behind; says whether there was anything.
pub fn forget_abandoned(control: &Path) -> Result<bool, ControlError> {
    if pending(control)? != Pending::Abandoned {
        return Ok(false);
    }
    let path = socket(control);
    match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(source) => Err(ControlError::Exchange { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn the_socket_is_beside_the_agents() {
        for (control, beside) in [
            (
                "/run/leakguard/control.sock",
                "/run/leakguard/control-confirm.sock",
            ),
            ("/tmp/a/0", "/tmp/a/0-confirm.sock"),
        ] {
            assert_eq!(socket(Path::new(control)), Path::new(beside));
        }
    }

    #[test]
    fn a_socket_that_nobody_serves_tells_of_a_process_that_was_killed() {
        let directory = tempfile::tempdir().unwrap();
        let control = directory.path().join("control.sock");
        assert_eq!(pending(&control).unwrap(), Pending::No);
        assert!(!forget_abandoned(&control).unwrap());
        drop(UnixListener::bind(socket(&control)).unwrap());
        assert_eq!(pending(&control).unwrap(), Pending::Abandoned);
        assert!(forget_abandoned(&control).unwrap());
        assert_eq!(pending(&control).unwrap(), Pending::No);
        // What is no socket is nobody's trial.
        fs::write(socket(&control), "").unwrap();
        assert_eq!(pending(&control).unwrap(), Pending::No);
    }
}
