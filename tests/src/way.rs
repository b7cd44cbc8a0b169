//! A second way from the host to the ISP's resolver, by a device of the test's choice.

use leakguard::lab::{Directions, Netns, Observer, Topology};

/// The hardware address of the far end.
const FAR: &str = "02:00:00:00:99:02";

/// What carries the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// One end of a pair; the other is the ISP's.
    Veth,
    /// A pair under another name at first, and renamed then.
    Renamed,
    /// A bridge with such a pair as its port.
    Bridge,
    /// A child of the uplink.
    Macvlan,
}

impl Carrier {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Veth, Self::Renamed, Self::Bridge, Self::Macvlan];

    /// Its `IFLA_INFO_KIND`.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Veth | Self::Renamed => "veth",
            Self::Bridge => "bridge",
            Self::Macvlan => "macvlan",
        }
    }

    /// Makes a device of this name, and of this number if there is one, and leads everything for the ISP's resolver
    /// out by it; `first` are command lines of `ip` that come right before.
    ///
    /// The device has no address: a pair with a network of its own would be local until its gateway is known.
    pub fn open(
        self,
        topology: &Topology,
        name: &str,
        number: Option<u32>,
        first: &str,
    ) -> Observer {
        let (host, isp) = (topology.host(), topology.isp());
        let index = number.map_or_else(String::new, |number| format!("index {number}"));
        let far = format!("peer name far0 address {FAR} netns {}", isp.name());
        let make = match self {
            Self::Veth => format!("link add {name} {index} type veth {far}\n"),
            Self::Renamed => format!(
                "link add plain0 {index} type veth {far}\n\
                 link set plain0 name {name}\n"
            ),
            Self::Bridge => format!(
                "link add {name} {index} type bridge\n\
                 link add port0 type veth {far}\n\
                 link set port0 master {name}\n\
                 link set port0 up\n"
            ),
            Self::Macvlan => format!(
                "link add link {} name {name} {index} type macvlan\n",
                Topology::UPLINK
            ),
        };
        let lines = format!(
            "{first}{make}\
             link set {name} up\n\
             neigh replace 10.99.0.2 lladdr {FAR} dev {name} nud permanent\n\
             neigh replace fd99::2 lladdr {FAR} dev {name} nud permanent\n\
             route replace 198.51.100.53/32 via 10.99.0.2 dev {name} onlink\n\
             route replace 2001:db8:53::53/128 via fd99::2 dev {name} onlink\n"
        );
        host.ip_batch(&lines).unwrap();
        let end = if self == Self::Macvlan {
            Topology::OBSERVED
        } else {
            isp.ip(&["link", "set", "far0", "up"]).unwrap();
            "far0"
        };
        Observer::new(isp, end, Directions::Incoming).unwrap()
    }

    /// Removes the device.
    pub fn close(self, host: &Netns, name: &str) {
        host.ip(&["link", "del", name]).unwrap();
        if self == Self::Bridge {
            host.ip(&["link", "del", "port0"]).unwrap();
        }
    }
}
