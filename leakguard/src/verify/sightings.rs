//! Where packets of a run were seen.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use super::canary::{Canary, Transport, Way};
use super::packet::tcp_ports;
use super::send::Sent;
use super::tap::Tap;
use crate::lab::LabError;

/// How long a packet may take to leave: the next hop's hardware address may have to be asked for.
const SETTLE: Duration = Duration::from_millis(300);
/// How often captures are emptied meanwhile.
const PAUSE: Duration = Duration::from_millis(20);

/// What captures have seen.
#[derive(Default)]
pub(super) struct Sightings {
    labels: BTreeMap<String, BTreeSet<String>>,
    /// Connections, by where they come from and their port of destination.
    ports: BTreeMap<(u16, u16), BTreeSet<String>>,
    /// How many packets the captures had no room for.
    pub(super) missed: u64,
}

/// Empties captures until everything that was sent must have left.
pub(super) fn watch(taps: &mut [(String, &mut Tap)], run: &str) -> Result<Sightings, LabError> {
    let deadline = Instant::now() + SETTLE;
    let mut sightings = Sightings::default();
    loop {
        let last = Instant::now() >= deadline;
        for (interface, tap) in &mut *taps {
            tap.each(|packet| sightings.note(packet, interface, run))?;
        }
        if last {
            for (_, tap) in &mut *taps {
                sightings.missed += tap.missed()?;
            }
            return Ok(sightings);
        }
        thread::sleep(PAUSE);
    }
}

impl Sightings {
    fn note(&mut self, packet: &[u8], interface: &str, run: &str) {
        if let Some(label) = label_in(packet, run) {
            let interfaces = self.labels.entry(label).or_default();
            interfaces.insert(interface.to_owned());
        }
        if let Some((source, destination)) = tcp_ports(packet) {
            let interfaces = self.ports.entry((source, destination.port())).or_default();
            interfaces.insert(interface.to_owned());
        }
    }

    /// Where a packet was seen.
    pub(super) fn of(&self, canary: &Canary, sent: &Sent) -> BTreeSet<String> {
        let bare =
            canary.transport == Transport::Tcp && matches!(canary.way, Way::Tcp | Way::Device);
        let seen = if bare {
            // The first packet of a connection carries nothing.
            self.ports.get(&(sent.port, canary.destination.port()))
        } else {
            self.labels.get(&canary.label)
        };
        seen.cloned().unwrap_or_default()
    }
}

/// The label of a run in a packet, wherever it stands.
fn label_in(packet: &[u8], run: &str) -> Option<String> {
    let length = run.len() + "-0000".len();
    packet
        .windows(length)
        .find(|window| window.starts_with(run.as_bytes()))
        .and_then(|window| str::from_utf8(window).ok())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_found_wherever_it_stands_and_only_whole() {
        let packet = b"\x45\0xyz\x0clgv-0badcafe-01ff\x07invalid";
        assert_eq!(
            label_in(packet, "lgv-0badcafe").unwrap(),
            "lgv-0badcafe-01ff"
        );
        assert_eq!(label_in(b"lgv-0badcafe-01f", "lgv-0badcafe"), None);
        assert_eq!(label_in(packet, "lgv-00000000"), None);
    }
}
