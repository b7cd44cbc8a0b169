//! Every other way in which a local program can put a datagram on an uplink, and what an old connection still says.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;
use std::time::Duration;

use io_uring::{IoUring, opcode, types};
use leakguard::lab::{Frame, Topology, output_within, wait_until};
use leakguard_tests::{Bench, Origin, Place, connect, isp, packets, set_option};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg, setsockopt, sockopt};

/// How long anything that has to happen may take.
const LIMIT: Duration = Duration::from_secs(20);

/// A way to send one datagram over the uplink of this number.
struct Way {
    name: &'static str,
    send: fn(&UdpSocket, u32, SocketAddr, &[u8]) -> io::Result<()>,
}

const WAYS: [Way; 9] = [
    Way {
        name: "SO_BINDTODEVICE",
        send: |socket, _, target, payload| {
            setsockopt(socket, sockopt::BindToDevice, &Topology::UPLINK.into())?;
            socket.send_to(payload, target).map(drop)
        },
    },
    Way {
        name: "IP_PKTINFO",
        send: with_packet_info,
    },
    Way {
        name: "IP_UNICAST_IF",
        send: |socket, index, target, payload| {
            let (level, name) = match target {
                SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_UNICAST_IF),
                SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_IF),
            };
            set_option(socket.as_fd(), level, name, &index.to_be())?;
            socket.send_to(payload, target).map(drop)
        },
    },
    Way {
        name: "SO_MARK",
        send: |socket, _, target, payload| {
            setsockopt(socket, sockopt::Mark, &0xca6c)?;
            socket.send_to(payload, target).map(drop)
        },
    },
    Way {
        name: "MSG_ZEROCOPY",
        send: |socket, _, target, payload| {
            set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_ZEROCOPY, &1)?;
            connect(socket, target)?;
            // SAFETY: a live buffer, which outlasts the socket's use of it: the frame is copied into a veth's peer.
            let sent = unsafe {
                libc::send(
                    socket.as_raw_fd(),
                    payload.as_ptr().cast(),
                    payload.len(),
                    libc::MSG_ZEROCOPY,
                )
            };
            Ok(Errno::result(sent).map(drop)?)
        },
    },
    Way {
        name: "MSG_MORE",
        send: |socket, _, target, payload| {
            let target = SockaddrStorage::from(target);
            let (first, rest) = payload.split_at(payload.len() / 2);
            let send = |part: &[u8], flags| {
                let part = [IoSlice::new(part)];
                sendmsg(socket.as_raw_fd(), &part, &[], flags, Some(&target))
            };
            // Nothing leaves before the second part.
            send(first, MsgFlags::from_bits_retain(libc::MSG_MORE))?;
            send(rest, MsgFlags::empty())?;
            Ok(())
        },
    },
    Way {
        name: "io_uring",
        send: |socket, _, target, payload| {
            connect(socket, target)?;
            let mut ring = IoUring::new(2)?;
            let length = u32::try_from(payload.len()).unwrap();
            let send = opcode::Send::new(types::Fd(socket.as_raw_fd()), payload.as_ptr(), length);
            // SAFETY: buffer and socket live until the completion has been waited for.
            unsafe { ring.submission().push(&send.build()) }.unwrap();
            ring.submit_and_wait(1)?;
            let result = ring.completion().next().unwrap().result();
            Ok(Errno::result(if result < 0 {
                Errno::set_raw(-result);
                -1
            } else {
                result
            })
            .map(drop)?)
        },
    },
    Way {
        name: "splice",
        send: |socket, _, target, payload| {
            connect(socket, target)?;
            let (outlet, inlet) = nix::unistd::pipe()?;
            File::from(inlet).write_all(payload)?;
            // SAFETY: two open descriptors, no offsets.
            let spliced = unsafe {
                libc::splice(
                    outlet.as_raw_fd(),
                    ptr::null_mut(),
                    socket.as_raw_fd(),
                    ptr::null_mut(),
                    payload.len(),
                    0,
                )
            };
            Ok(Errno::result(spliced).map(drop)?)
        },
    },
    Way {
        name: "sendfile",
        send: |socket, _, target, payload| {
            connect(socket, target)?;
            let mut file = tempfile::tempfile()?;
            file.write_all(payload)?;
            let mut start = 0;
            // SAFETY: two open descriptors and a live offset.
            let sent = unsafe {
                libc::sendfile(
                    socket.as_raw_fd(),
                    file.as_raw_fd(),
                    &raw mut start,
                    payload.len(),
                )
            };
            Ok(Errno::result(sent).map(drop)?)
        },
    },
];

/// Names the interface in each message.
fn with_packet_info(
    socket: &UdpSocket,
    index: u32,
    target: SocketAddr,
    payload: &[u8],
) -> io::Result<()> {
    let index = index.cast_signed();
    let four = libc::in_pktinfo {
        ipi_ifindex: index,
        ipi_spec_dst: libc::in_addr { s_addr: 0 },
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    let six = libc::in6_pktinfo {
        ipi6_addr: libc::in6_addr { s6_addr: [0; 16] },
        ipi6_ifindex: index.unsigned_abs(),
    };
    let information = match target {
        SocketAddr::V4(_) => ControlMessage::Ipv4PacketInfo(&four),
        SocketAddr::V6(_) => ControlMessage::Ipv6PacketInfo(&six),
    };
    sendmsg(
        socket.as_raw_fd(),
        &[IoSlice::new(payload)],
        &[information],
        MsgFlags::empty(),
        Some(&SockaddrStorage::from(target)),
    )?;
    Ok(())
}

/// The number of the uplink.
fn uplink(bench: &Bench) -> u32 {
    bench
        .topology
        .host()
        .run_in(|| nix::net::if_::if_nametoindex(Topology::UPLINK).unwrap())
        .unwrap()
}

/// How many frames that have left end in this.
fn seen(bench: &mut Bench, payload: &str) -> usize {
    let frames = bench.frames(Place::Host);
    let ends = |frame: &&Vec<u8>| frame.ends_with(payload.as_bytes());
    frames.iter().filter(ends).count()
}

#[test]
fn no_way_of_sending_gets_past() {
    let mut bench = Bench::new();
    let uplink = uplink(&bench);
    let mut refused = 0;
    for protected in [false, true] {
        if protected {
            bench.protect(&[]);
        }
        for Way { name, send } in WAYS {
            for target in [
                isp(0, 53),
                isp(1, 53),
                isp(0, 853),
                isp(0, 443),
                isp(1, 443),
            ] {
                let payload = format!("{name} to {target}, protected: {protected}");
                let socket = bench.origin(Place::Host).udp(target.ip());
                let result = send(&socket, uplink, target, payload.as_bytes());
                let passes = !protected || target.port() == 443;
                assert_eq!(seen(&mut bench, &payload), usize::from(passes), "{payload}");
                match result {
                    Ok(()) => assert!(passes, "{payload}: no error"),
                    Err(error) => {
                        assert!(!passes, "{payload}: {error}");
                        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{payload}");
                        refused += 1;
                    }
                }
            }
        }
    }
    let status = bench.agent().status_json().unwrap();
    let counted = packets(&status, &[("hook", "cgroup_skb"), ("verdict", "drop")]);
    assert_eq!(counted, refused, "{status}");
    assert_eq!(refused, 3 * u64::try_from(WAYS.len()).unwrap());
}

#[test]
fn multicast_over_a_chosen_interface_does_not_get_past() {
    let mut bench = Bench::new();
    let uplink = uplink(&bench);
    let groups: [SocketAddr; 4] = [
        (Ipv4Addr::new(224, 0, 0, 251), 5353).into(),
        (Ipv4Addr::new(224, 0, 0, 252), 5355).into(),
        (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb), 5353).into(),
        (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 3), 5355).into(),
    ];
    let send = |origin: Origin<'_>, group: SocketAddr, payload: &str| -> io::Result<()> {
        let socket = origin.udp(group.ip());
        match group {
            SocketAddr::V4(_) => {
                let interface = libc::ip_mreqn {
                    imr_multiaddr: libc::in_addr { s_addr: 0 },
                    imr_address: libc::in_addr { s_addr: 0 },
                    imr_ifindex: uplink.cast_signed(),
                };
                let fd = socket.as_fd();
                set_option(fd, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, &interface)?;
            }
            SocketAddr::V6(_) => {
                let fd = socket.as_fd();
                set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, &uplink)?;
            }
        }
        socket.send_to(payload.as_bytes(), group).map(drop)
    };
    for protected in [false, true] {
        if protected {
            bench.protect(&[]);
        }
        for group in groups {
            let payload = format!("to {group}, protected: {protected}");
            let result = send(bench.origin(Place::Host), group, &payload);
            assert_eq!(
                seen(&mut bench, &payload),
                usize::from(!protected),
                "{payload}"
            );
            assert_eq!(result.is_err(), protected, "{payload}: {result:?}");
            let ordinary = SocketAddr::new(group.ip(), 5354);
            let payload = format!("to {ordinary}, protected: {protected}");
            send(bench.origin(Place::Host), ordinary, &payload).unwrap();
            assert_eq!(seen(&mut bench, &payload), 1, "{payload}");
        }
    }
}

/// How often a connection has sent its oldest unanswered segment again.
fn retransmissions(stream: &impl AsRawFd) -> u8 {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).unwrap();
    // SAFETY: the pointers are to a live structure of the length given, for which all zeroes are valid.
    let info = unsafe {
        let result = libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        );
        Errno::result(result).unwrap();
        info.assume_init()
    };
    info.tcpi_retransmits
}

/// Whether a frame is TCP to port 53.
fn is_to_dns(frame: &[u8]) -> bool {
    Frame::parse(frame).is_some_and(|frame| frame.is_tcp() && frame.destination.port() == 53)
}

#[test]
fn an_established_connection_sends_nothing_more_and_nothing_again() {
    /// The longest time between two attempts in milliseconds (`include/uapi/linux/tcp.h`, 6.15).
    const TCP_RTO_MAX_MS: libc::c_int = 44;
    // Nobody answers, so that what is sent is sent again.
    const MUTE: &str = "add table inet mute; \
                        add chain inet mute out { type filter hook output priority 0; }; \
                        add rule inet mute out tcp sport 53 tcp flags & syn == 0 drop";

    let mut bench = Bench::new();
    let isp_does = |bench: &Bench, text: &str| {
        let mut nft = bench.topology.isp().command("nft");
        nft.arg(text);
        assert!(output_within(nft, LIMIT).unwrap().status.success());
    };
    for family in 0..2 {
        let target = isp(family, 53);
        let listener = bench.listen(target);
        let streams = bench.origin(Place::Host).tcp(target.ip(), 2);
        for stream in &streams {
            set_option(stream.as_fd(), libc::IPPROTO_TCP, TCP_RTO_MAX_MS, &1000).unwrap();
            connect(stream, target).unwrap();
        }
        let _accepted = [listener.accept().unwrap(), listener.accept().unwrap()];
        let [mut kept, closed] = <[_; 2]>::try_from(streams).unwrap();
        isp_does(&bench, MUTE);
        let payload = format!("from before, to {target}");
        kept.write_all(payload.as_bytes()).unwrap();
        let said = |frame: &[u8]| is_to_dns(frame) && frame.ends_with(payload.as_bytes());
        for _ in 0..2 {
            bench.observer.wait_for(LIMIT, said).unwrap();
        }

        bench.protect(&[]);
        bench.frames(Place::Host);
        let before = retransmissions(&kept);
        // Closing says farewell.
        drop(closed);
        wait_until("it is sent again and again", LIMIT, || {
            Ok(retransmissions(&kept) >= before + 3)
        })
        .unwrap();
        let frames = bench.frames(Place::Host);
        let to_dns = frames.iter().filter(|frame| is_to_dns(frame)).count();
        assert_eq!(to_dns, 0, "{target}");
        // It was tried: once nothing is enforced, it gets out again.
        bench.unprotect();
        bench.observer.wait_for(LIMIT, said).unwrap();
        isp_does(&bench, "delete table inet mute");
    }
}
