//! Asks WireGuard for the handshakes of the tunnels, once a second, where the configuration limits their age.
//!
//! `wg` knows both the kernel's tunnels and those of programs. It runs in a task of its own: an answer that takes long
//! holds up nobody, and a tunnel without an answer counts as down.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use leakguard_common::abi::Role;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::guard::{Handshakes, Interfaces};

/// How often it is asked.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(2);

/// Asks until nobody listens any more.
pub(super) async fn watch(
    interfaces: watch::Receiver<Arc<Interfaces>>,
    handshakes: watch::Sender<Handshakes>,
) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let interfaces = Arc::clone(&interfaces.borrow());
        let tunnels = interfaces
            .values()
            .filter(|interface| interface.role == Role::Tunnel);
        let mut found = Handshakes::new();
        for tunnel in tunnels {
            if let Some(latest) = ask(&tunnel.name).await {
                found.insert(tunnel.ifindex, latest);
            }
        }
        if handshakes.send(found).is_err() {
            return;
        }
    }
}

/// The latest handshake of an interface; `None` if it is none of WireGuard's.
async fn ask(name: &str) -> Option<Option<SystemTime>> {
    let output = Command::new("wg")
        .args(["show", name, "latest-handshakes"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match timeout(LIMIT, output).await {
        Ok(Ok(output)) if output.status.success() => {
            Some(latest(&String::from_utf8_lossy(&output.stdout)))
        }
        Ok(Ok(output)) => {
            let message = String::from_utf8_lossy(&output.stderr);
            log::debug!("wg does not know {name}: {}", message.trim());
            None
        }
        Ok(Err(error)) => {
            log::debug!("cannot run wg: {error}");
            None
        }
        Err(_elapsed) => {
            log::debug!("wg does not answer");
            None
        }
    }
}

/// Reads a line `PEER<tab>SECONDS` for each peer; 0 seconds is none yet.
fn latest(text: &str) -> Option<SystemTime> {
    text.lines()
        .filter_map(|line| line.split_whitespace().nth(1)?.parse().ok())
        .filter(|&seconds: &u64| seconds > 0)
        .max()
        .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_of_all_peers_counts() {
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(
            latest("AAAA=\t1700000000\nBBBB=\t1700000007\nCCCC=\t0\n"),
            at(1_700_000_007)
        );
        assert_eq!(latest("AAAA=\t0\n"), None);
        assert_eq!(latest(""), None);
        assert_eq!(latest("nonsense"), None);
    }
}
