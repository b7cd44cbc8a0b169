use std::collections::VecDeque;
use std::ffi::c_int;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, recv, setsockopt, socket, sockopt,
};
use nix::unistd::Pid;

use super::process::patient;
use super::{Frame, LabError, Netns, address};

/// Room for tens of thousands of packets between two looks.
const RECEIVE_BUFFER: usize = 32 << 20;
/// More than a packet of maximal length that was merged before it reached the socket.
const FRAME_MAX: usize = 1 << 18;
/// An unassigned port that no policy has a reason to block.
const FENCE_PORT: u16 = 4;
/// How long a marker may take to the ISP.
const FENCE_LIMIT: Duration = Duration::from_secs(5);

/// Which packets of an interface an [`Observer`] sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Directions {
    /// Those that arrive from the other end of the link.
    Incoming,
    /// Those that arrive and those that are sent.
    Both,
}

/// A capture of everything on one interface, as tcpdump would make it.
///
/// It is listening when constructed. Packets wait in the socket until they are asked for; those
/// that the kernel had no room for are counted in [`lost`](Self::lost), which a test must find to
/// be 0 before it believes in silence.
#[derive(Debug)]
pub struct Observer {
    socket: OwnedFd,
    buffer: Box<[u8]>,
    lost: u64,
}

impl Observer {
    /// Starts capturing on `interface` of `netns`.
    pub fn new(netns: &Netns, interface: &str, directions: Directions) -> Result<Self, LabError> {
        let socket = netns.run_in(|| open(interface, directions))??;
        Ok(Self {
            socket,
            buffer: vec![0; FRAME_MAX].into_boxed_slice(),
            lost: 0,
        })
    }

    /// The frames since the last call, oldest first, without waiting.
    pub fn drain(&mut self) -> Result<Vec<Vec<u8>>, LabError> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next_frame()? {
            frames.push(frame);
        }
        Ok(frames)
    }

    /// Waits for a frame that `predicate` accepts; returns every frame up to and including it.
    ///
    /// An error if none comes within `limit`; what was seen meanwhile is gone then.
    pub fn wait_for(
        &mut self,
        limit: Duration,
        mut predicate: impl FnMut(&[u8]) -> bool,
    ) -> Result<Vec<Vec<u8>>, LabError> {
        let limit = patient(limit);
        let deadline = Instant::now() + limit;
        let mut frames = VecDeque::new();
        loop {
            while let Some(frame) = self.next_frame()? {
                let found = predicate(&frame);
                frames.push_back(frame);
                if found {
                    return Ok(frames.into());
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(LabError::Timeout {
                    what: format!("the awaited packet arrives ({} others did)", frames.len()),
                    limit,
                });
            }
            let mut readable = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut readable, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(source) => return Err(LabError::syscall("poll", "packet socket")(source)),
            }
        }
    }

    /// The frames since the last call that `sender` sent before this call, wherever they still were
    /// on their way.
    ///
    /// It sends a marker from every processor, because a virtual link keeps order only per
    /// processor, and waits for them all; the markers themselves are left out. Their arrival also
    /// shows that the capture works and that `sender` still reaches the ISP: without it, silence
    /// would prove nothing.
    pub fn drain_past_fence(&mut self, sender: &Netns) -> Result<Vec<Vec<u8>>, LabError> {
        let mut fence = Fence::send(sender)?;
        let mut frames = self.wait_for(FENCE_LIMIT, |frame| {
            fence.takes(frame);
            fence.is_passed()
        })?;
        frames.retain(|frame| !fence.is_marker(frame));
        Ok(frames)
    }

    /// How many packets the kernel has dropped so far because the socket was full.
    pub fn lost(&mut self) -> Result<u64, LabError> {
        self.lost += dropped_since(&self.socket)?;
        Ok(self.lost)
    }

    fn next_frame(&mut self) -> Result<Option<Vec<u8>>, LabError> {
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(length) => return Ok(Some(self.buffer[..length].to_vec())),
                Err(Errno::EAGAIN) => return Ok(None),
                // The link went down or came back: not the end of the capture.
                Err(Errno::EINTR | Errno::ENETDOWN) => {}
                Err(source) => return Err(LabError::syscall("recv", "packet socket")(source)),
            }
        }
    }
}

/// Markers that travel behind everything their sender has sent before, one from every processor.
#[derive(Debug)]
pub struct Fence {
    marker: String,
    missing: usize,
}

impl Fence {
    /// Sends the markers to the ISP's resolver.
    pub fn send(sender: &Netns) -> Result<Self, LabError> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let marker = format!(
            "leakguard fence {} {}",
            process::id(),
            SERIAL.fetch_add(1, Ordering::Relaxed)
        );
        let missing = sender
            .run_in(|| send_from_every_processor(marker.as_bytes()))?
            .map_err(LabError::io("send a fence"))?;
        Ok(Self { marker, missing })
    }

    /// Counts a frame that has arrived, if it is a marker.
    pub fn takes(&mut self, frame: &[u8]) {
        self.missing -= usize::from(self.is_marker(frame));
    }

    /// Whether all markers have arrived.
    pub fn is_passed(&self) -> bool {
        self.missing == 0
    }

    fn is_marker(&self, frame: &[u8]) -> bool {
        // The ISP's ICMP errors quote the markers, but are not UDP.
        Frame::parse(frame)
            .is_some_and(|parsed| parsed.is_udp() && parsed.destination.port() == FENCE_PORT)
            && frame.ends_with(self.marker.as_bytes())
    }
}

/// Sends one datagram from each processor this thread may use; returns how many.
///
/// It leaves the calling thread bound to the last one.
fn send_from_every_processor(payload: &[u8]) -> io::Result<usize> {
    let this_thread = Pid::from_raw(0);
    let allowed = sched_getaffinity(this_thread)?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mut sent = 0;
    for processor in 0..CpuSet::count() {
        if allowed.is_set(processor)? {
            let mut one = CpuSet::new();
            one.set(processor)?;
            sched_setaffinity(this_thread, &one)?;
            socket.send_to(payload, (address::ISP_RESOLVER_V4, FENCE_PORT))?;
            sent += 1;
        }
    }
    Ok(sent)
}

fn open(interface: &str, directions: Directions) -> Result<OwnedFd, LabError> {
    let index = nix::net::if_::if_nametoindex(interface)
        .map_err(LabError::syscall("if_nametoindex", interface))?;
    let socket = unbound(SockType::Raw)?;
    if directions == Directions::Incoming {
        ignore_outgoing(&socket)?;
    }
    bind(&socket, index)?;
    Ok(socket)
}

/// A capture of one interface of the calling thread's namespace, in both directions; what it hands out begins with the
/// network header, whatever the device.
pub(crate) fn cooked(index: u32) -> Result<OwnedFd, LabError> {
    let socket = unbound(SockType::Datagram)?;
    bind(&socket, index)?;
    Ok(socket)
}

/// How many packets a capture has had no room for since this was last asked.
pub(crate) fn dropped_since(socket: &OwnedFd) -> Result<u64, LabError> {
    let mut statistics = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut length = socket_length::<libc::tpacket_stats>();
    // SAFETY: the pointers are to a live structure of the length given, which the kernel fills.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    Errno::result(result).map_err(LabError::syscall("getsockopt", "PACKET_STATISTICS"))?;
    // Reading sets the kernel's counters to zero.
    Ok(u64::from(statistics.tp_drops))
}

/// A packet socket that captures nothing until it is bound, hence nothing of another interface.
fn unbound(kind: SockType) -> Result<OwnedFd, LabError> {
    let socket = socket(
        AddressFamily::Packet,
        kind,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )
    .map_err(LabError::syscall("socket", "AF_PACKET"))?;
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
        .map_err(LabError::syscall("setsockopt", "SO_RCVBUFFORCE"))?;
    Ok(socket)
}

fn ignore_outgoing(socket: &OwnedFd) -> Result<(), LabError> {
    let enable: c_int = 1;
    // SAFETY: the pointer is to a live integer of the length given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            (&raw const enable).cast(),
            socket_length::<c_int>(),
        )
    };
    Errno::result(result)
        .map(drop)
        .map_err(LabError::syscall("setsockopt", "PACKET_IGNORE_OUTGOING"))
}

fn bind(socket: &OwnedFd, index: u32) -> Result<(), LabError> {
    let invalid = |_| LabError::Io {
        action: "bind a packet socket".to_owned(),
        source: io::ErrorKind::InvalidInput.into(),
    };
    let address = libc::sockaddr_ll {
        sll_family: libc::sa_family_t::try_from(libc::AF_PACKET).map_err(invalid)?,
        sll_protocol: u16::try_from(libc::ETH_P_ALL).map_err(invalid)?.to_be(),
        sll_ifindex: c_int::try_from(index).map_err(invalid)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the pointer is to a live sockaddr_ll of the length given.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            socket_length::<libc::sockaddr_ll>(),
        )
    };
    Errno::result(result)
        .map(drop)
        .map_err(LabError::syscall("bind", "AF_PACKET"))
}

/// The size of an option or address, in the type that socket calls want.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the structures are a few bytes long"
)]
const fn socket_length<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}
