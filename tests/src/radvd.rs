//! A real router-advertisement daemon at the ISP, and what the device's kernel makes of it.

use std::fs;
use std::time::Duration;

use leakguard::lab::{Daemon, Netns, Topology, wait_until};
use tempfile::TempDir;

/// How long a step may take: an advertisement comes every 3 to 4 seconds.
const LIMIT: Duration = Duration::from_secs(20);

/// A radvd on the ISP's side of the uplink; ended when dropped.
#[derive(Debug)]
pub struct Radvd {
    daemon: Daemon,
    _files: TempDir,
}

impl Radvd {
    /// The prefix that it announces, without its length of 64.
    pub const PREFIX: &'static str = "fd77:1::";
    /// Its own address of that prefix.
    pub const ROUTER: &'static str = "fd77:1::1";

    /// Starts it, and lets the device's uplink listen to it.
    pub fn start(topology: &Topology) -> Self {
        let isp = topology.isp();
        isp.ip(&[
            "addr",
            "add",
            "fd77:1::1/64",
            "dev",
            Topology::OBSERVED,
            "nodad",
        ])
        .unwrap();
        // A router listens to other routers only with 2.
        let accept = format!("net.ipv6.conf.{}.accept_ra", Topology::UPLINK);
        topology.host().sysctl(&accept, "2").unwrap();
        let files = tempfile::tempdir().unwrap();
        let configuration = files.path().join("radvd.conf");
        fs::write(
            &configuration,
            format!(
                "interface {} {{ AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvDefaultLifetime 60; \
                 AdvManagedFlag on; prefix {}/64 {{ AdvOnLink on; AdvAutonomous on; AdvValidLifetime 120; \
                 AdvPreferredLifetime 60; }}; }};\n",
                Topology::OBSERVED,
                Self::PREFIX
            ),
        )
        .unwrap();
        let mut radvd = isp.command("radvd");
        radvd
            .args(["--nodaemon", "--logmethod", "stderr", "--debug", "4"])
            .arg("--config")
            .arg(&configuration)
            .arg("--pidfile")
            .arg(files.path().join("radvd.pid"));
        Self {
            daemon: Daemon::start(radvd, files.path()).unwrap(),
            _files: files,
        }
    }

    /// How many solicitations of hosts it has received.
    pub fn solicitations(&self) -> usize {
        self.daemon.stderr().matches("received RS from").count()
    }

    /// Waits until the device has an address of the prefix and a default route from an advertisement; returns the
    /// address.
    pub fn await_configuration(&mut self, topology: &Topology) -> String {
        let host = topology.host();
        let mut found = None;
        wait_until("the device has listened to an advertisement", LIMIT, || {
            self.daemon.check_running()?;
            found = slaac_address(host);
            let routes = host.ip(&["-6", "route", "show", "default", "proto", "ra"])?;
            Ok(found.is_some() && routes.contains(Topology::UPLINK))
        })
        .unwrap();
        found.unwrap()
    }
}

/// The address that the device has made itself out of the prefix.
fn slaac_address(host: &Netns) -> Option<String> {
    let shown = host
        .ip(&[
            "-o",
            "-6",
            "addr",
            "show",
            "dev",
            Topology::UPLINK,
            "dynamic",
        ])
        .unwrap();
    let mut words = shown.split_whitespace();
    let address = words.find(|word| word.starts_with("fd77:1:"))?;
    address.split('/').next().map(ToOwned::to_owned)
}

/// Lets the kernel of a namespace forget a neighbour and look for it again, without a packet of any program; waits
/// until it is found.
pub fn resolve_neighbour(netns: &Netns, interface: &str, address: &str) {
    netns
        .ip(&["-6", "neigh", "flush", "dev", interface])
        .unwrap();
    netns
        .ip(&["-6", "neigh", "replace", address, "dev", interface, "use"])
        .unwrap();
    wait_until("the neighbour is found", LIMIT, || {
        let shown = netns.ip(&["-6", "neigh", "show", address, "dev", interface])?;
        Ok(shown.contains("REACHABLE"))
    })
    .unwrap();
}

/// The type of an ICMPv6 message in an Ethernet frame, without extension headers.
pub fn icmpv6_type(frame: &[u8]) -> Option<u8> {
    const ETHERTYPE: [u8; 2] = [0x86, 0xdd];
    const ICMPV6: u8 = 58;
    (frame.get(12..14)? == ETHERTYPE && *frame.get(20)? == ICMPV6)
        .then(|| frame.get(54).copied())
        .flatten()
}
