//! A device under test on the lab's network, with a capture at its ISP.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use leakguard::lab::{
    Agent, AgentConfig, Bpffs, Cgroup, Directions, Netns, Observer, Resolver, Topology, WireGuard,
    address, wait_until,
};
use serde_json::Value;

use super::{Origin, Transport, Volley, agent_binary};

/// How long an event may take to be told; emulated machines are slow.
const EVENT_LIMIT: Duration = Duration::from_secs(30);

/// Where probes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A process on the device under test, in the cgroup that the agent guards.
    Host,
    /// A container behind it, whose packets it forwards.
    Client,
}

/// The lab with everything that a test of the agent needs.
#[derive(Debug)]
pub struct Bench {
    // Declared in the order in which they go.
    agent: Option<Agent>,
    tunnel: Option<WireGuard>,
    resolver: Option<Resolver>,
    /// Sees what leaves the host, at the ISP.
    pub observer: Observer,
    /// Whose sockets the agent judges.
    pub cgroup: Cgroup,
    /// Where the agent pins.
    pub bpffs: Bpffs,
    /// The network.
    pub topology: Topology,
}

impl Bench {
    /// The interface that the agent lets DNS out by.
    pub const TUNNEL: &'static str = "wg0";

    /// Builds it with a client, without a tunnel and without an agent.
    pub fn new() -> Self {
        let topology = Topology::with_client().unwrap();
        Self {
            agent: None,
            tunnel: None,
            resolver: None,
            observer: Observer::new(topology.isp(), Topology::OBSERVED, Directions::Incoming)
                .unwrap(),
            cgroup: Cgroup::new("bench").unwrap(),
            bpffs: Bpffs::new().unwrap(),
            topology,
        }
    }

    /// Builds it with a tunnel, and a resolver at its end that says `vpn`.
    pub fn with_tunnel() -> Self {
        let mut bench = Self::with_bare_tunnel();
        bench.resolver = Some(Resolver::new(bench.topology.vpn(), "vpn").unwrap());
        bench
    }

    /// Builds it with a tunnel at whose end nobody resolves names.
    pub fn with_bare_tunnel() -> Self {
        let mut bench = Self::new();
        bench.tunnel = Some(WireGuard::new(&bench.topology, Self::TUNNEL).unwrap());
        bench
    }

    /// Builds it with a tunnel of the kernel's own module, at whose end nobody resolves names.
    pub fn with_kernel_tunnel() -> Self {
        let mut bench = Self::new();
        match WireGuard::in_kernel(&bench.topology, Self::TUNNEL) {
            Ok(tunnel) => bench.tunnel = Some(tunnel),
            Err(error) => panic!(
                "if the kernel lacks WireGuard: `cargo xtask vm-test --suite devices`: {error:?}"
            ),
        }
        bench
    }

    /// Starts the agent, with more arguments of `leakguard run`.
    pub fn protect(&mut self, arguments: &[&str]) -> &mut Agent {
        self.protect_with(agent_binary(), arguments)
    }

    /// Starts another program in the agent's place.
    pub fn protect_with(&mut self, binary: PathBuf, arguments: &[&str]) -> &mut Agent {
        self.start(binary, Self::TUNNEL, arguments)
    }

    /// Starts the agent with something else than the tunnel's name for it.
    pub fn protect_by(&mut self, tunnel: &str, arguments: &[&str]) -> &mut Agent {
        self.start(agent_binary(), tunnel, arguments)
    }

    fn start(&mut self, binary: PathBuf, tunnel: &str, arguments: &[&str]) -> &mut Agent {
        let agent = Agent::start(&AgentConfig {
            binary,
            netns: self.topology.host(),
            cgroup: &self.cgroup,
            bpffs: &self.bpffs,
            tunnels: vec![tunnel.to_owned()],
            arguments: arguments.iter().map(Into::into).collect(),
        })
        .unwrap();
        self.agent.insert(agent)
    }

    /// The agent's events of packets that meet a condition; waits until there is one.
    #[track_caller]
    pub fn await_packets(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut found = Vec::new();
        let waited = wait_until(what, EVENT_LIMIT, || {
            found = self.agent().events_json()?;
            found.retain(|event| event["kind"] == "packet" && wanted(event));
            Ok(!found.is_empty())
        });
        assert!(waited.is_ok(), "{what}: {:#?}", self.agent().events_json());
        found
    }

    /// The tunnel that it was built with, and the namespace it is in.
    pub fn tunnel(&mut self) -> (&mut WireGuard, &Netns) {
        let tunnel = self.tunnel.as_mut().unwrap();
        (tunnel, self.topology.host())
    }

    /// Lifts enforcement and ends the agent.
    pub fn unprotect(&mut self) {
        self.agent().release().unwrap();
        self.agent = None;
    }

    /// Whether an agent was started.
    pub fn is_protected(&self) -> bool {
        self.agent.is_some()
    }

    /// The agent that was started.
    pub fn agent(&mut self) -> &mut Agent {
        self.agent.as_mut().unwrap()
    }

    /// Makes the uplink a port of a bridge, and a guest with an address of its own another.
    pub fn bridge_a_guest(&self) -> Netns {
        let guest = Netns::new("guest").unwrap();
        self.topology
            .host()
            .ip_batch(&format!(
                "link add br0 type bridge\n\
                 link set br0 up\n\
                 addr flush dev eth0\n\
                 route del default via fd77::1\n\
                 link set eth0 master br0\n\
                 addr add 192.168.77.10/24 dev br0\n\
                 addr add fd77::10/64 dev br0 nodad\n\
                 route add default via 192.168.77.1\n\
                 route add default via fd77::1\n\
                 link add guest0 type veth peer name eth0 netns {}\n\
                 link set guest0 master br0\n\
                 link set guest0 up\n",
                guest.name()
            ))
            .unwrap();
        join_lan(&guest, 20);
        guest
    }

    /// Where sockets of a place are made.
    pub fn origin(&self, place: Place) -> Origin<'_> {
        Origin {
            netns: self.netns(place),
            cgroup: (place == Place::Host).then_some(&self.cgroup),
        }
    }

    /// A server at the ISP.
    pub fn listen(&self, target: SocketAddr) -> TcpListener {
        let listener = || TcpListener::bind(target).unwrap();
        self.topology.isp().run_in(listener).unwrap()
    }

    /// The namespace of a place.
    pub fn netns(&self, place: Place) -> &Netns {
        match place {
            Place::Host => self.topology.host(),
            Place::Client => self.topology.client().unwrap(),
        }
    }

    /// Everything that has left the host since the last call and was sent before it; nothing is missing.
    pub fn frames(&mut self, place: Place) -> Vec<Vec<u8>> {
        let netns = match place {
            Place::Host => self.topology.host(),
            Place::Client => self.topology.client().unwrap(),
        };
        let frames = self.observer.drain_past_fence(netns).unwrap();
        assert_eq!(self.observer.lost().unwrap(), 0, "the capture is complete");
        frames
    }

    /// Sends probes; says how many of them the ISP has seen.
    pub fn seen(
        &mut self,
        place: Place,
        transport: Transport,
        target: SocketAddr,
        count: usize,
    ) -> usize {
        let volley = Volley::send(self.origin(place), transport, target, count);
        let frames = self.frames(place);
        volley.seen(&frames)
    }
}

impl Default for Bench {
    fn default() -> Self {
        Self::new()
    }
}

/// A port of the ISP's resolver, whose IPv4 address comes first and IPv6 address second.
pub fn isp(family: usize, port: u16) -> SocketAddr {
    let resolvers: [IpAddr; 2] = [
        address::ISP_RESOLVER_V4.into(),
        address::ISP_RESOLVER_V6.into(),
    ];
    SocketAddr::new(resolvers[family], port)
}

/// Gives a machine behind the host's uplink an address of each family and the ISP for a gateway; its interface is `eth0`.
pub fn join_lan(netns: &Netns, number: u8) {
    for interfaces in ["all", "default"] {
        let key = format!("net.ipv6.conf.{interfaces}.accept_dad");
        netns.sysctl(&key, "0").unwrap();
    }
    netns
        .ip_batch(&format!(
            "link set eth0 up\n\
             addr add 192.168.77.{number}/24 dev eth0\n\
             addr add fd77::{number}/64 dev eth0 nodad\n\
             route add default via 192.168.77.1\n\
             route add default via fd77::1\n"
        ))
        .unwrap();
}
