use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use super::{LabError, Netns, wait_until};

/// The address plan. Documentation prefixes stand for the Internet, private ones for what is behind
/// a router.
pub mod address {
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// The device under test on its uplink.
    pub const HOST_V4: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 10);
    /// The device under test on its uplink.
    pub const HOST_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x10);
    /// The container whose traffic the device under test forwards.
    pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(192, 168, 78, 10);
    /// The container whose traffic the device under test forwards.
    pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, 0x10);
    /// The ISP's resolver: an answer from here is a leak.
    pub const ISP_RESOLVER_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 53);
    /// The ISP's resolver: an answer from here is a leak.
    pub const ISP_RESOLVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 0, 0x53);
    /// The VPN server's outer address.
    pub const VPN_SERVER_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
    /// The VPN server's outer address.
    pub const VPN_SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x10);
    /// The resolver inside the tunnel.
    pub const TUNNEL_RESOLVER_V4: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);
    /// The resolver inside the tunnel.
    pub const TUNNEL_RESOLVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd08, 0, 0, 0, 0, 0, 0, 1);
    /// The device under test inside the tunnel.
    pub const TUNNEL_HOST_V4: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 2);
    /// The device under test inside the tunnel.
    pub const TUNNEL_HOST_V6: Ipv6Addr = Ipv6Addr::new(0xfd08, 0, 0, 0, 0, 0, 0, 2);
    /// The UDP port of the tunnel's carrier.
    pub const CARRIER_PORT: u16 = 51820;
}

/// TCP discard: nothing listens there, so a reachable machine refuses at once.
const CLOSED_PORT: u16 = 9;
/// How long the routes of a fresh topology may take to work.
const READY_LIMIT: Duration = Duration::from_secs(5);
/// How long one probe waits before the next is sent.
const PROBE_LIMIT: Duration = Duration::from_millis(250);

/// Three namespaces in a row, and optionally a container behind the first; IPv4 and IPv6 routed end
/// to end, no NAT.
#[derive(Debug)]
pub struct Topology {
    client: Option<Netns>,
    host: Netns,
    isp: Netns,
    vpn: Netns,
}

impl Topology {
    /// The device under test's interface towards the ISP.
    pub const UPLINK: &'static str = "eth0";
    /// The device under test's interface towards the container.
    pub const CONTAINER_PORT: &'static str = "cont0";
    /// The ISP's interface towards the device under test: what arrives here has left it.
    pub const OBSERVED: &'static str = "host0";

    /// Builds host, isp and vpn; returns when each address answers from the host.
    pub fn new() -> Result<Self, LabError> {
        let topology = Self {
            client: None,
            host: Netns::new("host")?,
            isp: Netns::new("isp")?,
            vpn: Netns::new("vpn")?,
        };
        topology.configure_routers()?;
        await_routes(&topology.host)?;
        Ok(topology)
    }

    /// Builds the same with a container whose traffic the host forwards.
    pub fn with_client() -> Result<Self, LabError> {
        let mut topology = Self::new()?;
        let client = Netns::new("client")?;
        topology.configure_client(&client)?;
        await_routes(&client)?;
        topology.client = Some(client);
        Ok(topology)
    }

    /// The device under test.
    pub fn host(&self) -> &Netns {
        &self.host
    }

    /// The router that sees everything the host sends off its tunnel.
    pub fn isp(&self) -> &Netns {
        &self.isp
    }

    /// The VPN server.
    pub fn vpn(&self) -> &Netns {
        &self.vpn
    }

    /// The container behind the host, if built [`with_client`](Self::with_client).
    pub fn client(&self) -> Option<&Netns> {
        self.client.as_ref()
    }

    fn configure_routers(&self) -> Result<(), LabError> {
        let Self {
            client: _,
            host,
            isp,
            vpn,
        } = self;
        for netns in [host, isp, vpn] {
            prepare(netns)?;
        }
        // Both ends go up before any address is set: IPv6 ignores an address without carrier until
        // the link reports one.
        isp.ip_batch(&format!(
            "link add host0 type veth peer name eth0 netns {host}\n\
             link add vpn0 type veth peer name eth0 netns {vpn}\n\
             link set host0 up\n\
             link set vpn0 up\n",
            host = host.name(),
            vpn = vpn.name(),
        ))?;
        host.ip_batch(
            "link set eth0 up\n\
             addr add 192.168.77.10/24 dev eth0\n\
             addr add fd77::10/64 dev eth0 nodad\n\
             route add default via 192.168.77.1\n\
             route add default via fd77::1\n",
        )?;
        vpn.ip_batch(
            "link set eth0 up\n\
             addr add 203.0.113.10/24 dev eth0\n\
             addr add 2001:db8:113::10/64 dev eth0 nodad\n\
             route add default via 203.0.113.1\n\
             route add default via 2001:db8:113::1\n",
        )?;
        isp.ip_batch(
            "addr add 192.168.77.1/24 dev host0\n\
             addr add fd77::1/64 dev host0 nodad\n\
             addr add 203.0.113.1/24 dev vpn0\n\
             addr add 2001:db8:113::1/64 dev vpn0 nodad\n\
             addr add 198.51.100.53/32 dev lo\n\
             addr add 2001:db8:53::53/128 dev lo nodad\n\
             route add 192.168.78.0/24 via 192.168.77.10\n\
             route add fd78::/64 via fd77::10\n",
        )
    }

    fn configure_client(&self, client: &Netns) -> Result<(), LabError> {
        prepare(client)?;
        self.host.ip_batch(&format!(
            "link add cont0 type veth peer name eth0 netns {}\n\
             link set cont0 up\n",
            client.name(),
        ))?;
        client.ip_batch(
            "link set eth0 up\n\
             addr add 192.168.78.10/24 dev eth0\n\
             addr add fd78::10/64 dev eth0 nodad\n\
             route add default via 192.168.78.1\n\
             route add default via fd78::1\n",
        )?;
        self.host.ip_batch(
            "addr add 192.168.78.1/24 dev cont0\n\
             addr add fd78::1/64 dev cont0 nodad\n",
        )
    }
}

/// Waits until everything that stays where it is answers from `netns`.
fn await_routes(netns: &Netns) -> Result<(), LabError> {
    let targets: [IpAddr; 4] = [
        address::ISP_RESOLVER_V4.into(),
        address::ISP_RESOLVER_V6.into(),
        address::VPN_SERVER_V4.into(),
        address::VPN_SERVER_V6.into(),
    ];
    targets
        .into_iter()
        .try_for_each(|target| await_route(netns, target))
}

/// Waits until `target` answers from `netns`, whatever the answer is.
pub fn await_route(netns: &Netns, target: IpAddr) -> Result<(), LabError> {
    let target = SocketAddr::new(target, CLOSED_PORT);
    let what = format!("{} reaches {target}", netns.name());
    wait_until(&what, READY_LIMIT, || {
        netns.run_in(|| match TcpStream::connect_timeout(&target, PROBE_LIMIT) {
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::ConnectionRefused,
        })
    })
}

/// Makes a namespace a router whose addresses are usable at once, whatever the machine's defaults
/// are.
fn prepare(netns: &Netns) -> Result<(), LabError> {
    for (key, value) in [
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv4.conf.all.rp_filter", "0"),
        ("net.ipv4.conf.default.rp_filter", "0"),
        ("net.ipv6.conf.all.disable_ipv6", "0"),
        ("net.ipv6.conf.default.disable_ipv6", "0"),
        ("net.ipv6.conf.all.forwarding", "1"),
        ("net.ipv6.conf.default.accept_dad", "0"),
    ] {
        netns.sysctl(key, value)?;
    }
    Ok(())
}
