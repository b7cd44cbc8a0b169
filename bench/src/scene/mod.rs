//! A host that real packets leave: through a veth and through a TUN device, its own and those of a container behind it.
//!
//! ```text
//!   client ------- host (guarded) ------- wire
//!        cont0           | eth0
//!                        | wg0: a TUN device whose queue is full
//! ```
//!
//! Each contender has a host of its own, and all stand at once, so that turns can be short. What leaves by the veth is for
//! a station that is not there: the other end drops it at its first look.

mod contest;
mod guard;
mod load;
mod nflog;
mod ring;

use std::time::Duration;

use anyhow::Result;
use leakguard::lab::{Bpffs, Cgroup, Netns, wait_until};
use leakguard_tests::{Origin, Tun};

use guard::Standing;

pub(crate) use contest::{Contest, Host, hosts};
pub(crate) use guard::Guard;
pub(crate) use load::Load;

/// Where packets come from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum From {
    /// A process of the host.
    Host,
    /// A container, whose packets the host forwards.
    Client,
}

/// A guarded host.
pub(crate) struct Scene {
    // Declared in the order in which they go.
    standing: Standing,
    _tunnel: Tun,
    bpffs: Bpffs,
    cgroup: Cgroup,
    client: Netns,
    wire: Netns,
    host: Netns,
}

impl Scene {
    /// The interface that DNS may leave by.
    pub(crate) const TUNNEL: &'static str = "wg0";
    /// The interface that it may not.
    pub(crate) const UPLINK: &'static str = "eth0";
    /// Somebody behind the uplink, who swallows everything.
    pub(crate) const OUTSIDE: &'static str = "203.0.113.9";
    /// The same with IPv6.
    pub(crate) const OUTSIDE_V6: &'static str = "2001:db8:113::9";
    /// Somebody behind the tunnel.
    pub(crate) const INSIDE: &'static str = "10.8.0.1";
    /// The other end of the uplink, who answers.
    pub(crate) const NEIGHBOUR: &'static str = "198.51.100.1";

    /// Builds it and puts it under a guard.
    pub(crate) fn new(guard: &Guard) -> Result<Self> {
        let [host, wire, client] = ["host", "wire", "client"].map(Netns::new);
        let (host, wire, client) = (host?, wire?, client?);
        for (netns, forwards) in [(&host, "1"), (&wire, "0"), (&client, "0")] {
            netns.sysctl("net.ipv6.conf.all.disable_ipv6", "0")?;
            netns.sysctl("net.ipv6.conf.default.disable_ipv6", "0")?;
            netns.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
            netns.sysctl("net.ipv6.conf.all.forwarding", forwards)?;
            netns.sysctl("net.ipv4.ip_forward", forwards)?;
        }
        let tunnel = Tun::new(&host, Self::TUNNEL);
        // The first gateway's address is nobody's: what is sent there is dropped as another station's. Neighbours are written
        // down, for asking again from time to time costs the packets of that time.
        host.ip_batch(&format!(
            "link add eth0 type veth peer name host0 netns {wire}\n\
             link add cont0 address 02:00:00:00:00:01 type veth peer name eth0 address 02:00:00:00:00:02 netns {client}\n\
             link set eth0 up\n\
             link set cont0 up\n\
             link set wg0 up\n\
             addr add 198.51.100.10/24 dev eth0\n\
             addr add 2001:db8:100::10/64 dev eth0 nodad\n\
             addr add 192.168.78.1/24 dev cont0\n\
             addr add 10.8.0.2/24 dev wg0\n\
             neigh add 198.51.100.2 lladdr 02:00:00:00:00:99 dev eth0 nud permanent\n\
             neigh add 2001:db8:100::2 lladdr 02:00:00:00:00:99 dev eth0 nud permanent\n\
             route add default via 198.51.100.2\n\
             route add default via 2001:db8:100::2\n",
            wire = wire.name(),
            client = client.name(),
        ))?;
        wire.ip_batch(
            "link set host0 up\n\
             addr add 198.51.100.1/24 dev host0\n",
        )?;
        client.ip_batch(
            "link set eth0 up\n\
             addr add 192.168.78.10/24 dev eth0\n\
             neigh add 192.168.78.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent\n\
             route add default via 192.168.78.1\n",
        )?;
        let mut scene = Self {
            standing: Standing::default(),
            _tunnel: tunnel,
            bpffs: Bpffs::new()?,
            cgroup: Cgroup::new("traffic")?,
            client,
            wire,
            host,
        };
        scene.standing = guard.stand(&scene)?;
        Ok(scene)
    }

    /// Where sockets of a place are made.
    pub(crate) fn origin(&self, from: From) -> Origin<'_> {
        match from {
            From::Host => Origin {
                netns: &self.host,
                cgroup: Some(&self.cgroup),
            },
            From::Client => Origin {
                netns: &self.client,
                cgroup: None,
            },
        }
    }

    /// The network that the uplink leads to.
    pub(crate) fn wire(&self) -> &Netns {
        &self.wire
    }

    /// Waits until what the guard has told so far was read, so that a slow reader costs the next packets nothing.
    pub(crate) fn settle(&self) -> Result<()> {
        const LIMIT: Duration = Duration::from_secs(30);

        Ok(wait_until("what was told is read", LIMIT, || {
            Ok(self.standing.is_settled())
        })?)
    }

    /// What became of what the guard had to tell, if it tells anything.
    pub(crate) fn told(&self) -> Option<String> {
        let Standing { agent, reader, .. } = &self.standing;
        if let Some(reader) = reader {
            return Some(reader.told());
        }
        let events = &agent.as_ref()?.status_json().ok()?["events"];
        let [submitted, suppressed, lost] =
            ["submitted", "suppressed", "lost"].map(|outcome| events[outcome].to_string());
        Some(format!(
            "{submitted} submitted, {suppressed} suppressed, {lost} lost"
        ))
    }
}
