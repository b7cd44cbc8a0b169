//! The services that have to be told of a change.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::error::ResolverError;
use super::texts::CACHE_ADDRESS;

/// The unit of the cache.
pub(super) const CACHE: &str = "leakguard-cache.service";
const RESOLVED: &str = "systemd-resolved.service";
const NETWORK_MANAGER: &str = "NetworkManager.service";

/// How long the cache may take to answer.
const START: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
const CONNECT: Duration = Duration::from_millis(500);

/// A service that has to be told of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// leakguard's own cache.
    Cache,
    /// systemd-resolved.
    Resolved,
    /// `NetworkManager`.
    NetworkManager,
}

impl Unit {
    /// What is done to it.
    pub fn told(self) -> String {
        match self {
            Self::Cache => format!("start {CACHE}"),
            Self::Resolved => format!("restart {RESOLVED}, if it runs"),
            Self::NetworkManager => format!("reload {NETWORK_MANAGER}, if it runs"),
        }
    }

    /// Tells it of what was written.
    pub(super) fn apply(self) -> Result<(), ResolverError> {
        match self {
            Self::Cache => {
                systemctl(&["daemon-reload"])?;
                systemctl(&["restart", CACHE])?;
                serves()
            }
            Self::Resolved => self.tell(),
            Self::NetworkManager => {
                self.tell()?;
                forget_links();
                Ok(())
            }
        }
    }

    /// Tells it of what was put back.
    pub(super) fn revert(self) -> Result<(), ResolverError> {
        match self {
            Self::Cache => {
                // It may have been started never, or be unknown by now.
                if let Err(error) = systemctl(&["stop", CACHE]) {
                    log::debug!("{}", crate::error::chain(&error));
                }
                systemctl(&["daemon-reload"])
            }
            Self::Resolved | Self::NetworkManager => self.tell(),
        }
    }

    fn tell(self) -> Result<(), ResolverError> {
        match self {
            Self::Cache => Ok(()),
            Self::Resolved => systemctl(&["try-restart", RESOLVED]),
            // One that does not run is not to be started.
            Self::NetworkManager
                if systemctl(&["--quiet", "is-active", NETWORK_MANAGER]).is_err() =>
            {
                Ok(())
            }
            Self::NetworkManager => systemctl(&["reload", NETWORK_MANAGER]),
        }
    }
}

/// Waits until the cache can be asked.
fn serves() -> Result<(), ResolverError> {
    let deadline = Instant::now() + START;
    let address = SocketAddr::new(CACHE_ADDRESS.into(), 53);
    loop {
        let Err(error) = TcpStream::connect_timeout(&address, CONNECT) else {
            return systemctl(&["--quiet", "is-active", CACHE]);
        };
        if Instant::now() > deadline {
            return Err(ResolverError::Unit {
                what: format!("{CACHE} does not serve at {address}: {error}"),
                output: format!("see journalctl -u {CACHE}"),
            });
        }
        sleep(POLL);
    }
}

/// Has systemd-resolved forget what `NetworkManager` had told it of its links: the names of a network's own domain would
/// go on being asked there. It remembers over a restart.
fn forget_links() {
    let listed = Command::new("nmcli")
        .args(["--terse", "--fields", "DEVICE,STATE", "device"])
        .output();
    let Ok(listed) = listed else {
        return;
    };
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for link in listed
        .lines()
        .filter_map(|line| line.strip_suffix(":connected"))
    {
        let output = Command::new("resolvectl").args(["revert", link]).output();
        if !output.as_ref().is_ok_and(|output| output.status.success()) {
            log::debug!("systemd-resolved does not forget {link}: {output:?}");
        }
    }
}

fn systemctl(words: &[&str]) -> Result<(), ResolverError> {
    let line = format!("systemctl {}", words.join(" "));
    let output = Command::new("systemctl")
        .arg("--no-ask-password")
        .args(words)
        .output()
        .map_err(ResolverError::io("run", &line))?;
    if output.status.success() {
        return Ok(());
    }
    Err(ResolverError::Unit {
        what: format!("{line}: {}", output.status),
        output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
