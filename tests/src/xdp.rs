//! An `AF_XDP` socket in copy mode that sends one frame at a time.

use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use leakguard_common::hardening::SOL_XDP;
use nix::errno::Errno;
use nix::libc;

use super::packet_socket::Mapping;
#[cfg(target_arch = "x86_64")]
use super::packet_socket::set_option_in_32_bits;
use super::{Origin, set_option};

/// Entries of each ring.
const ENTRIES: u32 = 4;
const FRAME: u32 = 4096;

/// A socket that sends frames past everything but the driver.
#[derive(Debug)]
pub struct XdpSocket {
    socket: OwnedFd,
    memory: Mapping,
    /// The ring of what is to be sent: its memory, and where the producer's index and the descriptors stand.
    ring: (Mapping, usize, usize),
    sent: u32,
}

impl XdpSocket {
    /// Makes one and binds it to the first queue of an interface; whatever the kernel refuses is the error.
    pub fn new(origin: Origin<'_>, interface: &str) -> nix::Result<Self> {
        Self::with(
            origin,
            interface,
            |fd, area| set_option(fd, SOL_XDP, libc::XDP_UMEM_REG, area),
            |fd, name| set_option(fd, SOL_XDP, name, &ENTRIES),
        )
    }

    /// The same by the system call of 32-bit programs.
    #[cfg(target_arch = "x86_64")]
    pub fn in_32_bits(origin: Origin<'_>, interface: &str) -> nix::Result<Self> {
        Self::with(
            origin,
            interface,
            |fd, area| set_option_in_32_bits(fd, SOL_XDP, libc::XDP_UMEM_REG, area),
            |fd, name| set_option_in_32_bits(fd, SOL_XDP, name, &ENTRIES),
        )
    }

    fn with(
        origin: Origin<'_>,
        interface: &str,
        set_area: impl Fn(BorrowedFd<'_>, &libc::xdp_umem_reg) -> nix::Result<()>,
        set_entries: impl Fn(BorrowedFd<'_>, c_int) -> nix::Result<()>,
    ) -> nix::Result<Self> {
        let index = origin
            .netns
            .run_in(|| nix::net::if_::if_nametoindex(interface).unwrap())
            .unwrap();
        let mut sockets = origin.sockets(libc::AF_XDP, libc::SOCK_RAW, 0, 1);
        let socket = sockets.pop().unwrap();
        let memory = Mapping::low(usize::try_from(FRAME * ENTRIES).unwrap());
        let fd = socket.as_fd();
        let area = libc::xdp_umem_reg {
            addr: memory.at(0) as u64,
            len: (FRAME * ENTRIES).into(),
            chunk_size: FRAME,
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        };
        set_area(fd, &area)?;
        for ring in [
            libc::XDP_UMEM_FILL_RING,
            libc::XDP_UMEM_COMPLETION_RING,
            libc::XDP_TX_RING,
        ] {
            set_entries(fd, ring)?;
        }
        let ring = transmit_ring(fd)?;
        bind(fd, index)?;
        Ok(Self {
            socket,
            memory,
            ring,
            sent: 0,
        })
    }

    /// Sends a frame.
    pub fn send(&mut self, frame: &[u8]) -> nix::Result<()> {
        let slot = self.sent % ENTRIES;
        let offset = slot * FRAME;
        self.memory.write(usize::try_from(offset).unwrap(), frame);
        let (ring, producer, descriptors) = &self.ring;
        // struct xdp_desc: address, length, options.
        let descriptor = descriptors + usize::try_from(slot).unwrap() * 16;
        ring.write(descriptor, &u64::from(offset).to_ne_bytes());
        let length = u32::try_from(frame.len()).unwrap();
        ring.write(descriptor + 8, &length.to_ne_bytes());
        self.sent += 1;
        ring.put(*producer, self.sent);
        // SAFETY: no buffer and no address.
        let kicked = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                ptr::null(),
                0,
                libc::MSG_DONTWAIT,
                ptr::null(),
                0,
            )
        };
        Errno::result(kicked).map(drop)
    }
}

impl AsFd for XdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn transmit_ring(socket: BorrowedFd<'_>) -> nix::Result<(Mapping, usize, usize)> {
    // SAFETY: a plain C structure, for which all zeroes are valid.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of_val(&offsets)).unwrap();
    // SAFETY: the pointers are to a live structure of the length given, which the kernel fills.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            SOL_XDP,
            libc::XDP_MMAP_OFFSETS,
            (&raw mut offsets).cast(),
            &raw mut length,
        )
    };
    Errno::result(result)?;
    let place = |offset: u64| usize::try_from(offset).unwrap();
    let descriptors = place(offsets.tx.desc);
    let whole = descriptors + 16 * usize::try_from(ENTRIES).unwrap();
    let ring = Mapping::new(socket, whole, libc::XDP_PGOFF_TX_RING);
    Ok((ring, place(offsets.tx.producer), descriptors))
}

fn bind(socket: BorrowedFd<'_>, interface: u32) -> nix::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: u16::try_from(libc::AF_XDP).unwrap(),
        sxdp_flags: libc::XDP_COPY,
        sxdp_ifindex: interface,
        sxdp_queue_id: 0,
        sxdp_shared_umem_fd: 0,
    };
    // SAFETY: the pointer is to a live address of the length given.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            libc::socklen_t::try_from(size_of_val(&address)).unwrap(),
        )
    };
    Errno::result(result).map(drop)
}
