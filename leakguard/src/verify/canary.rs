//! What is sent to see whether it leaves: packets of every class, in every way of sending, each with a text of its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use leakguard_common::abi::Class;

/// How a packet is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// An ordinary datagram socket.
    Udp,
    /// One that is connected.
    Connected,
    /// An ordinary connection.
    Tcp,
    /// A socket that is bound to the uplink (`SO_BINDTODEVICE`).
    Device,
    /// A socket that is bound to the uplink's address.
    Address,
    /// A raw socket that writes the IP header itself.
    Raw,
    /// A packet socket.
    Packet,
    /// A packet socket that bypasses the queueing layer (`PACKET_QDISC_BYPASS`).
    Bypass,
    /// A datagram in two fragments, from a raw socket.
    Fragments,
    /// A later fragment whose first one was never sent, from a packet socket.
    LateFragment,
    /// From a network namespace behind this host, which forwards it.
    Forwarded,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Udp,
        Self::Connected,
        Self::Tcp,
        Self::Device,
        Self::Address,
        Self::Raw,
        Self::Packet,
        Self::Bypass,
        Self::Fragments,
        Self::LateFragment,
        Self::Forwarded,
    ];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Connected => "connected",
            Self::Tcp => "tcp",
            Self::Device => "bound-device",
            Self::Address => "bound-address",
            Self::Raw => "raw",
            Self::Packet => "packet",
            Self::Bypass => "packet-bypass",
            Self::Fragments => "fragments",
            Self::LateFragment => "late-fragment",
            Self::Forwarded => "forwarded",
        }
    }

    /// Whether the interface that it leaves by is chosen by routes alone.
    pub(super) fn follows_routes(self) -> bool {
        matches!(
            self,
            Self::Udp | Self::Connected | Self::Tcp | Self::Forwarded
        )
    }

    /// Whether it can send this.
    fn sends(self, target: Target<'_>, transport: Transport) -> bool {
        let named = matches!(target, Target::Name(_));
        match self {
            Self::Udp | Self::Connected | Self::Address | Self::Fragments | Self::LateFragment => {
                transport == Transport::Udp
            }
            Self::Tcp => transport == Transport::Tcp && !named,
            Self::Device => !named,
            Self::Raw | Self::Packet | Self::Bypass | Self::Forwarded => true,
        }
    }
}

/// What stands behind the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

impl Transport {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// What makes it one of its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target<'known> {
    /// The port; the address is one for documentation.
    Port(u16),
    /// The address of a known resolver.
    Resolvers(&'known Known),
    /// The name in a TLS client's hello.
    Name(&'known str),
}

/// Resolvers of DNS over HTTPS that the enforcement knows too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// One by its IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// One by its IPv6 address.
    pub v6: Option<Ipv6Addr>,
    /// One by its name.
    pub name: Option<String>,
}

/// What identifies a kind of packet, whatever its label: the last part says whether it is a hello.
pub(super) type Kind = (Class, Way, Transport, SocketAddr, bool);

/// What is to be sent.
#[derive(Clone, Debug)]
pub(super) struct Canary {
    pub(super) class: Class,
    pub(super) way: Way,
    pub(super) transport: Transport,
    pub(super) destination: SocketAddr,
    /// What stands in it and nowhere else.
    pub(super) label: String,
    /// The server name of a hello, if it is one.
    pub(super) hello: Option<String>,
}

/// An address for documentation: nobody has it, and no router of the Internet knows a way there.
const NOBODY_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);
const NOBODY_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x6c67, 0, 0, 0, 0, 0x53);

/// A port that nothing has a reason to block.
const HARMLESS: u16 = 9;

/// Where packets go that are not for a known resolver, by family.
pub(super) fn destinations() -> [(&'static str, IpAddr); 2] {
    [("ipv4", NOBODY_V4.into()), ("ipv6", NOBODY_V6.into())]
}

/// Numbers the packets of one run.
#[derive(Clone, Debug)]
pub(super) struct Labels {
    run: String,
    next: u16,
}

impl Labels {
    pub(super) fn new(run: &str) -> Self {
        Self {
            run: run.to_owned(),
            next: 0,
        }
    }

    fn label(&mut self) -> String {
        let label = format!("{}-{:04x}", self.run, self.next);
        self.next = self.next.wrapping_add(1);
        label
    }

    /// Everything to be sent in the given ways.
    pub(super) fn canaries(
        &mut self,
        ways: &[Way],
        classes: &[Class],
        ports: &[u16],
        known: &Known,
    ) -> Vec<Canary> {
        let mut canaries = Vec::new();
        for &way in ways {
            for &class in classes {
                // A later fragment is of no class; one stands for all.
                if way == Way::LateFragment && class != Class::Dns {
                    continue;
                }
                for (transport, target) in targets(class, ports, known) {
                    if !way.sends(target, transport)
                        || way == Way::LateFragment && target != Target::Port(53)
                    {
                        continue;
                    }
                    for ip in [IpAddr::from(NOBODY_V4), NOBODY_V6.into()] {
                        let (ip, port, name) = match target {
                            Target::Port(port) => (ip, port, None),
                            Target::Name(name) => (ip, 443, Some(name)),
                            Target::Resolvers(known) => match known.of_family(ip) {
                                Some(ip) => (ip, 443, None),
                                None => continue,
                            },
                        };
                        let label = self.label();
                        canaries.push(Canary {
                            class,
                            way,
                            transport,
                            destination: SocketAddr::new(ip, port),
                            hello: name.map(|name| format!("{label}.{name}")),
                            label,
                        });
                    }
                }
            }
        }
        canaries
    }

    /// One of each family that may leave.
    pub(super) fn harmless(&mut self, way: Way) -> Vec<Canary> {
        [IpAddr::from(NOBODY_V4), NOBODY_V6.into()]
            .into_iter()
            .map(|ip| Canary {
                class: Class::Dns,
                way,
                transport: Transport::Udp,
                destination: SocketAddr::new(ip, HARMLESS),
                label: self.label(),
                hello: None,
            })
            .collect()
    }
}

impl Known {
    fn of_family(&self, like: IpAddr) -> Option<IpAddr> {
        match like {
            IpAddr::V4(_) => self.v4.map(IpAddr::from),
            IpAddr::V6(_) => self.v6.map(IpAddr::from),
        }
    }
}

/// What a class is made of.
fn targets<'known>(
    class: Class,
    ports: &[u16],
    known: &'known Known,
) -> Vec<(Transport, Target<'known>)> {
    use Transport::{Tcp, Udp};
    let port = Target::Port;
    match class {
        Class::Dns => {
            let further = ports.iter().map(|&number| (Udp, port(number)));
            [(Udp, port(53)), (Tcp, port(53))]
                .into_iter()
                .chain(further)
                .collect()
        }
        Class::Dot => vec![(Tcp, port(853))],
        Class::Doq => vec![(Udp, port(853))],
        Class::Mdns => vec![(Udp, port(5353))],
        Class::Llmnr => vec![(Udp, port(5355)), (Tcp, port(5355))],
        Class::Netbios => vec![(Udp, port(137))],
        Class::Doh => {
            let name = known.name.as_deref().map(|name| (Tcp, Target::Name(name)));
            let address = Target::Resolvers(known);
            [(Tcp, address), (Udp, address)]
                .into_iter()
                .chain(name)
                .collect()
        }
    }
}

impl Canary {
    pub(super) fn family(&self) -> &'static str {
        if self.destination.is_ipv4() {
            "ipv4"
        } else {
            "ipv6"
        }
    }

    /// Whether it may leave.
    pub(super) fn is_harmless(&self) -> bool {
        self.destination.port() == HARMLESS
    }

    /// What it is, whatever its label: the control sends one of each.
    pub(super) fn kind(&self) -> Kind {
        (
            self.class,
            self.way,
            self.transport,
            self.destination,
            self.hello.is_some(),
        )
    }

    /// What stands behind the transport's header.
    pub(super) fn payload(&self) -> Vec<u8> {
        if let Some(name) = &self.hello {
            return hello(name);
        }
        let mut payload = match self.class {
            Class::Dns | Class::Mdns | Class::Llmnr | Class::Netbios => question(&self.label),
            Class::Dot | Class::Doq | Class::Doh => self.label.clone().into_bytes(),
        };
        // Once more at the end: the second of two fragments carries it too.
        payload.resize(payload.len().next_multiple_of(64), 0);
        payload.extend_from_slice(self.label.as_bytes());
        payload
    }
}

/// A question for a name that does not exist.
fn question(label: &str) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    let name = Name::from_ascii(format!("{label}.invalid.")).unwrap_or_default();
    message.add_query(Query::query(name, RecordType::A));
    message.to_vec().unwrap_or_default()
}

/// A TLS client's hello that asks for a name: no session, one cipher suite, one extension.
fn hello(name: &str) -> Vec<u8> {
    let host = [&[0][..], &sized(name.as_bytes())].concat();
    let extension = [&[0, 0][..], &sized(&sized(&host))].concat();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(sized(&extension));
    let message = [&[1, 0][..], &sized(&body)].concat();
    [&[22, 3, 1][..], &sized(&message)].concat()
}

/// Bytes behind their number.
fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], bytes].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        Known {
            v4: Some(Ipv4Addr::new(192, 0, 2, 8)),
            v6: None,
            name: Some("dns.example".into()),
        }
    }

    #[test]
    fn every_way_sends_every_class_that_it_can() {
        let classes = Class::ALL;
        let canaries = Labels::new("lgv-00").canaries(&Way::ALL, classes, &[5300], &known());
        for way in Way::ALL {
            for &class in classes {
                let sent = canaries
                    .iter()
                    .any(|canary| canary.way == way && canary.class == class);
                let expected = match way {
                    Way::Tcp => {
                        matches!(class, Class::Dns | Class::Dot | Class::Llmnr | Class::Doh)
                    }
                    Way::LateFragment => class == Class::Dns,
                    Way::Udp | Way::Connected | Way::Address | Way::Fragments => {
                        class != Class::Dot
                    }
                    _ => true,
                };
                assert_eq!(sent, expected, "{way:?} {class:?}");
            }
        }
        let mut labels: Vec<_> = canaries.iter().map(|canary| &canary.label).collect();
        labels.sort();
        labels.dedup();
        assert_eq!(labels.len(), canaries.len(), "each has a label of its own");
        for canary in &canaries {
            let carried = canary
                .payload()
                .windows(canary.label.len())
                .any(|window| window == canary.label.as_bytes());
            assert!(carried, "{canary:?}");
        }
    }

    #[test]
    fn nothing_is_sent_to_a_resolver_that_is_not_known() {
        let canaries = Labels::new("lgv-00").canaries(&[Way::Raw], &[Class::Doh], &[], &known());
        let destinations: Vec<_> = canaries
            .iter()
            .map(|canary| canary.destination.to_string())
            .collect();
        assert_eq!(
            destinations,
            [
                "192.0.2.8:443",
                "192.0.2.8:443",
                "192.0.2.53:443",
                "[2001:db8:6c67::53]:443"
            ]
        );
    }
}
