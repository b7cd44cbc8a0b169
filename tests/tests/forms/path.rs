//! The ways by which a packet of any form can be sent.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use leakguard::lab::Netns;
use leakguard_tests::{Origin, PacketSocket};
use nix::libc;
use nix::sys::socket::{MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, sendto};
use serde_json::Value;

use crate::shape::{Frame, Layer};

/// A way out: a socket, where it is, and the addresses of its packets.
#[derive(Debug)]
pub(crate) struct Path {
    pub(crate) name: &'static str,
    pub(crate) layer: Layer,
    /// Whether fragments without ports are dropped on it (`fragment`), whatever they belong to.
    pub(crate) drops_later_fragments: bool,
    /// By family.
    pub(crate) sources: [IpAddr; 2],
    /// By family.
    pub(crate) targets: [IpAddr; 2],
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    /// One of each family.
    Raw([OwnedFd; 2]),
    /// With the type that it announces, if it is not the frame's.
    Frames(PacketSocket, [u8; 12], Option<u16>),
    Datagrams(PacketSocket, [u8; 6]),
    Ring(PacketSocket, [u8; 12]),
    /// One of each family.
    Udp([OwnedFd; 2]),
}

/// The addresses of packets, by family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) sources: [IpAddr; 2],
    pub(crate) targets: [IpAddr; 2],
}

/// A link: who sends on it, by which interface, to which neighbour.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link<'lab> {
    pub(crate) origin: Origin<'lab>,
    pub(crate) interface: &'lab str,
    pub(crate) neighbour: [u8; 6],
}

impl Link<'_> {
    fn addresses(&self) -> [u8; 12] {
        let own = hardware_address(self.origin.netns, self.interface);
        [self.neighbour, own].concat().try_into().unwrap()
    }
}

impl Path {
    fn new(name: &'static str, layer: Layer, ends: Ends, socket: Socket) -> Self {
        let Ends { sources, targets } = ends;
        Self {
            name,
            layer,
            drops_later_fragments: false,
            sources,
            targets,
            socket,
        }
    }

    /// Raw sockets whose owner brings the IP header.
    pub(crate) fn raw(name: &'static str, origin: Origin<'_>, ends: Ends) -> Self {
        let socket = |domain| {
            let mut sockets = origin.sockets(domain, libc::SOCK_RAW, libc::IPPROTO_RAW, 1);
            sockets.pop().unwrap()
        };
        let sockets = [socket(libc::AF_INET), socket(libc::AF_INET6)];
        Self {
            drops_later_fragments: true,
            ..Self::new(name, Layer::Routed, ends, Socket::Raw(sockets))
        }
    }

    /// UDP sockets, which send what a packet carries to the port that it names.
    pub(crate) fn udp(name: &'static str, origin: Origin<'_>, ends: Ends) -> Self {
        let sockets = ends.targets.map(|target| OwnedFd::from(origin.udp(target)));
        Self::new(name, Layer::Payload, ends, Socket::Udp(sockets))
    }

    /// A packet socket that brings its link header.
    pub(crate) fn frames(name: &'static str, layer: Layer, link: Link<'_>, ends: Ends) -> Self {
        let socket = PacketSocket::raw(link.origin, link.interface);
        let socket = Socket::Frames(socket, link.addresses(), None);
        Self::new(name, layer, ends, socket)
    }

    /// A packet socket that leaves the link header to the kernel.
    pub(crate) fn datagrams(name: &'static str, layer: Layer, link: Link<'_>, ends: Ends) -> Self {
        let socket = PacketSocket::datagram(link.origin, link.interface);
        let socket = Socket::Datagrams(socket, link.neighbour);
        Self::new(name, layer, ends, socket)
    }

    /// A packet socket that shares a ring with the kernel.
    pub(crate) fn ring(name: &'static str, link: Link<'_>, ends: Ends) -> Self {
        let ring = PacketSocket::ring(link.origin, link.interface);
        let socket = Socket::Ring(ring, link.addresses());
        Self::new(name, Layer::Ethernet, ends, socket)
    }

    /// The same socket, which says of every frame that it is something else than it is.
    pub(crate) fn announcing(mut self, ethertype: u16) -> Self {
        match &mut self.socket {
            Socket::Frames(_, _, announced) => *announced = Some(ethertype),
            other => unreachable!("{other:?} announces nothing but what it sends"),
        }
        self
    }

    /// Sends a frame.
    pub(crate) fn send(&mut self, frame: &Frame) -> io::Result<()> {
        let Frame {
            tags,
            ethertype,
            packet,
        } = frame;
        let outermost = tags.first().copied().unwrap_or(*ethertype);
        match &mut self.socket {
            Socket::Raw([v4, v6]) => send_raw(&[v4, v6], &self.targets, packet),
            Socket::Udp([v4, v6]) => send_payload(&[v4, v6], &self.targets, packet),
            Socket::Frames(socket, addresses, announced) => {
                let bytes = match self.layer {
                    Layer::Ip => packet.clone(),
                    _ => with_link_header(addresses, frame),
                };
                let neighbour = *addresses.first_chunk().unwrap();
                Ok(socket.send_to(neighbour, announced.unwrap_or(outermost), &bytes)?)
            }
            Socket::Datagrams(socket, neighbour) => {
                // What the kernel's header does not say already.
                let bytes = with_link_header(&[], frame).split_off(size_of::<u16>());
                Ok(socket.send_to(*neighbour, outermost, &bytes)?)
            }
            Socket::Ring(ring, addresses) => {
                let neighbour = *addresses.first_chunk().unwrap();
                let bytes = with_link_header(addresses, frame);
                Ok(ring.send_to(neighbour, outermost, &bytes)?)
            }
        }
    }
}

fn send_raw(sockets: &[&OwnedFd; 2], targets: &[IpAddr; 2], packet: &[u8]) -> io::Result<()> {
    let family = usize::from(packet[0] >> 4 == 6);
    let socket = sockets[family].as_raw_fd();
    let sent = match targets[family] {
        IpAddr::V4(target) => {
            let [a, b, c, d] = target.octets();
            let target = SockaddrIn::new(a, b, c, d, 0);
            sendto(socket, packet, &target, MsgFlags::empty())
        }
        IpAddr::V6(target) => {
            let target = SockaddrIn6::from(std::net::SocketAddrV6::new(target, 0, 0, 0));
            sendto(socket, packet, &target, MsgFlags::empty())
        }
    };
    Ok(sent.map(drop)?)
}

fn send_payload(sockets: &[&OwnedFd; 2], targets: &[IpAddr; 2], packet: &[u8]) -> io::Result<()> {
    const UDP_HEADER: usize = 8;
    let family = usize::from(packet[0] >> 4 == 6);
    let header = [20, 40][family];
    let port = u16::from_be_bytes(*packet[header + 2..].first_chunk().unwrap());
    let target = SockaddrStorage::from(SocketAddr::new(targets[family], port));
    let payload = &packet[header + UDP_HEADER..];
    let sent = sendto(
        sockets[family].as_raw_fd(),
        payload,
        &target,
        MsgFlags::empty(),
    );
    Ok(sent.map(drop)?)
}

fn with_link_header(addresses: &[u8], frame: &Frame) -> Vec<u8> {
    let mut bytes = addresses.to_vec();
    for tag in frame.tags {
        bytes.extend(tag.to_be_bytes());
        // VLAN 10.
        bytes.extend([0, 10]);
    }
    bytes.extend(frame.ethertype.to_be_bytes());
    bytes.extend(&frame.packet);
    bytes
}

/// The hardware address of an interface.
pub(crate) fn hardware_address(netns: &Netns, interface: &str) -> [u8; 6] {
    let links = netns
        .ip(&["-json", "link", "show", "dev", interface])
        .unwrap();
    let links: Value = serde_json::from_str(&links).unwrap();
    // A device without addresses has none to show.
    let address = links[0]["address"].as_str().unwrap_or("00:00:00:00:00:00");
    let bytes: Vec<u8> = address
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    bytes.try_into().unwrap()
}
