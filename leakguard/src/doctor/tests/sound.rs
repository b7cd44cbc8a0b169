//! A made-up host that is sound.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::time::SystemTime;

use leakguard_common::abi::Role;
use leakguard_common::packet::LinkLayer;

use super::super::host::{FAR_V4, FAR_V6, Network};
use super::super::root::Root;
use super::super::{Facts, Finding, clock, configuration, enforcement};
use crate::config::{Layer, Redirect};
use crate::interfaces::{Address, Interface, RouteEntry, Tables};
use crate::preflight::{Asked, Nameserver, Seen, Way};
use crate::status::{
    EventCounts, InterfaceStatus, KillSwitch, Level, Netfilter, PacketCount, Status,
};

/// A tree of files.
pub(super) struct Host {
    directory: tempfile::TempDir,
}

/// What is in the files of a sound host.
const FILES: [(&str, &str); 17] = [
    ("proc/sys/kernel/osrelease", "6.12.0-1-amd64\n"),
    ("proc/sys/net/core/bpf_jit_enable", "1\n"),
    ("proc/sys/net/core/netdev_max_backlog", "1000\n"),
    ("proc/sys/net/ipv4/ip_forward", "0\n"),
    ("proc/sys/net/ipv4/tcp_mtu_probing", "0\n"),
    ("proc/sys/net/ipv4/ip_no_pmtu_disc", "0\n"),
    ("proc/sys/net/ipv4/conf/all/rp_filter", "2\n"),
    ("proc/sys/net/ipv6/conf/wg0/disable_ipv6", "0\n"),
    ("proc/sys/net/ipv6/conf/eth0/accept_ra", "0\n"),
    (
        "proc/self/mountinfo",
        "1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n2 0 0:2 / /sys/fs/bpf rw - bpf bpf rw\n",
    ),
    ("proc/self/status", "Name:\tx\nCapEff:\t000001ffffffffff\n"),
    (
        "proc/self/limits",
        "Limit Soft Limit Hard Limit Units\nMax open files            1024   524288   files\n",
    ),
    (
        "proc/net/softnet_stat",
        "00431a7b 00000000 00000002\n003bfa91 00000000 00000000\n",
    ),
    (
        "proc/cpuinfo",
        "processor\t: 0\nflags\t\t: fpu sse2 aes avx\n",
    ),
    ("sys/kernel/btf/vmlinux", ""),
    ("etc/resolv.conf", "nameserver 10.8.0.1\n"),
    ("etc/nsswitch.conf", "passwd: files\nhosts: files dns\n"),
];

impl Host {
    pub(super) fn new() -> Self {
        let host = Self::empty();
        for (path, text) in FILES {
            host.write(path, text);
        }
        host.write(
            "etc/leakguard/leakguard.toml",
            "[interfaces]\ntunnel = [\"wg0\"]\n",
        );
        host.chmod("etc/leakguard/leakguard.toml", 0o600);
        host
    }

    pub(super) fn empty() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    pub(super) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // In the place of a link, not where it leads.
        drop(fs::remove_file(&path));
        fs::write(path, text).unwrap();
    }

    pub(super) fn remove(&self, path: &str) {
        fs::remove_file(self.path(path)).unwrap();
    }

    pub(super) fn chmod(&self, path: &str, mode: u32) {
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    pub(super) fn link(&self, path: &str, target: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        drop(fs::remove_file(&path));
        symlink(target, path).unwrap();
    }

    /// Makes a program of this command name run.
    pub(super) fn run(&self, name: &str) {
        let pid = 100 + fs::read_dir(self.path("proc")).unwrap().count();
        self.write(&format!("proc/{pid}/comm"), &format!("{name}\n"));
    }

    /// Makes one listen at an address of this host, as `/proc/net/udp` writes it.
    pub(super) fn listen(&self, name: &str, address: &str) {
        self.write(
            "proc/self/net/udp",
            &format!("head\n 1: {address}:0035 00000000:0000 07 0:0 00:0 0 101 0 4711 2\n"),
        );
        self.write("proc/99/comm", &format!("{name}\n"));
        self.link("proc/99/fd/3", "socket:[4711]");
    }

    /// Every file of the tree.
    pub(super) fn every_file(&self) -> Vec<PathBuf> {
        let mut directories = vec![self.directory.path().to_owned()];
        let mut files = Vec::new();
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let kind = fs::symlink_metadata(&path).unwrap().file_type();
                if kind.is_dir() {
                    directories.push(path);
                } else if kind.is_file() {
                    files.push(path);
                }
            }
        }
        files
    }

    pub(super) fn facts(&self) -> Facts {
        self.facts_with(|_| {})
    }

    /// What is known of it, with what the system itself would have said changed.
    pub(super) fn facts_with(&self, change: impl FnOnce(&mut Facts)) -> Facts {
        let root = Root::open(self.directory.path()).unwrap();
        let mut facts = Facts::of_files(&root);
        let (configuration, _) = configuration::collect(&root, None, Layer::default()).unwrap();
        facts.configuration = configuration;
        facts.kernel.nft = true;
        facts.enforcement = enforcement::Enforcement {
            status: Some(status()),
            error: None,
            agent: true,
        };
        facts.clock = clock::Clock {
            now: SystemTime::now(),
            synchronised: Some(true),
        };
        facts.network = network();
        facts.privileges.unseen = root.unseen();
        change(&mut facts);
        facts
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        self.facts().judge()
    }

    pub(super) fn ids(&self) -> Vec<&'static str> {
        let findings = self.findings().into_iter();
        findings.map(|finding| finding.rule.id).collect()
    }
}

pub(super) const ETH0: u32 = 2;
pub(super) const WG0: u32 = 3;

/// An interface that is up.
pub(super) fn interface(ifindex: u32, name: &str, role: Role, kind: Option<&str>) -> Interface {
    Interface {
        ifindex,
        name: name.to_owned(),
        role,
        reason: "made up",
        kind: kind.map(str::to_owned),
        link_layer: LinkLayer::Unknown,
        up: true,
        carries: Vec::new(),
        passed_over: None,
    }
}

/// The way over an interface.
pub(super) fn over(name: &str, role: Role) -> Way {
    Way::Over {
        name: name.to_owned(),
        role,
    }
}

pub(super) fn uplink() -> Way {
    over("eth0", Role::Uplink)
}

/// A resolver that is asked, and what became of it.
pub(super) fn resolver(address: &str, way: Way, asked: Option<Asked>) -> Seen {
    Seen {
        server: Nameserver {
            address: address.parse().unwrap(),
            scope: None,
            behind_stub: false,
            instead_of: None,
        },
        way,
        asked,
    }
}

pub(super) fn address(ifindex: u32, net: &str) -> Address {
    Address {
        ifindex,
        net: net.parse().unwrap(),
    }
}

pub(super) fn route(ifindex: u32, net: &str, gateway: Option<&str>) -> RouteEntry {
    RouteEntry {
        net: net.parse().unwrap(),
        ifindex: Some(ifindex),
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        table: 254,
        protocol: 4,
    }
}

/// A tunnel that everything goes into.
fn network() -> Network {
    let interfaces = [
        interface(1, "lo", Role::Local, None),
        interface(ETH0, "eth0", Role::Uplink, None),
        interface(WG0, "wg0", Role::Tunnel, Some("wireguard")),
    ];
    let tunnel = || over("wg0", Role::Tunnel);
    let far: BTreeMap<IpAddr, Way> = FAR_V4
        .into_iter()
        .chain(FAR_V6)
        .map(|address| (address, tunnel()))
        .collect();
    Network {
        redirect: Redirect::default(),
        interfaces: interfaces
            .into_iter()
            .map(|interface| (interface.ifindex, interface))
            .collect(),
        mtus: BTreeMap::from([(1, 65536), (ETH0, 1500), (WG0, 1420)]),
        tables: Tables {
            addresses: vec![
                address(ETH0, "192.168.1.10/24"),
                address(ETH0, "fe80::1/64"),
                address(WG0, "10.8.0.2/24"),
                address(WG0, "fd08::2/64"),
            ],
            routes: vec![
                route(ETH0, "0.0.0.0/0", Some("192.168.1.1")),
                route(ETH0, "192.168.1.0/24", None),
                route(ETH0, "203.0.113.5/32", Some("192.168.1.1")),
                route(WG0, "0.0.0.0/1", None),
                route(WG0, "128.0.0.0/1", None),
                route(WG0, "::/1", None),
                route(WG0, "8000::/1", None),
            ],
            rules: Vec::new(),
        },
        wanted: vec!["wg0".to_owned()],
        unmet: Vec::new(),
        visible: vec!["wg0".to_owned()],
        resolvers: vec![resolver("10.8.0.1", tunnel(), Some(Asked::Answered))],
        ways: far,
    }
}

/// Packets that were dropped.
pub(super) fn drops(class: &'static str, count: u64) -> PacketCount {
    PacketCount {
        class,
        verdict: "drop",
        family: "ipv4",
        protocol: "udp",
        role: "uplink",
        hook: "cgroup_skb",
        count,
    }
}

/// Everything is enforced.
pub(super) fn status() -> Status {
    Status {
        redirect: None,
        level: Level::Full,
        causes: Vec::new(),
        mode: Some("enforce"),
        block: vec!["dns", "doh"],
        ports: Vec::new(),
        doh: None,
        kill_switch: Some(KillSwitch {
            mode: "tunnel-down",
            engaged: false,
            tunnel: Some("wg0".to_owned()),
            endpoints: 1,
            dhcp: true,
            ndp: true,
            lan: Vec::new(),
        }),
        ipv6: Some("dns-only"),
        netns: None,
        cgroup: None,
        interfaces: vec![InterfaceStatus {
            index: ETH0,
            name: "eth0".to_owned(),
            role: "uplink",
            kind: None,
            up: true,
            tc: "head",
        }],
        hardening: None,
        netfilter: Netfilter::default(),
        packets: Vec::new(),
        events: EventCounts::default(),
    }
}
