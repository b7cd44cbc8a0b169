//! A TUN device that a test reads: what goes into the tunnel can be counted.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use leakguard::lab::Netns;
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A TUN device; it goes when dropped.
#[derive(Debug)]
pub struct Tun {
    file: File,
}

impl Tun {
    /// Creates it in a namespace; it is down.
    pub fn new(netns: &Netns, name: &str) -> Self {
        let file = netns.run_in(|| open(name)).unwrap();
        Self { file }
    }

    /// Waits for at most `limit` until something has been sent into it; says whether DNS was among it.
    pub fn carries_dns(&mut self, limit: Duration) -> bool {
        let mut ready = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::try_from(limit).unwrap()) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => panic!("{error}"),
        }
        let packets = self.packets();
        packets
            .iter()
            .any(|packet| destination_port(packet) == Some(53))
    }

    /// What has been sent into it since the last call.
    pub fn packets(&mut self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let mut packet = [0; 2048];
        loop {
            match self.file.read(&mut packet) {
                Ok(length) => packets.push(packet[..length].to_vec()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return packets,
                // It is down.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => return packets,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn open(name: &str) -> File {
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .unwrap();
    // SAFETY: a plain C structure, for which all zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    assert!(name.len() < request.ifr_name.len(), "{name}");
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI).unwrap();
    // SAFETY: the request lives; the call takes its name and flags, and writes back at most its own size.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    Errno::result(result).unwrap();
    file
}

/// The destination port of a UDP packet of either family, without options.
fn destination_port(packet: &[u8]) -> Option<u16> {
    let header = match packet.first()? >> 4 {
        4 => 20,
        6 => 40,
        _ => return None,
    };
    let port = packet.get(header + 2..header + 4)?;
    Some(u16::from_be_bytes(port.try_into().ok()?))
}
