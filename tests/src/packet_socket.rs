//! Packet sockets as a sender uses them: whole frames, datagrams, and a ring of frames.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::libc::{self, c_int};

use super::Origin;

/// A socket that sends on one interface.
#[derive(Debug)]
pub struct PacketSocket {
    socket: OwnedFd,
    index: c_int,
}

impl PacketSocket {
    /// One that brings its own link header (`SOCK_RAW`).
    pub fn raw(origin: Origin<'_>, interface: &str) -> Self {
        Self::new(origin, interface, libc::SOCK_RAW)
    }

    /// One whose link header the kernel makes (`SOCK_DGRAM`).
    pub fn datagram(origin: Origin<'_>, interface: &str) -> Self {
        Self::new(origin, interface, libc::SOCK_DGRAM)
    }

    fn new(origin: Origin<'_>, interface: &str, kind: c_int) -> Self {
        let index = origin
            .netns
            .run_in(|| nix::net::if_::if_nametoindex(interface).unwrap())
            .unwrap();
        let mut sockets = origin.sockets(libc::AF_PACKET, kind, 0, 1);
        Self {
            socket: sockets.pop().unwrap(),
            index: c_int::try_from(index).unwrap(),
        }
    }

    /// Sends what the socket's kind asks for; `protocol` is what the sender says that it is.
    pub fn send(&self, bytes: &[u8], protocol: u16, destination: [u8; 6]) -> io::Result<()> {
        let target = self.address(protocol, destination);
        // SAFETY: a buffer and an address of the lengths given, both live.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                0,
                (&raw const target).cast(),
                length_of(&target),
            )
        };
        check(sent)
    }

    fn address(&self, protocol: u16, destination: [u8; 6]) -> libc::sockaddr_ll {
        let mut sll_addr = [0; 8];
        sll_addr[..6].copy_from_slice(&destination);
        libc::sockaddr_ll {
            sll_family: libc::sa_family_t::try_from(libc::AF_PACKET).unwrap(),
            sll_protocol: protocol.to_be(),
            sll_ifindex: self.index,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr,
        }
    }
}

/// A packet socket that sends from memory it shares with the kernel (`PACKET_TX_RING`): all of a frame but its link
/// header stays there, outside of the packet's linear part.
#[derive(Debug)]
pub struct TxRing {
    socket: PacketSocket,
    /// In words, as a frame's header is.
    ring: *mut u32,
    next: usize,
}

impl TxRing {
    /// What a frame may take, with its header.
    const FRAME: usize = 1024;
    /// Until a receiver has read a packet, its bytes are those in the ring: so many that nobody comes round too early.
    const FRAMES: usize = 16_384;
    const BLOCK: usize = 1 << 16;
    /// Where a frame's bytes begin: behind its header (`tpacket2_hdr`).
    const DATA: usize = 32;
    const VERSION: c_int = 1;
    const SEND_REQUEST: u32 = 1;

    /// Maps a ring for an interface.
    pub fn new(origin: Origin<'_>, interface: &str) -> Self {
        let socket = PacketSocket::raw(origin, interface);
        set_option(
            &socket.socket,
            libc::SOL_PACKET,
            libc::PACKET_VERSION,
            &Self::VERSION,
        )
        .unwrap();
        let request = libc::tpacket_req {
            tp_block_size: u32::try_from(Self::BLOCK).unwrap(),
            tp_block_nr: u32::try_from(Self::FRAMES * Self::FRAME / Self::BLOCK).unwrap(),
            tp_frame_size: u32::try_from(Self::FRAME).unwrap(),
            tp_frame_nr: u32::try_from(Self::FRAMES).unwrap(),
        };
        set_option(
            &socket.socket,
            libc::SOL_PACKET,
            libc::PACKET_TX_RING,
            &request,
        )
        .unwrap();
        // SAFETY: a new mapping of the ring, at an address of the kernel's choice.
        let ring = unsafe {
            libc::mmap(
                ptr::null_mut(),
                Self::FRAMES * Self::FRAME,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                socket.socket.as_raw_fd(),
                0,
            )
        };
        assert_ne!(ring, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        Self {
            socket,
            ring: ring.cast(),
            next: 0,
        }
    }

    /// Sends a frame with its link header.
    pub fn send(&mut self, frame: &[u8], protocol: u16, destination: [u8; 6]) -> io::Result<()> {
        assert!(frame.len() <= Self::FRAME - Self::DATA);
        // SAFETY: the slot lies in the mapping and is large enough; the kernel has left it alone since it was sent, or
        // has refused to send it.
        unsafe {
            let slot = self.ring.add(self.next * Self::FRAME / size_of::<u32>());
            let data = slot.cast::<u8>().add(Self::DATA);
            ptr::copy_nonoverlapping(frame.as_ptr(), data, frame.len());
            slot.add(1)
                .write_volatile(u32::try_from(frame.len()).unwrap());
            AtomicU32::from_ptr(slot).store(Self::SEND_REQUEST, Ordering::Release);
        }
        let target = self.socket.address(protocol, destination);
        // SAFETY: no buffer, and an address of the length given.
        let sent = unsafe {
            libc::sendto(
                self.socket.socket.as_raw_fd(),
                ptr::null(),
                0,
                0,
                (&raw const target).cast(),
                length_of(&target),
            )
        };
        check(sent)?;
        // The kernel stays at a frame that it could not send.
        self.next = (self.next + 1) % Self::FRAMES;
        Ok(())
    }
}

impl Drop for TxRing {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, which nothing refers to any more.
        unsafe { libc::munmap(self.ring.cast(), Self::FRAMES * Self::FRAME) };
    }
}

/// Sets an option of a socket that the libraries have no type for.
pub fn set_option<T>(
    socket: &impl AsRawFd,
    level: c_int,
    name: c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: a value of the length given, which is only read.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            ptr::from_ref(value).cast(),
            length_of(value),
        )
    };
    check(isize::try_from(result).unwrap())
}

fn length_of<T>(value: &T) -> libc::socklen_t {
    libc::socklen_t::try_from(size_of_val(value)).unwrap()
}

fn check(result: isize) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
