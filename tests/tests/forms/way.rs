//! The ways to send by an ordinary socket, where the kernel gives the packet its form.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};

use leakguard_tests::{Mark, Origin, payload_mark};
use nix::libc::{self, c_int};
use nix::sys::socket::{SockaddrStorage, bind};

use crate::call;
use crate::probe::{Flow, Upper};

/// Where ordinary sockets are, and what they reach.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'lab> {
    pub(crate) name: &'static str,
    pub(crate) origin: Origin<'lab>,
    /// The interface that they send by.
    pub(crate) interface: &'lab str,
    /// By family.
    pub(crate) targets: [IpAddr; 2],
    /// Whether the host under test is this place itself; from elsewhere, its own ways to send are all the same.
    pub(crate) is_local: bool,
}

/// A way to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// The form that the packet has.
    pub(crate) form: &'static str,
    pub(crate) name: &'static str,
    upper: Upper,
    socket: Socket,
    /// Whether the packet looks the same as another way's once it has left its host.
    only_local: bool,
    prepare: fn(&OwnedFd, &Aim) -> io::Result<()>,
    fire: Fire,
}

#[derive(Clone, Copy, Debug)]
enum Socket {
    /// Of the family of the target.
    Own(c_int, c_int),
    /// One of IPv6, for targets of IPv4.
    Mapped,
}

/// How probes are sent.
#[derive(Clone, Copy, Debug)]
enum Fire {
    /// One by one, each a datagram with this payload.
    Each(fn(&OwnedFd, &Aim, &[u8]) -> io::Result<()>),
    /// So many at once.
    AtOnce(fn(&OwnedFd, &Aim, &[Vec<u8>]) -> io::Result<()>),
    /// Each a connection of a socket of its own, which is bound.
    Connection(fn(&OwnedFd, &Aim) -> io::Result<()>),
}

/// What is aimed at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Aim {
    pub(crate) target: SocketAddr,
    /// The interface that the sockets send by.
    pub(crate) interface: u32,
}

/// A probe that was sent.
#[derive(Debug)]
pub(crate) struct Fired {
    pub(crate) marks: Vec<Mark>,
    pub(crate) result: io::Result<()>,
}

const DATAGRAM: Socket = Socket::Own(libc::SOCK_DGRAM, 0);
const STREAM: Socket = Socket::Own(libc::SOCK_STREAM, 0);
/// A payload that takes three fragments.
const LARGE: usize = 4000;
const SMALL: usize = 32;

const fn way(form: &'static str, name: &'static str, fire: Fire) -> Way {
    Way {
        form,
        name,
        upper: Upper::Udp,
        socket: DATAGRAM,
        only_local: true,
        prepare: |_, _| Ok(()),
        fire,
    }
}

/// Every way.
pub(crate) const WAYS: [Way; 23] = [
    Way {
        only_local: false,
        ..way("plain", "sendto", Fire::Each(call::sendto))
    },
    way("plain", "connect, send", Fire::Each(call::send_connected)),
    way("plain", "sendmmsg", Fire::AtOnce(call::sendmmsg)),
    way("plain", "io_uring", Fire::AtOnce(call::io_uring)),
    Way {
        prepare: call::bind_to_device,
        ..way("plain", "SO_BINDTODEVICE", Fire::Each(call::sendto))
    },
    way("plain", "IP_PKTINFO", Fire::Each(call::with_packet_info)),
    Way {
        prepare: call::unicast_interface,
        ..way("plain", "IP_UNICAST_IF", Fire::Each(call::sendto))
    },
    Way {
        socket: Socket::Mapped,
        ..way("plain", "v4-mapped sendto", Fire::Each(call::sendto))
    },
    Way {
        socket: Socket::Mapped,
        ..way(
            "plain",
            "v4-mapped connect",
            Fire::Each(call::send_connected),
        )
    },
    way("plain", "multicast", Fire::Each(call::to_group)),
    way("plain", "MSG_MORE", Fire::Each(call::in_two_parts)),
    way("pages of a pipe", "splice", Fire::Each(call::splice)),
    way("pages of a file", "sendfile", Fire::Each(call::sendfile)),
    Way {
        only_local: false,
        prepare: call::allow_zero_copy,
        ..way("zero-copy", "MSG_ZEROCOPY", Fire::Each(call::zero_copy))
    },
    Way {
        only_local: false,
        ..way("GSO", "UDP_SEGMENT", Fire::AtOnce(call::segments))
    },
    Way {
        only_local: false,
        ..way(
            "fragmented by the stack",
            "sendto",
            Fire::Each(call::sendto),
        )
    },
    Way {
        only_local: false,
        prepare: call::set_options,
        ..way("options of the socket", "sendto", Fire::Each(call::sendto))
    },
    Way {
        only_local: false,
        prepare: call::set_options,
        ..way(
            "options, fragmented by the stack",
            "sendto",
            Fire::Each(call::sendto),
        )
    },
    Way {
        only_local: false,
        upper: Upper::UdpLite,
        socket: Socket::Own(libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE),
        ..way("plain", "sendto", Fire::Each(call::sendto))
    },
    Way {
        socket: Socket::Own(libc::SOCK_RAW, libc::IPPROTO_UDP),
        ..way(
            "plain",
            "raw socket, own UDP header",
            Fire::Each(call::raw_udp),
        )
    },
    Way {
        socket: Socket::Own(libc::SOCK_RAW, libc::IPPROTO_UDP),
        ..way(
            "fragmented by the stack",
            "raw socket, own UDP header",
            Fire::Each(call::raw_udp),
        )
    },
    Way {
        only_local: false,
        upper: Upper::Tcp,
        socket: STREAM,
        ..way("plain", "connect", Fire::Connection(call::start_connecting))
    },
    Way {
        upper: Upper::Tcp,
        socket: STREAM,
        ..way("plain", "MSG_FASTOPEN", Fire::Connection(call::fast_open))
    },
];

impl Way {
    /// Whether it can send this, from such a place, over a family.
    pub(crate) fn takes(&self, flow: &Flow, is_local: bool, family: usize) -> bool {
        let possible = match (self.name, self.socket) {
            ("multicast", _) => call::group(family, flow.port).is_some(),
            (_, Socket::Mapped) => family == 0,
            _ => true,
        };
        possible && flow.upper == self.upper && (is_local || !self.only_local)
    }

    /// How large its datagrams are.
    fn size(&self) -> usize {
        if self.form.ends_with("fragmented by the stack") {
            LARGE
        } else {
            SMALL
        }
    }

    /// Makes the sockets for so many probes over a family.
    pub(crate) fn arm(&self, place: &Place<'_>, family: usize, probes: usize) -> Vec<OwnedFd> {
        let (domain, kind, protocol) = match self.socket {
            Socket::Own(kind, protocol) => {
                let domains = [libc::AF_INET, libc::AF_INET6];
                (domains[family], kind, protocol)
            }
            Socket::Mapped => (libc::AF_INET6, libc::SOCK_DGRAM, 0),
        };
        let count = match self.fire {
            Fire::Connection(_) => probes,
            Fire::Each(_) | Fire::AtOnce(_) => 1,
        };
        let sockets = place.origin.sockets(domain, kind, protocol, count);
        let aim = place.aim(family, 0);
        for socket in &sockets {
            (self.prepare)(socket, &aim).unwrap();
        }
        sockets
    }

    /// Sends probes by sockets that [`arm`](Self::arm) has made; those of connections are used up.
    pub(crate) fn fire(&self, sockets: &mut Vec<OwnedFd>, aim: &Aim, probes: usize) -> Vec<Fired> {
        let aim = match self.socket {
            Socket::Mapped => aim.mapped(),
            Socket::Own(..) => *aim,
        };
        let each = |send: fn(&OwnedFd, &Aim, &[u8]) -> io::Result<()>| {
            let one = || {
                let (marks, payload) = self.payload();
                let result = send(&sockets[0], &aim, &payload);
                Fired { marks, result }
            };
            (0..probes).map(|_| one()).collect()
        };
        match self.fire {
            Fire::Each(send) => each(send),
            Fire::AtOnce(send) => {
                let (marks, payloads): (Vec<_>, Vec<_>) =
                    (0..probes).map(|_| self.payload()).unzip();
                let mut result = send(&sockets[0], &aim, &payloads);
                let fired = |marks| Fired {
                    marks,
                    result: std::mem::replace(&mut result, Ok(())),
                };
                marks.into_iter().map(fired).collect()
            }
            Fire::Connection(send) => {
                let used = sockets.split_off(sockets.len() - probes);
                let one = |socket: &OwnedFd| {
                    let mark = bind_somewhere(socket, &aim);
                    let result = send(socket, &aim);
                    Fired {
                        marks: vec![mark],
                        result,
                    }
                };
                used.iter().map(one).collect()
            }
        }
    }

    /// A payload that begins and ends with a mark.
    fn payload(&self) -> (Vec<Mark>, Vec<u8>) {
        let (first, last) = (payload_mark(), payload_mark());
        let mut payload = first.to_vec();
        payload.resize(self.size() - last.len(), 0);
        payload.extend(last);
        (vec![first, last], payload)
    }
}

impl Place<'_> {
    pub(crate) fn aim(&self, family: usize, port: u16) -> Aim {
        let find = || nix::net::if_::if_nametoindex(self.interface).unwrap();
        Aim {
            target: SocketAddr::new(self.targets[family], port),
            interface: self.origin.netns.run_in(find).unwrap(),
        }
    }
}

impl Aim {
    fn mapped(&self) -> Self {
        let SocketAddr::V4(target) = self.target else {
            unreachable!("only an address of IPv4 can be mapped");
        };
        Self {
            target: SocketAddr::new(target.ip().to_ipv6_mapped().into(), target.port()),
            ..*self
        }
    }
}

/// Binds a connection's socket to a port that no other has; gives the mark: target address and both ports.
fn bind_somewhere(socket: &OwnedFd, aim: &Aim) -> Mark {
    static NEXT: AtomicU16 = AtomicU16::new(40_000);
    let unspecified: IpAddr = match aim.target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let port = NEXT.fetch_add(1, Ordering::Relaxed);
    let own = SockaddrStorage::from(SocketAddr::new(unspecified, port));
    bind(socket.as_raw_fd(), &own).unwrap();
    let address = match aim.target.ip() {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => *address.octets().last_chunk().unwrap(),
    };
    let ports = [port.to_be_bytes(), aim.target.port().to_be_bytes()].concat();
    [&address[..], &ports].concat().try_into().unwrap()
}
