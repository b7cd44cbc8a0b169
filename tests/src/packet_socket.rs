//! Packet sockets in every way in which they send.

use std::cell::Cell;
use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use leakguard::lab::wait_until;
use leakguard_common::hardening::{PACKET_QDISC_BYPASS, SOL_PACKET};
use nix::errno::Errno;
use nix::libc;

use super::Origin;

/// Until a receiver has read a packet, its bytes are those in the ring: so many slots that nobody waits for one.
const SLOTS: usize = 16_384;
const SLOT: usize = 1024;
const RING: usize = SLOTS * SLOT;
const BLOCK: usize = 1 << 16;
/// Where a frame begins in its slot: behind `struct tpacket2_hdr` (`TPACKET2_HDRLEN` less the address).
const HEADER: usize = 32;

/// A packet socket that sends over one interface.
#[derive(Debug)]
pub struct PacketSocket {
    socket: OwnedFd,
    interface: u32,
    ring: Option<Ring>,
}

impl PacketSocket {
    /// One whose frames come with their link-layer header.
    pub fn raw(origin: Origin<'_>, interface: &str) -> Self {
        Self::new(origin, interface, libc::SOCK_RAW)
    }

    /// One for which the kernel writes that header.
    pub fn datagram(origin: Origin<'_>, interface: &str) -> Self {
        Self::new(origin, interface, libc::SOCK_DGRAM)
    }

    /// One that sends out of memory that it shares with the kernel.
    pub fn ring(origin: Origin<'_>, interface: &str) -> Self {
        const TPACKET_V2: c_int = 1;
        const PACKET_VERSION: c_int = 10;
        const PACKET_TX_RING: c_int = 13;

        let mut socket = Self::raw(origin, interface);
        socket.set(PACKET_VERSION, TPACKET_V2).unwrap();
        // struct tpacket_req: block size, blocks, frame size, frames.
        let request = [BLOCK, RING / BLOCK, SLOT, SLOTS].map(|size| u32::try_from(size).unwrap());
        let fd = socket.socket.as_fd();
        set_option(fd, SOL_PACKET, PACKET_TX_RING, &request).unwrap();
        socket.ring = Some(Ring {
            memory: Mapping::new(fd, RING, 0),
            slot: Cell::new(0),
        });
        socket
    }

    fn new(origin: Origin<'_>, interface: &str, kind: c_int) -> Self {
        let interface = origin
            .netns
            .run_in(|| nix::net::if_::if_nametoindex(interface).unwrap())
            .unwrap();
        // Protocol 0: it receives nothing.
        let mut sockets = origin.sockets(libc::AF_PACKET, kind, 0, 1);
        Self {
            socket: sockets.pop().unwrap(),
            interface,
            ring: None,
        }
    }

    /// Another interface of the same namespace to send over.
    #[must_use]
    pub fn over(mut self, interface: u32) -> Self {
        self.interface = interface;
        self
    }

    /// The interface that it sends over.
    pub fn interface(&self) -> u32 {
        self.interface
    }

    /// Sets one of its options.
    pub fn set(&self, name: c_int, value: c_int) -> nix::Result<()> {
        set_option(self.socket.as_fd(), SOL_PACKET, name, &value)
    }

    /// Makes it bypass the queueing layer, or no more.
    pub fn bypass(&self, on: bool) -> nix::Result<()> {
        self.set(PACKET_QDISC_BYPASS, c_int::from(on))
    }

    /// The same by the system call of 32-bit programs.
    #[cfg(target_arch = "x86_64")]
    pub fn bypass_in_32_bits(&self) -> nix::Result<()> {
        set_option_in_32_bits(self.socket.as_fd(), SOL_PACKET, PACKET_QDISC_BYPASS, &1_u32)
    }

    /// Sends a frame to everybody, and says to the kernel that it is of this protocol (an Ethernet type).
    pub fn send(&self, ethertype: u16, frame: &[u8]) -> nix::Result<()> {
        self.send_to([0xff; 6], ethertype, frame)
    }

    /// Sends a frame, and says to the kernel that it goes there and is of this protocol.
    pub fn send_to(&self, destination: [u8; 6], ethertype: u16, frame: &[u8]) -> nix::Result<()> {
        let mut sll_addr = [0; 8];
        sll_addr[..6].copy_from_slice(&destination);
        let address = libc::sockaddr_ll {
            sll_family: u16::try_from(libc::AF_PACKET).unwrap(),
            sll_protocol: ethertype.to_be(),
            sll_ifindex: self.interface.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr,
        };
        let (bytes, length) = match &self.ring {
            None => (frame.as_ptr(), frame.len()),
            Some(ring) => {
                ring.fill(frame);
                (ptr::null(), 0)
            }
        };
        // SAFETY: a buffer, or none, and an address of the lengths given, both live.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                bytes.cast(),
                length,
                0,
                (&raw const address).cast(),
                libc::socklen_t::try_from(size_of_val(&address)).unwrap(),
            )
        };
        let result = Errno::result(sent).map(drop);
        if let Some(ring) = &self.ring {
            ring.sent(result);
        }
        result
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sets an option of a socket.
pub fn set_option<T>(socket: impl AsFd, level: c_int, name: c_int, value: &T) -> nix::Result<()> {
    // SAFETY: the pointer is to a live value of the length given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            ptr::from_ref(value).cast(),
            libc::socklen_t::try_from(size_of::<T>()).unwrap(),
        )
    };
    Errno::result(result).map(drop)
}

/// The same by the system call of 32-bit programs.
#[cfg(target_arch = "x86_64")]
pub(super) fn set_option_in_32_bits<T>(
    socket: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: &T,
) -> nix::Result<()> {
    // SAFETY: the bytes of a live value; callers give plain C structures without padding.
    let bytes =
        unsafe { std::slice::from_raw_parts(ptr::from_ref(value).cast::<u8>(), size_of::<T>()) };
    compat::setsockopt(socket, level, name, bytes)
}

/// Frames that are handed over in turn.
#[derive(Debug)]
struct Ring {
    memory: Mapping,
    /// Where the next one begins.
    slot: Cell<usize>,
}

impl Ring {
    const AVAILABLE: u32 = 0;
    const SEND_REQUEST: u32 = 1;

    /// Puts a frame into the next slot, to be sent.
    fn fill(&self, frame: &[u8]) {
        let slot = self.slot.get();
        wait_until("the slot is free", Duration::from_secs(5), || {
            // SAFETY: within the mapping; the status stands first in a slot.
            let status = unsafe { self.memory.word(slot).read_volatile() };
            Ok(status == Self::AVAILABLE)
        })
        .unwrap();
        self.memory.write(slot + HEADER, frame);
        let length = u32::try_from(frame.len()).unwrap();
        self.memory.put(slot + 4, length);
        self.memory.put(slot, Self::SEND_REQUEST);
    }

    /// Goes on to the next slot, or takes back what was refused: the kernel would try the same slot again
    /// (`tpacket_snd` in `net/packet/af_packet.c`, 6.18).
    fn sent(&self, result: nix::Result<()>) {
        let slot = self.slot.get();
        match result {
            Ok(()) => self.slot.set((slot + SLOT) % RING),
            Err(_) => self.memory.put(slot, Self::AVAILABLE),
        }
    }
}

/// Memory that is shared with the kernel.
#[derive(Debug)]
pub(super) struct Mapping {
    start: *mut u32,
    length: usize,
}

impl Mapping {
    /// Maps what a socket offers at an offset.
    pub(super) fn new(socket: BorrowedFd<'_>, length: usize, offset: i64) -> Self {
        Self::of(socket.as_raw_fd(), length, libc::MAP_SHARED, offset)
    }

    /// Memory that 32 bits can tell the address of, and that starts with a page.
    pub(super) fn low(length: usize) -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
        Self::of(-1, length, flags, 0)
    }

    fn of(fd: c_int, length: usize, flags: c_int, offset: i64) -> Self {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, wherever there is room.
        let start = unsafe { libc::mmap(ptr::null_mut(), length, access, flags, fd, offset) };
        assert_ne!(start, libc::MAP_FAILED, "{}", Errno::last());
        Self {
            start: start.cast(),
            length,
        }
    }

    /// The address of a byte.
    pub(super) fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.length);
        // SAFETY: within the mapping, as was just checked.
        unsafe { self.start.cast::<u8>().add(offset) }
    }

    /// The address of a number.
    fn word(&self, offset: usize) -> *mut u32 {
        assert!(offset < self.length && offset.is_multiple_of(size_of::<u32>()));
        // SAFETY: within the mapping, which starts with a page, as was just checked.
        unsafe { self.start.add(offset / size_of::<u32>()) }
    }

    /// Writes bytes.
    pub(super) fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.length);
        // SAFETY: within the mapping, as was just checked, and of no other object.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.at(offset), bytes.len()) };
    }

    /// Writes a number where the kernel looks at it.
    pub(super) fn put(&self, offset: usize, number: u32) {
        // SAFETY: within the mapping, aligned as the kernel's structures are.
        unsafe { self.word(offset).write_volatile(number) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, which nothing points into any more.
        unsafe { libc::munmap(self.start.cast(), self.length) };
    }
}

#[cfg(target_arch = "x86_64")]
mod compat {
    //! The system calls of 32-bit programs, which 64-bit ones can make too.

    use std::arch::asm;

    use super::{AsRawFd, BorrowedFd, Errno, Mapping, c_int};

    /// `setsockopt` among the system calls of i386.
    const SETSOCKOPT: u64 = 366;

    pub(super) fn setsockopt(
        socket: BorrowedFd<'_>,
        level: c_int,
        name: c_int,
        value: &[u8],
    ) -> nix::Result<()> {
        let memory = Mapping::low(4096);
        memory.write(0, value);
        let mut result = SETSOCKOPT;
        // SAFETY: the kernel reads so many bytes at an address below 4 GiB, which are there. It overwrites r8 to r11 and the
        // result; rbx, which the compiler keeps for itself, is put back.
        unsafe {
            asm!(
                "mov r13, rbx",
                "mov ebx, r12d",
                "int 0x80",
                "mov rbx, r13",
                inlateout("rax") result,
                in("r12") u64::from(socket.as_raw_fd().unsigned_abs()),
                in("rcx") u64::from(level.unsigned_abs()),
                in("rdx") u64::from(name.unsigned_abs()),
                in("rsi") memory.at(0) as u64,
                in("rdi") value.len() as u64,
                out("r13") _,
                lateout("r8") _,
                lateout("r9") _,
                lateout("r10") _,
                lateout("r11") _,
            );
        }
        let [a, b, c, d, ..] = result.to_ne_bytes();
        match i32::from_ne_bytes([a, b, c, d]) {
            0 => Ok(()),
            error => Err(Errno::from_raw(error.wrapping_neg())),
        }
    }
}
