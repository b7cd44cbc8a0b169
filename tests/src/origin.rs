//! Sockets that belong to another cgroup and network namespace than the test's.

use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::time::Duration;

use leakguard::lab::{Cgroup, Netns, output_within};
use nix::errno::Errno;
use nix::libc::{self, c_int};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, socketpair};

/// How long the process that makes sockets may live.
const LIMIT: Duration = Duration::from_secs(10);
/// The most sockets at once: they wait in a queue until their maker has ended.
const MOST: usize = 100;

/// Where sockets are made. A socket stays with the cgroup and the namespace of the process that made it, whoever uses
/// it afterwards; so a test can send as a process of the device under test, with all of the standard library.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'lab> {
    /// The namespace.
    pub netns: &'lab Netns,
    /// The cgroup, if it is not to be the test's own.
    pub cgroup: Option<&'lab Cgroup>,
}

impl Origin<'_> {
    /// Makes `count` sockets.
    pub fn sockets(
        &self,
        domain: c_int,
        kind: c_int,
        protocol: c_int,
        count: usize,
    ) -> Vec<OwnedFd> {
        assert!(count <= MOST, "{count} sockets at once");
        let (here, there) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .unwrap();
        let mut maker = self.netns.command("true");
        if let Some(cgroup) = self.cgroup {
            cgroup.attach(&mut maker);
        }
        // SAFETY: the closure makes system calls only and neither allocates nor locks. It runs after those that enter
        // the namespace and the cgroup.
        unsafe {
            maker.pre_exec(move || {
                for _ in 0..count {
                    let socket = make(domain, kind, protocol)?;
                    hand_over(there.as_fd(), socket.as_fd())?;
                }
                Ok(())
            });
        }
        let output = output_within(maker, LIMIT).unwrap();
        assert!(output.status.success(), "{output:?}");
        (0..count)
            .map(|_| take_over(here.as_fd()).unwrap())
            .collect()
    }

    /// An unbound UDP socket of the family of `peer`.
    pub fn udp(&self, peer: IpAddr) -> UdpSocket {
        let mut sockets = self.sockets(domain(peer), libc::SOCK_DGRAM, 0, 1);
        UdpSocket::from(sockets.pop().unwrap())
    }

    /// Unconnected, blocking TCP sockets of the family of `peer`.
    pub fn tcp(&self, peer: IpAddr, count: usize) -> Vec<TcpStream> {
        let sockets = self.sockets(domain(peer), libc::SOCK_STREAM, 0, count);
        sockets.into_iter().map(TcpStream::from).collect()
    }
}

/// Connects a socket, which the standard library only does while making one.
pub fn connect(socket: &impl AsRawFd, target: SocketAddr) -> nix::Result<()> {
    loop {
        // Work that an io_uring of this process completes interrupts it; once more, it waits for the same connection.
        match nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(target)) {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

fn domain(peer: IpAddr) -> c_int {
    match peer {
        IpAddr::V4(_) => libc::AF_INET,
        IpAddr::V6(_) => libc::AF_INET6,
    }
}

fn make(domain: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: three integers.
    let fd = unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// One byte of data and one descriptor: what `sendmsg` and `recvmsg` need, without allocation.
struct Parcel {
    byte: u8,
    /// Room for a control message with one descriptor, aligned as its header must be.
    control: [u64; 3],
}

impl Parcel {
    fn empty() -> Self {
        Self {
            byte: 0,
            control: [0; 3],
        }
    }

    /// Calls `use_header` with a message header that points into the parcel.
    fn with_header<T>(&mut self, use_header: impl FnOnce(&mut libc::msghdr) -> T) -> T {
        let mut vector = libc::iovec {
            iov_base: (&raw mut self.byte).cast(),
            iov_len: 1,
        };
        // SAFETY: a plain C structure, for which all zeroes are valid.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_iov = &raw mut vector;
        header.msg_iovlen = 1;
        header.msg_control = self.control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&self.control);
        use_header(&mut header)
    }
}

/// Passes a socket on to whoever has the other end of a pair of sockets.
pub fn hand_over(to: BorrowedFd<'_>, socket: BorrowedFd<'_>) -> io::Result<()> {
    let sent = Parcel::empty().with_header(|header| {
        // SAFETY: the header describes live buffers, with room for a control message of one descriptor.
        unsafe {
            let control = libc::CMSG_FIRSTHDR(header);
            (*control).cmsg_level = libc::SOL_SOCKET;
            (*control).cmsg_type = libc::SCM_RIGHTS;
            (*control).cmsg_len = libc::CMSG_LEN(FD_BYTES) as usize;
            libc::CMSG_DATA(control)
                .cast::<RawFd>()
                .write_unaligned(socket.as_raw_fd());
            libc::sendmsg(to.as_raw_fd(), header, 0)
        }
    });
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Takes a socket that was passed on.
pub fn take_over(from: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Parcel::empty().with_header(|header| {
        // SAFETY: the header describes live buffers.
        let received = unsafe { libc::recvmsg(from.as_raw_fd(), header, libc::MSG_CMSG_CLOEXEC) };
        if received < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has filled the header; a null pointer says that there is no control message.
        unsafe {
            let control = libc::CMSG_FIRSTHDR(header);
            if control.is_null() || (*control).cmsg_type != libc::SCM_RIGHTS {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let fd = libc::CMSG_DATA(control).cast::<RawFd>().read_unaligned();
            Ok(OwnedFd::from_raw_fd(fd))
        }
    })
}

/// The payload of a control message with one descriptor.
#[expect(clippy::cast_possible_truncation, reason = "four bytes")]
const FD_BYTES: u32 = size_of::<RawFd>() as u32;
