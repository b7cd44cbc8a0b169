//! Namespaces of a run's own: for the control, and for what is forwarded.

use std::net::{Ipv4Addr, Ipv6Addr};

use nix::net::if_::if_nametoindex;

use super::send::Egress;
use crate::lab::{LabError, NetnsHandle};

/// The link to a client that sends through a router: addresses for documentation.
const ROUTER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 253);
/// The hardware address of the router's end: asking for it takes time while a link comes up.
const ROUTER_LINK: &str = "02:6c:67:00:00:02";
const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x6c67, 1, 0, 0, 0, 1);
const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x6c67, 1, 0, 0, 0, 2);

/// A namespace behind another one, which forwards what it sends.
#[derive(Debug)]
pub(super) struct Client {
    netns: NetnsHandle,
    router: NetnsHandle,
    /// The router's end of the link.
    port: String,
    /// The client's end.
    pub(super) egress: Egress,
}

impl Client {
    /// Links a new namespace to a router by an interface of that name, which goes with the guard.
    pub(super) fn behind(router: &NetnsHandle, port: &str) -> Result<Self, LabError> {
        let netns = NetnsHandle::anonymous()?;
        router.ip_batch(&format!(
            "link add {port} address {ROUTER_LINK} type veth peer name eth0 netns {}\n\
             link set {port} up\n",
            netns.path()
        ))?;
        let client = Self {
            netns,
            router: router.clone(),
            port: port.to_owned(),
            egress: Egress {
                name: "eth0".into(),
                index: 0,
                v4: Some(CLIENT_V4),
                v6: Some(CLIENT_V6),
                ethernet: true,
            },
        };
        client.netns.ip_batch("link set eth0 up\n")?;
        router.ip_batch(&format!(
            "addr add {ROUTER_V4}/30 dev {port}\n\
             addr add {ROUTER_V6}/64 dev {port} nodad\n"
        ))?;
        client.netns.ip_batch(&format!(
            "addr add {CLIENT_V4}/30 dev eth0\n\
             addr add {CLIENT_V6}/64 dev eth0 nodad\n\
             neigh replace {ROUTER_V4} lladdr {ROUTER_LINK} dev eth0 nud permanent\n\
             neigh replace {ROUTER_V6} lladdr {ROUTER_LINK} dev eth0 nud permanent\n\
             route add default via {ROUTER_V4}\n\
             route add default via {ROUTER_V6}\n"
        ))?;
        Ok(client)
    }

    /// Where its sockets are made.
    pub(super) fn netns(&self) -> &NetnsHandle {
        &self.netns
    }

    /// Whether the router passes on what comes from it, by family.
    pub(super) fn is_forwarded(&self, family: &str) -> bool {
        let path = format!("/proc/sys/net/{family}/conf/{}/forwarding", self.port);
        self.router
            .run_in(|| std::fs::read_to_string(path))
            .is_ok_and(|read| read.is_ok_and(|text| text.trim() != "0"))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Err(error) = self.router.ip_batch(&format!("link del {}\n", self.port)) {
            log::debug!("{error}");
        }
    }
}

/// A network that leakguard does not judge, in which nothing leaves the machine.
#[derive(Debug)]
pub(super) struct Control {
    /// Declared in the order in which they go.
    pub(super) client: Client,
    router: NetnsHandle,
    _sink: NetnsHandle,
    pub(super) egress: Egress,
}

impl Control {
    /// Builds a router with an uplink to nowhere and a client behind it.
    pub(super) fn new() -> Result<Self, LabError> {
        const UPLINK: &str = "up0";
        const ADDRESS_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
        const ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x6c67, 2, 0, 0, 0, 1);

        let (router, sink) = (NetnsHandle::anonymous()?, NetnsHandle::anonymous()?);
        for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
            router.sysctl(key, "1")?;
        }
        for key in [
            "net.ipv4.conf.all.rp_filter",
            "net.ipv6.conf.default.disable_ipv6",
        ] {
            router.sysctl(key, "0")?;
        }
        // Nobody is there to be asked for a hardware address.
        router.ip_batch(&format!(
            "link set lo up\n\
             link add {UPLINK} type veth peer name end0 netns {}\n\
             link set {UPLINK} arp off up\n",
            sink.path()
        ))?;
        sink.ip_batch("link set end0 up\n")?;
        router.ip_batch(&format!(
            "addr add {ADDRESS_V4}/24 dev {UPLINK}\n\
             addr add {ADDRESS_V6}/64 dev {UPLINK} nodad\n\
             route add default dev {UPLINK}\n\
             route add ::/0 dev {UPLINK}\n"
        ))?;
        let client = Client::behind(&router, "in0")?;
        let index = router
            .run_in(|| if_nametoindex(UPLINK))?
            .map_err(LabError::syscall("if_nametoindex", UPLINK))?;
        Ok(Self {
            client,
            router,
            _sink: sink,
            egress: Egress {
                name: UPLINK.into(),
                index,
                v4: Some(ADDRESS_V4),
                v6: Some(ADDRESS_V6),
                ethernet: true,
            },
        })
    }

    /// Where its sockets are made.
    pub(super) fn netns(&self) -> &NetnsHandle {
        &self.router
    }
}
