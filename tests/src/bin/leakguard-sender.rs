//! Sends one DNS question in a chosen way, and says which process it was that sent it.
//!
//! `leakguard-sender WAY NAME TARGET`: makes ready, prints `ready`, and waits for a line; sends, prints the sender's
//! process number and name, and lives on until its standard input ends.

#![expect(
    clippy::exit,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "it is a test's hand: what fails in it has to fail the test, and what it prints is its result"
)]

use std::fs;
use std::io::{self, BufRead, Write};
use std::mem;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use etherparse::PacketBuilder;
use io_uring::{IoUring, opcode, squeue, types};
use leakguard::lab::{Topology, address};
use leakguard_tests::{connect, hand_over, take_over};
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, sendto, socket, socketpair,
};
use nix::unistd::{ForkResult, fork, getpid};

/// How long a TCP connection is tried for: until a few SYNs were sent again.
const PATIENCE: Duration = Duration::from_millis(3500);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [way, name, target] = &arguments[..] else {
        panic!("usage: leakguard-sender WAY NAME TARGET");
    };
    let target: SocketAddr = target.parse().unwrap();
    let message = question(name);
    rename(way);
    match way.as_str() {
        "sendto" => {
            let socket = udp(target);
            ready();
            attempt(socket.send_to(&message, target));
            sent();
        }
        "connected" => {
            let socket = connected(target);
            ready();
            attempt(socket.send(&message));
            sent();
        }
        "tcp" => {
            ready();
            attempt(TcpStream::connect_timeout(&target, PATIENCE));
            sent();
        }
        "tcp-data" => {
            let mut stream = TcpStream::connect(target).unwrap();
            ready();
            let length = u16::try_from(message.len()).unwrap().to_be_bytes();
            attempt(stream.write_all(&[&length[..], &message].concat()));
            sent();
            wait();
        }
        "fork-connected" => {
            let socket = connected(target);
            ready();
            in_child(|| attempt(socket.send(&message)));
        }
        "fork-sendto" => {
            let socket = udp(target);
            ready();
            in_child(|| attempt(socket.send_to(&message, target)));
        }
        "fork-tcp" => {
            let domain = AddressFamily::Inet;
            let socket = socket(domain, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
            ready();
            in_child(|| attempt(connect_for(&socket, target)));
        }
        "passed" => passed(&message, target),
        "thread" => {
            let socket = connected(target);
            ready();
            let sender = thread::Builder::new().name("worker".into());
            let sending = sender.spawn(move || attempt(socket.send(&message)));
            sending.unwrap().join().unwrap();
            sent();
        }
        "uring-inline" => uring(
            &message,
            target,
            &IoUring::builder(),
            squeue::Flags::empty(),
        ),
        "uring-async" => uring(&message, target, &IoUring::builder(), squeue::Flags::ASYNC),
        "uring-sqpoll" => {
            let mut builder = IoUring::builder();
            builder.setup_sqpoll(1000);
            uring(&message, target, &builder, squeue::Flags::empty());
        }
        "raw" => {
            let datagram = packet(&message, target);
            let socket = opened(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW);
            ready();
            let to = SockaddrStorage::from(SocketAddr::new(target.ip(), 0));
            attempt(sendto(
                socket.as_raw_fd(),
                &datagram,
                &to,
                MsgFlags::empty(),
            ));
            sent();
        }
        "packet" => {
            let mut frame = vec![0xff; 6];
            frame.extend([2, 0, 0, 0, 0, 1, 8, 0]);
            frame.extend(packet(&message, target));
            let socket = opened(libc::AF_PACKET, libc::SOCK_RAW, 0);
            ready();
            attempt(send_frame(&socket, &frame));
            sent();
        }
        other => panic!("no such way: {other}"),
    }
    wait();
}

fn question(name: &str) -> Vec<u8> {
    let mut message = vec![0x4c, 0x47, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend(label.bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

fn udp(target: SocketAddr) -> UdpSocket {
    UdpSocket::bind(if target.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    })
    .unwrap()
}

fn connected(target: SocketAddr) -> UdpSocket {
    let socket = udp(target);
    socket.connect(target).unwrap();
    socket
}

fn opened(domain: i32, kind: i32, protocol: i32) -> OwnedFd {
    // SAFETY: no memory is involved.
    let socket = unsafe { libc::socket(domain, kind, protocol) };
    assert!(socket >= 0, "{}", io::Error::last_os_error());
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(socket) }
}

fn packet(message: &[u8], target: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(target) = target else {
        panic!("raw packets here are of IPv4");
    };
    let builder = PacketBuilder::ipv4(address::HOST_V4.octets(), target.ip().octets(), 64);
    let mut packet = Vec::new();
    let builder = builder.udp(40_053, target.port());
    builder.write(&mut packet, message).unwrap();
    packet
}

fn send_frame(socket: &OwnedFd, frame: &[u8]) -> io::Result<()> {
    // SAFETY: a plain C structure, for which all zeroes are valid.
    let mut to: libc::sockaddr_ll = unsafe { mem::zeroed() };
    to.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
    to.sll_ifindex = i32::try_from(nix::net::if_::if_nametoindex(Topology::UPLINK)?).unwrap();
    let length = u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap();
    // SAFETY: both buffers live, and the lengths are theirs.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            length,
        )
    };
    Ok(nix::errno::Errno::result(sent).map(drop)?)
}

fn connect_for(socket: &OwnedFd, target: SocketAddr) -> io::Result<()> {
    let stream = TcpStream::from(socket.try_clone()?);
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(connect(&stream, target)?)
}

/// The child makes nothing and owns nothing: it is given the socket by a message.
fn passed(message: &[u8], target: SocketAddr) {
    let domain = AddressFamily::Unix;
    let (here, there) = socketpair(domain, SockType::SeqPacket, None, SockFlag::empty()).unwrap();
    // SAFETY: there is one thread.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            drop(here);
            rename("receiver");
            let socket = UdpSocket::from(take_over(there.as_fd()).unwrap());
            attempt(socket.send(message));
            sent();
            wait();
            std::process::exit(0);
        }
        ForkResult::Parent { .. } => {
            let socket = connected(target);
            ready();
            hand_over(here.as_fd(), socket.as_fd()).unwrap();
        }
    }
}

fn uring(
    message: &[u8],
    target: SocketAddr,
    builder: &io_uring::Builder<squeue::Entry, io_uring::cqueue::Entry>,
    flags: squeue::Flags,
) {
    let mut ring: IoUring = builder.build(4).unwrap();
    let socket = connected(target);
    ready();
    let length = u32::try_from(message.len()).unwrap();
    let send = opcode::Send::new(types::Fd(socket.as_raw_fd()), message.as_ptr(), length)
        .build()
        .flags(flags);
    // SAFETY: the socket and the message live until it is complete.
    unsafe { ring.submission().push(&send) }.unwrap();
    ring.submit_and_wait(1).unwrap();
    assert!(ring.completion().next().is_some());
    sent();
}

/// Sends in a child, which is the one that is named.
fn in_child<T>(send: impl FnOnce() -> T) {
    // SAFETY: there is one thread.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            rename("child");
            drop(send());
            sent();
            wait();
            std::process::exit(0);
        }
        ForkResult::Parent { .. } => {}
    }
}

/// What becomes of it is seen elsewhere: it may be refused, or sent and dropped.
fn attempt<T, E>(result: Result<T, E>) {
    drop(result);
}

/// Gives the process a name of its own, as its main thread has it.
fn rename(name: &str) {
    fs::write("/proc/self/comm", format!("lg-{name}")).unwrap();
}

fn ready() {
    println!("ready");
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).unwrap();
}

fn sent() {
    let comm = fs::read_to_string("/proc/self/comm").unwrap();
    println!("{} {}", getpid(), comm.trim_end());
    io::stdout().flush().unwrap();
}

fn wait() {
    // Until nobody holds the other end.
    let mut rest = String::new();
    while io::stdin()
        .lock()
        .read_line(&mut rest)
        .is_ok_and(|length| length > 0)
    {}
}
