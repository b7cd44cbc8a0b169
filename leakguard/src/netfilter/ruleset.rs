//! What the tables should hold, and the text that nft makes it from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use leakguard_common::abi::{Class, Reason};
use leakguard_common::verdict::{ClassPorts, ports};

use super::let_out::{
    COVERED, COVERED_KINDLESS, InterfaceSet, LEASE_SECONDS, LET_OUT, PERMITTED, PERMITTED_KINDLESS,
    keys, write_let_out,
};
use super::nfnetlink::Elements;
use super::{Count, Permitted, State, TABLE, Table};

/// Name of the chain that meets every packet.
pub(super) const FORWARD: &str = "forward";

/// Name of the chain behind it that catches DNS and, where there is a restriction, the rest.
pub(super) const JUDGE: &str = "judge";

/// Name of the set of ports that lead there.
pub(super) const CAUGHT: &str = "caught";

/// The whole of the second net.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ruleset {
    /// What happens to a packet that is caught.
    pub action: Action,
    /// Which packets are caught.
    pub ports: BTreeMap<Class, BTreeSet<(Transport, u16)>>,
    /// Interfaces that packets of these classes may leave by: tunnels and local ones.
    pub permitted: BTreeSet<Permitted>,
    /// Uplinks that are left to their TC program, for 15 seconds after each update.
    pub covered: BTreeSet<Permitted>,
    /// What is caught besides DNS.
    pub restriction: Option<Restriction>,
    /// Whether to catch bridged packets too; off only for kernels without nftables for bridges.
    pub bridge: bool,
}

/// What uplinks carry no forwarded packets of, besides DNS, where no TC program decides.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Restriction {
    /// [`Reason::KillSwitch`] for everything, also while a tunnel is up: only a TC program knows whether one is.
    /// [`Reason::Ipv6`] for IPv6.
    pub reason: Reason,
    /// What may be reached all the same; no prefix overlaps another.
    pub lan: Vec<IpNet>,
}

/// What happens to a packet that is caught.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Count and drop it.
    Drop,
    /// Count it and let it go (observe mode).
    Count,
}

impl Action {
    /// What follows the counter in a rule.
    pub(super) fn verdict(self) -> &'static str {
        match self {
            Self::Drop => " drop",
            Self::Count => "",
        }
    }
}

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Transport {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

impl Ruleset {
    /// A ruleset that catches these classes on their well-known ports, permits nothing yet, and
    /// treats `extra_dns_ports` as DNS.
    pub fn new(
        action: Action,
        classes: impl IntoIterator<Item = Class>,
        extra_dns_ports: &[u16],
    ) -> Self {
        // What the port does not say, the second net does not know.
        let classes = classes.into_iter().filter(|class| ports(*class).is_some());
        let ports = classes.map(|class| {
            let mut ports: BTreeSet<_> = well_known_ports(class).collect();
            if class == Class::Dns {
                for port in extra_dns_ports {
                    ports.extend([(Transport::Tcp, *port), (Transport::Udp, *port)]);
                }
            }
            (class, ports)
        });
        Self {
            action,
            ports: ports.collect(),
            permitted: BTreeSet::new(),
            covered: BTreeSet::new(),
            restriction: None,
            bridge: true,
        }
    }

    /// The batch that replaces the tables, whatever they hold, and goes on counting from `counts`.
    pub(super) fn replacement(&self, counts: &State) -> String {
        let mut text = String::new();
        self.write_table(&mut text, Family::Inet, counts.inet.as_ref());
        if self.bridge {
            self.write_table(&mut text, Family::Bridge, counts.bridge.as_ref());
        }
        text
    }

    /// The batch that changes only the sets of interfaces, and renews the leases.
    pub(super) fn interfaces_update(&self) -> String {
        let mut text = String::new();
        for family in self.families() {
            let family = family.name();
            for InterfaceSet { name, elements, .. } in self.interface_sets() {
                push!(text, "flush set {family} {TABLE} {name}\n");
                if !elements.is_empty() {
                    push!(
                        text,
                        "add element {family} {TABLE} {name} {{ {elements} }}\n"
                    );
                }
            }
        }
        text
    }

    /// The sets of covered interfaces, with what they are to hold.
    pub(super) fn leases(&self) -> [Elements; 2] {
        [(COVERED, false), (COVERED_KINDLESS, true)].map(|(set, kindless)| {
            let of_kind = |interface: &&Permitted| interface.kind().is_none() == kindless;
            let covered = self.covered.iter().filter(of_kind);
            Elements {
                set,
                keys: covered.map(Permitted::key).collect(),
            }
        })
    }

    /// The families that this ruleset has a table in.
    pub(super) fn families(&self) -> impl Iterator<Item = Family> {
        [Family::Inet, Family::Bridge]
            .into_iter()
            .filter(|family| self.bridge || *family == Family::Inet)
    }

    fn write_table(&self, text: &mut String, family: Family, counts: Option<&Table>) {
        let name = family.name();
        let verdict = self.action.verdict();
        text.push_str(&deletion(name));
        push!(text, "table {name} {TABLE} {{\n");
        for reason in self.reasons() {
            let count = counts.and_then(|table| table.counts.get(&reason)).copied();
            text.push_str(&counter(reason, count.unwrap_or_default()));
        }
        for set in self.interface_sets() {
            push!(
                text,
                "\tset {} {{\n\t\ttypeof {}\n",
                set.name,
                keys(set.kindless)
            );
            if set.leased {
                push!(text, "\t\tflags timeout\n\t\ttimeout {LEASE_SECONDS}s\n");
            }
            if !set.elements.is_empty() {
                push!(text, "\t\telements = {{ {} }}\n", set.elements);
            }
            text.push_str("\t}\n");
        }
        // A key of two bytes, without the protocol: the kernel makes a bitmap of that, and nearly every packet is done after
        // one look at it. In a protocol without ports other bytes may look like one; the rules behind ask for the protocol.
        push!(text, "\tset {CAUGHT} {{\n\t\ttypeof th dport\n");
        let all: Vec<_> = self.caught().iter().map(u16::to_string).collect();
        if !all.is_empty() {
            push!(text, "\t\telements = {{ {} }}\n", all.join(", "));
        }
        text.push_str("\t}\n");
        write_let_out(text, family);
        if let Some(restriction) = &self.restriction {
            restriction.write_sets(text);
        }
        push!(text, "\tchain {JUDGE} {{\n\t\tjump {LET_OUT}\n");
        for (class, ports) in self.ports.iter().filter(|(_, ports)| !ports.is_empty()) {
            push!(
                text,
                "\t\tmeta l4proto . th dport {{ {ports} }} counter name \"{class}\"{verdict}\n",
                ports = port_elements(ports),
                class = class.name(),
            );
        }
        if let Some(restriction) = &self.restriction {
            restriction.write(text, family, verdict);
        }
        text.push_str("\t}\n");
        push!(text, "\tchain {FORWARD} {{\n");
        text.push_str("\t\ttype filter hook forward priority filter + 10; policy accept;\n");
        for entry in self.entries() {
            push!(text, "\t\t{}goto {JUDGE}\n", entry.subject(family));
        }
        text.push_str("\t}\n");
        text.push_str("}\n");
    }

    /// What leads to the chain that judges.
    pub(super) fn entries(&self) -> Vec<Entry> {
        match &self.restriction {
            None => vec![Entry::Caught],
            Some(Restriction {
                reason: Reason::Ipv6,
                ..
            }) => vec![Entry::Ipv6, Entry::Caught],
            Some(_) => vec![Entry::Everything],
        }
    }

    /// The ports of all classes, whatever the protocol.
    pub(super) fn caught(&self) -> BTreeSet<u16> {
        let ports = self.ports.values().flatten();
        ports.map(|(_, port)| *port).collect()
    }

    /// What there is a counter for.
    fn reasons(&self) -> impl Iterator<Item = Reason> {
        let restricted = self.restriction.as_ref().map(|found| found.reason);
        self.ports
            .keys()
            .copied()
            .map(Reason::from)
            .chain(restricted)
    }

    fn interface_sets(&self) -> [InterfaceSet; 4] {
        [
            InterfaceSet::new(PERMITTED, &self.permitted, false, false),
            InterfaceSet::new(PERMITTED_KINDLESS, &self.permitted, true, false),
            InterfaceSet::new(COVERED, &self.covered, false, true),
            InterfaceSet::new(COVERED_KINDLESS, &self.covered, true, true),
        ]
    }
}

impl Restriction {
    /// The prefixes of one IP version, with the name of their set and of the protocol in nft.
    pub(super) fn lans(&self) -> [(&'static str, &'static str, Vec<IpNet>); 2] {
        let of = |wanted: fn(&IpAddr) -> bool| {
            let prefixes = self.lan.iter().copied();
            prefixes.filter(|net| wanted(&net.addr())).collect()
        };
        [
            ("lan4", "ip", of(IpAddr::is_ipv4)),
            ("lan6", "ip6", of(IpAddr::is_ipv6)),
        ]
    }

    fn write_sets(&self, text: &mut String) {
        for (set, protocol, prefixes) in self.lans() {
            if !prefixes.is_empty() {
                let elements: Vec<_> = prefixes.iter().map(IpNet::to_string).collect();
                push!(
                    text,
                    "\tset {set} {{\n\t\ttypeof {protocol} daddr\n\t\tflags interval\n\t\telements = {{ {} }}\n\t}}\n",
                    elements.join(", ")
                );
            }
        }
    }

    /// The rules behind those of DNS, which no exemption opens.
    fn write(&self, text: &mut String, family: Family, verdict: &str) {
        for (set, protocol, prefixes) in self.lans() {
            if !prefixes.is_empty() {
                push!(text, "\t\t{protocol} daddr @{set} accept\n");
            }
        }
        let subject = match (self.reason, family) {
            (Reason::Ipv6, _) => Entry::Ipv6.subject(family),
            (_, Family::Inet) => "",
            // ARP and the like are not what is restricted.
            (_, Family::Bridge) => "meta protocol { ip, ip6 } ",
        };
        push!(
            text,
            "\t\t{subject}counter name \"{}\"{verdict}\n",
            self.reason.name()
        );
    }
}

/// What leads to the chain that judges.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Entry {
    /// A port that may be one of DNS.
    Caught,
    /// IPv6.
    Ipv6,
    /// Whatever is forwarded.
    Everything,
}

impl Entry {
    /// What the rule asks.
    fn subject(self, family: Family) -> &'static str {
        match (self, family) {
            (Self::Caught, _) => "th dport @caught ",
            (Self::Ipv6, Family::Inet) => "meta nfproto ipv6 ",
            (Self::Ipv6, Family::Bridge) => "meta protocol ip6 ",
            (Self::Everything, _) => "",
        }
    }
}

/// A counter of a table, with what it has counted already.
pub(super) fn counter(reason: Reason, Count { packets, bytes }: Count) -> String {
    let name = reason.name();
    format!("\tcounter {name} {{ packets {packets} bytes {bytes} }}\n")
}

/// The batch that deletes one table, also if it does not exist.
pub(super) fn deletion(family: &str) -> String {
    format!("add table {family} {TABLE}\ndelete table {family} {TABLE}\n")
}

/// An nftables family that has a table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Family {
    Inet,
    Bridge,
}

impl Family {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Bridge => "bridge",
        }
    }
}

fn well_known_ports(class: Class) -> impl Iterator<Item = (Transport, u16)> {
    ports(class)
        .into_iter()
        .flat_map(|ClassPorts { port, tcp, udp }| {
            [(tcp, Transport::Tcp), (udp, Transport::Udp)]
                .into_iter()
                .filter_map(move |(counts, transport)| counts.then_some((transport, port)))
        })
}

impl Transport {
    pub(super) const ALL: [Self; 2] = [Self::Udp, Self::Tcp];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

fn port_elements(ports: &BTreeSet<(Transport, u16)>) -> String {
    let elements: Vec<_> = ports
        .iter()
        .map(|(transport, port)| format!("{} . {port}", transport.name()))
        .collect();
    elements.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ruleset() -> Ruleset {
        let mut ruleset = Ruleset::new(Action::Drop, [Class::Dns, Class::Dot], &[5300]);
        let interface = |ifindex, name, kind| Permitted::new(ifindex, name, kind).unwrap();
        ruleset.permitted = BTreeSet::from([
            interface(1, "lo", None),
            interface(7, "wg0", Some("wireguard")),
            interface(8, "br0", Some("bridge")),
        ]);
        ruleset.covered.insert(interface(2, "eth0", None));
        ruleset
    }

    #[test]
    fn the_text_is_one_batch_that_replaces_both_tables() {
        let mut inet = Table::default();
        inet.counts.insert(
            Reason::Dot,
            Count {
                packets: 3,
                bytes: 180,
            },
        );
        let counts = State {
            inet: Some(inet),
            bridge: None,
        };
        let expected = "\
add table inet leakguard
delete table inet leakguard
table inet leakguard {
	counter dns { packets 0 bytes 0 }
	counter dot { packets 3 bytes 180 }
	set permitted {
		typeof oif . oifname . meta oifkind
		elements = { 7 . \"wg0\" . \"wireguard\", 8 . \"br0\" . \"bridge\" }
	}
	set permitted_kindless {
		typeof oif . oifname
		elements = { 1 . \"lo\" }
	}
	set covered {
		typeof oif . oifname . meta oifkind
		flags timeout
		timeout 15s
	}
	set covered_kindless {
		typeof oif . oifname
		flags timeout
		timeout 15s
		elements = { 2 . \"eth0\" }
	}
	set caught {
		typeof th dport
		elements = { 53, 853, 5300 }
	}
	chain let_out {
		oif . oifname . meta oifkind @permitted accept
		oif . oifname . meta oifkind @covered accept
		rt ipsec exists accept
		meta oifkind != \"-\" return
		oif . oifname @permitted_kindless accept
		oif . oifname @covered_kindless accept
	}
	chain judge {
		jump let_out
		meta l4proto . th dport { tcp . 53, tcp . 5300, udp . 53, udp . 5300 } counter name \"dns\" drop
		meta l4proto . th dport { tcp . 853 } counter name \"dot\" drop
	}
	chain forward {
		type filter hook forward priority filter + 10; policy accept;
		th dport @caught goto judge
	}
}
add table bridge leakguard
delete table bridge leakguard
table bridge leakguard {
	counter dns { packets 0 bytes 0 }
	counter dot { packets 0 bytes 0 }
	set permitted {
		typeof oif . oifname . meta oifkind
		elements = { 7 . \"wg0\" . \"wireguard\", 8 . \"br0\" . \"bridge\" }
	}
	set permitted_kindless {
		typeof oif . oifname
		elements = { 1 . \"lo\" }
	}
	set covered {
		typeof oif . oifname . meta oifkind
		flags timeout
		timeout 15s
	}
	set covered_kindless {
		typeof oif . oifname
		flags timeout
		timeout 15s
		elements = { 2 . \"eth0\" }
	}
	set caught {
		typeof th dport
		elements = { 53, 853, 5300 }
	}
	chain let_out {
		oif . oifname . meta oifkind @permitted accept
		oif . oifname . meta oifkind @covered accept
		meta oifkind != \"-\" return
		oif . oifname @permitted_kindless accept
		oif . oifname @covered_kindless accept
	}
	chain judge {
		jump let_out
		meta l4proto . th dport { tcp . 53, tcp . 5300, udp . 53, udp . 5300 } counter name \"dns\" drop
		meta l4proto . th dport { tcp . 853 } counter name \"dot\" drop
	}
	chain forward {
		type filter hook forward priority filter + 10; policy accept;
		th dport @caught goto judge
	}
}
";
        assert_eq!(ruleset().replacement(&counts), expected);
    }

    #[test]
    fn a_restriction_comes_behind_dns() {
        let lan = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap());
        let restricted = |reason, lan: &[IpNet]| {
            let restriction = Some(Restriction {
                reason,
                lan: lan.to_vec(),
            });
            let ruleset = Ruleset {
                restriction,
                ..ruleset()
            };
            let text = ruleset.replacement(&State::default());
            let tails: Vec<String> = text
                .split("counter name \"dot\" drop\n")
                .skip(1)
                .map(|part| part.split_once("\n}\n").unwrap().0.to_owned())
                .collect();
            assert_eq!(tails.len(), 2, "{text}");
            (text, tails)
        };
        let hook = "\tchain forward {\n\t\ttype filter hook forward priority filter + 10; policy accept;\n";
        let (text, tails) = restricted(Reason::KillSwitch, &lan);
        assert!(text.contains("\tcounter kill_switch { packets 0 bytes 0 }\n"));
        assert!(text.contains(
            "\tset lan6 {\n\t\ttypeof ip6 daddr\n\t\tflags interval\n\t\telements = { fd00::/8 }\n\t}\n"
        ));
        let exempt = "\t\tip daddr @lan4 accept\n\t\tip6 daddr @lan6 accept\n";
        let rest = format!("counter name \"kill_switch\" drop\n\t}}\n{hook}\t\tgoto judge\n\t}}");
        assert_eq!(tails[0], format!("{exempt}\t\t{rest}"));
        assert_eq!(
            tails[1],
            format!("{exempt}\t\tmeta protocol {{ ip, ip6 }} {rest}")
        );
        let (text, tails) = restricted(Reason::Ipv6, &[]);
        assert!(!text.contains("set lan"));
        for (tail, subject) in tails.iter().zip(["meta nfproto ipv6", "meta protocol ip6"]) {
            assert_eq!(
                *tail,
                format!(
                    "\t\t{subject} counter name \"ipv6\" drop\n\t}}\n\
                     {hook}\t\t{subject} goto judge\n\t\tth dport @caught goto judge\n\t}}"
                )
            );
        }
    }

    #[test]
    fn observing_counts_and_does_not_drop() {
        let text = Ruleset {
            action: Action::Count,
            ..ruleset()
        }
        .replacement(&State::default());
        assert!(text.contains("counter name \"dns\"\n"));
        assert!(!text.contains("drop"));
    }

    #[test]
    fn an_update_touches_the_sets_of_interfaces_only() {
        let update = |family| {
            format!(
                "flush set {family} leakguard permitted\n\
                 add element {family} leakguard permitted \
                 {{ 7 . \"wg0\" . \"wireguard\", 8 . \"br0\" . \"bridge\" }}\n\
                 flush set {family} leakguard permitted_kindless\n\
                 add element {family} leakguard permitted_kindless {{ 1 . \"lo\" }}\n\
                 flush set {family} leakguard covered\n\
                 flush set {family} leakguard covered_kindless\n\
                 add element {family} leakguard covered_kindless {{ 2 . \"eth0\" }}\n"
            )
        };
        assert_eq!(
            ruleset().interfaces_update(),
            ["inet", "bridge"].map(update).concat()
        );
        let nothing = Ruleset {
            permitted: BTreeSet::new(),
            covered: BTreeSet::new(),
            bridge: false,
            ..ruleset()
        };
        assert_eq!(
            nothing.interfaces_update(),
            "flush set inet leakguard permitted\n\
             flush set inet leakguard permitted_kindless\n\
             flush set inet leakguard covered\n\
             flush set inet leakguard covered_kindless\n"
        );
    }
}
