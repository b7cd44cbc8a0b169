//! The devices under test, and who watches them from outside.

use std::fs::{self, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use leakguard::lab::{
    Directions, Fence, Netns, Observer, Topology, address, output_within, wait_until,
};
use leakguard_tests::{Bench, Origin, Tun, join_lan};
use tempfile::TempDir;

use crate::path::{Ends, Link, Path, hardware_address};
use crate::probe::EXTRA_PORT;
use crate::round::{Stage, Witness};
use crate::shape::Layer;
use crate::way::Place;

/// How long a packet may take.
const LIMIT: Duration = Duration::from_secs(5);
/// LLDP: what a sender announces whose frames are something else.
const LLDP: u16 = 0x88cc;

const HOST: [IpAddr; 2] = [IpAddr::V4(address::HOST_V4), IpAddr::V6(address::HOST_V6)];
const CLIENT: [IpAddr; 2] = [
    IpAddr::V4(address::CLIENT_V4),
    IpAddr::V6(address::CLIENT_V6),
];
const ISP: [IpAddr; 2] = [
    IpAddr::V4(address::ISP_RESOLVER_V4),
    IpAddr::V6(address::ISP_RESOLVER_V6),
];

fn to_isp(sources: [IpAddr; 2]) -> Ends {
    Ends {
        sources,
        targets: ISP,
    }
}

/// The lab, and a configuration with an extra port.
#[derive(Debug)]
struct Base {
    bench: Bench,
    directory: TempDir,
}

impl Base {
    fn new() -> Self {
        let bench = Bench::new();
        // Nobody is told that nobody listens: the next send of a connected socket would report it.
        let mut nft = bench.topology.isp().command("nft");
        nft.arg(
            "table inet quiet { chain input { type filter hook input priority 0; \
             meta l4proto { udp, udplite, sctp, dccp } drop; }; }",
        );
        let output = output_within(nft, LIMIT).unwrap();
        assert!(output.status.success(), "{output:?}");
        Self {
            bench,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn protect(&mut self) {
        let file = self.directory.path().join("leakguard.toml");
        fs::write(&file, format!("[dns]\nports = [{EXTRA_PORT}]\n")).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        self.bench.protect(&["--config", file.to_str().unwrap()]);
    }

    fn host(&self) -> Origin<'_> {
        self.bench.origin(leakguard_tests::Place::Host)
    }

    fn client(&self) -> Origin<'_> {
        self.bench.origin(leakguard_tests::Place::Client)
    }

    fn isp_address(&self) -> [u8; 6] {
        hardware_address(self.bench.topology.isp(), Topology::OBSERVED)
    }

    /// A packet socket of the container, whose packets the host routes.
    fn forwarded(&self, name: &'static str) -> Path {
        let link = Link {
            origin: self.client(),
            interface: "eth0",
            neighbour: hardware_address(self.bench.topology.host(), Topology::CONTAINER_PORT),
        };
        Path::frames(name, Layer::Routed, link, to_isp(CLIENT))
    }

    fn local_place<'lab>(&'lab self, interface: &'lab str) -> Place<'lab> {
        Place {
            name: "local",
            origin: self.host(),
            interface,
            targets: ISP,
            is_local: true,
        }
    }

    fn forwarded_place(&self) -> Place<'_> {
        Place {
            name: "forwarded",
            origin: self.client(),
            interface: "eth0",
            targets: ISP,
            is_local: false,
        }
    }

    /// UDP sockets of the host and of the container.
    fn datagrams(&self) -> Vec<Path> {
        vec![
            Path::udp("UDP socket", self.host(), to_isp(HOST)),
            Path::udp("UDP socket, forwarded", self.client(), to_isp(CLIENT)),
        ]
    }

    fn observer(&self) -> Wire {
        let isp = self.bench.topology.isp();
        Wire(Observer::new(isp, Topology::OBSERVED, Directions::Incoming).unwrap())
    }
}

/// An Ethernet uplink, with a child of it in a container.
#[derive(Debug)]
pub(crate) struct Uplink {
    base: Base,
    child: Netns,
}

impl Uplink {
    pub(crate) fn new() -> (Self, Wire) {
        let base = Base::new();
        let child = Netns::new("child").unwrap();
        let host = base.bench.topology.host();
        host.ip_batch(&format!(
            "link add link {} name child0 type macvlan mode bridge\n\
             link set child0 netns {} name eth0\n",
            Topology::UPLINK,
            child.name()
        ))
        .unwrap();
        join_lan(&child, 30);
        let wire = base.observer();
        (Self { base, child }, wire)
    }

    fn child(&self) -> Origin<'_> {
        Origin {
            netns: &self.child,
            cgroup: None,
        }
    }
}

impl Stage for Uplink {
    fn paths(&self) -> Vec<Path> {
        let neighbour = self.base.isp_address();
        let origin = self.base.host();
        let link = Link {
            origin,
            interface: Topology::UPLINK,
            neighbour,
        };
        let child = Link {
            origin: self.child(),
            interface: "eth0",
            neighbour,
        };
        let own = [
            "192.168.77.30".parse().unwrap(),
            "fd77::30".parse().unwrap(),
        ];
        let ends = to_isp(HOST);
        vec![
            Path::raw("raw socket", origin, ends),
            Path::frames("packet socket", Layer::Ethernet, link, ends),
            Path::frames("packet socket, says LLDP", Layer::Ethernet, link, ends).announcing(LLDP),
            Path::datagrams("packet socket, SOCK_DGRAM", Layer::Ethernet, link, ends),
            Path::ring("packet socket, TX_RING", link, ends),
            self.base.forwarded("forwarded"),
            Path::frames("macvlan child", Layer::Ethernet, child, to_isp(own)),
        ]
    }

    fn places(&self) -> Vec<Place<'_>> {
        let child = Place {
            name: "macvlan child",
            origin: self.child(),
            interface: "eth0",
            targets: ISP,
            is_local: false,
        };
        let local = self.base.local_place(Topology::UPLINK);
        vec![local, self.base.forwarded_place(), child]
    }

    fn datagrams(&self) -> Vec<Path> {
        self.base.datagrams()
    }

    fn senders(&self) -> Vec<&Netns> {
        vec![
            self.base.client().netns,
            &self.child,
            self.base.host().netns,
        ]
    }

    fn protect(&mut self) {
        self.base.protect();
    }
}

/// An uplink that is a port of a bridge, with a guest on another port.
#[derive(Debug)]
pub(crate) struct Bridge {
    base: Base,
    guest: Netns,
}

impl Bridge {
    pub(crate) fn new() -> (Self, Wire) {
        let base = Base::new();
        let guest = base.bench.bridge_a_guest();
        // A bridge that hands its packets to iptables drops broken ones itself.
        for filter in ["iptables", "ip6tables"] {
            let key = format!("net.bridge.bridge-nf-call-{filter}");
            let host = base.bench.topology.host();
            // Without br_netfilter in the kernel, no bridge does.
            if std::path::Path::new("/proc/sys/net/bridge").exists() {
                host.sysctl(&key, "0").unwrap();
            }
        }
        let wire = base.observer();
        (Self { base, guest }, wire)
    }

    fn guest(&self) -> Origin<'_> {
        Origin {
            netns: &self.guest,
            cgroup: None,
        }
    }
}

impl Stage for Bridge {
    fn paths(&self) -> Vec<Path> {
        let neighbour = self.base.isp_address();
        let link = |origin, interface| Link {
            origin,
            interface,
            neighbour,
        };
        let own = [
            "192.168.77.20".parse().unwrap(),
            "fd77::20".parse().unwrap(),
        ];
        let host = self.base.host();
        vec![
            Path::frames(
                "bridged",
                Layer::Ethernet,
                link(self.guest(), "eth0"),
                to_isp(own),
            ),
            Path::frames(
                "packet socket on the bridge",
                Layer::Ethernet,
                link(host, "br0"),
                to_isp(HOST),
            ),
            self.base.forwarded("forwarded to the bridge"),
        ]
    }

    fn places(&self) -> Vec<Place<'_>> {
        let guest = Place {
            name: "bridged",
            origin: self.guest(),
            interface: "eth0",
            targets: ISP,
            is_local: false,
        };
        let local = Place {
            name: "local, by the bridge",
            ..self.base.local_place("br0")
        };
        vec![guest, local]
    }

    fn datagrams(&self) -> Vec<Path> {
        self.base.datagrams()
    }

    fn senders(&self) -> Vec<&Netns> {
        vec![
            self.base.client().netns,
            &self.guest,
            self.base.host().netns,
        ]
    }

    fn protect(&mut self) {
        self.base.protect();
    }
}

/// A TUN device by which the ISP is reached: an uplink without link headers, or the tunnel, by its name.
#[derive(Debug)]
pub(crate) struct Layer3 {
    base: Base,
    name: &'static str,
}

impl Layer3 {
    pub(crate) fn new(name: &'static str) -> (Self, FarEnd) {
        let base = Base::new();
        let host = base.bench.topology.host();
        let tun = Tun::new(host, name);
        host.ip_batch(&format!(
            "link set {name} txqueuelen 5000\n\
             link set {name} up\n\
             route replace 198.51.100.53/32 dev {name}\n\
             route replace 2001:db8:53::53/128 dev {name}\n"
        ))
        .unwrap();
        (Self { base, name }, FarEnd(tun))
    }
}

impl Stage for Layer3 {
    fn prefix(&self) -> &'static str {
        match self.name {
            Bench::TUNNEL => "tunnel: ",
            _ => "tun: ",
        }
    }

    fn paths(&self) -> Vec<Path> {
        let origin = self.base.host();
        let link = Link {
            origin,
            interface: self.name,
            neighbour: [0; 6],
        };
        let ends = to_isp(HOST);
        vec![
            Path::raw("raw socket", origin, ends),
            Path::frames("packet socket", Layer::Ip, link, ends),
            self.base.forwarded("forwarded"),
        ]
    }

    fn places(&self) -> Vec<Place<'_>> {
        let local = self.base.local_place(self.name);
        vec![local, self.base.forwarded_place()]
    }

    fn datagrams(&self) -> Vec<Path> {
        self.base.datagrams()
    }

    fn senders(&self) -> Vec<&Netns> {
        vec![self.base.client().netns, self.base.host().netns]
    }

    fn protect(&mut self) {
        self.base.protect();
    }
}

/// A capture at the ISP.
#[derive(Debug)]
pub(crate) struct Wire(Observer);

impl Witness for Wire {
    fn collect(&mut self) -> Vec<Vec<u8>> {
        let frames = self.0.drain().unwrap();
        assert_eq!(self.0.lost().unwrap(), 0, "the capture is complete");
        frames
    }

    fn settle(&mut self, sender: &Netns) -> Vec<Vec<u8>> {
        let frames = self.0.drain_past_fence(sender).unwrap();
        assert_eq!(self.0.lost().unwrap(), 0, "the capture is complete");
        frames
    }
}

/// Whoever reads what is sent into a TUN device.
#[derive(Debug)]
pub(crate) struct FarEnd(Tun);

impl Witness for FarEnd {
    /// The packets, with a link header in front of them as on a wire.
    fn collect(&mut self) -> Vec<Vec<u8>> {
        let packets = self.0.packets().into_iter();
        packets
            .map(|packet| {
                let ethertype = if packet[0] >> 4 == 6 {
                    [0x86, 0xdd]
                } else {
                    [8, 0]
                };
                [&[0; 12], &ethertype[..], &packet].concat()
            })
            .collect()
    }

    fn settle(&mut self, sender: &Netns) -> Vec<Vec<u8>> {
        let mut fence = Fence::send(sender).unwrap();
        let mut frames = Vec::new();
        wait_until("the fence arrives", LIMIT, || {
            let new = self.collect();
            for frame in &new {
                fence.takes(frame);
            }
            frames.extend(new);
            Ok(fence.is_passed())
        })
        .unwrap();
        frames
    }
}
