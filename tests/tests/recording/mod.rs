//! Captures: recorded by tcpdump on the device under test, or put together.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use leakguard::lab::{Daemon, wait_until};
use leakguard_tests::Bench;

/// `LINKTYPE_RAW`.
pub(crate) const RAW: u32 = 101;
/// `LINKTYPE_PPP`.
pub(crate) const PPP: u32 = 9;

const LIMIT: Duration = Duration::from_secs(20);

/// tcpdump, recording.
pub(crate) struct Recording {
    tcpdump: Daemon,
    path: PathBuf,
}

impl Recording {
    /// Records that many datagrams to a target; it is listening when this returns.
    pub(crate) fn start(
        bench: &Bench,
        directory: &Path,
        name: &str,
        options: &[&str],
        target: SocketAddr,
        count: usize,
    ) -> Self {
        let path = directory.join(format!("{name}.pcap"));
        let logs = directory.join(name);
        fs::create_dir(&logs).unwrap();
        let mut command = bench.topology.host().command("tcpdump");
        command
            .args(["-n", "-U", "-Z", "root", "-c", &count.to_string()])
            .args(options)
            .arg("-w")
            .arg(&path)
            .arg(format!(
                "udp and dst host {} and dst port {}",
                target.ip(),
                target.port()
            ));
        let mut tcpdump = Daemon::start(command, &logs).unwrap();
        wait_until("tcpdump listens", LIMIT, || {
            tcpdump.check_running()?;
            Ok(tcpdump.stderr().contains("listening on"))
        })
        .unwrap();
        Self { tcpdump, path }
    }

    /// Waits until everything is recorded; where to.
    pub(crate) fn finish(mut self) -> PathBuf {
        wait_until("everything is recorded", LIMIT, || {
            Ok(self.tcpdump.exit_status()?.is_some())
        })
        .unwrap();
        self.path
    }
}

/// A pcap file of whole packets, in the byte order of this machine.
pub(crate) fn pcap(link: u32, packets: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = 0xa1b2_c3d4_u32.to_ne_bytes().to_vec();
    for half in [2_u16, 4] {
        bytes.extend(half.to_ne_bytes());
    }
    for word in [0, 0, 262_144, link] {
        bytes.extend(word.to_ne_bytes());
    }
    for packet in packets {
        let length = u32::try_from(packet.len()).unwrap();
        for word in [0, 0, length, length] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(packet);
    }
    bytes
}

/// The packets of a pcap file in the byte order of this machine.
pub(crate) fn frames(path: &Path) -> Vec<Vec<u8>> {
    let bytes = fs::read(path).unwrap();
    let mut rest = &bytes[24..];
    let mut frames = Vec::new();
    while let Some((header, data)) = rest.split_at_checked(16) {
        let length = u32::from_ne_bytes(header[8..12].try_into().unwrap());
        let (frame, next) = data.split_at(usize::try_from(length).unwrap());
        frames.push(frame.to_vec());
        rest = next;
    }
    frames
}
