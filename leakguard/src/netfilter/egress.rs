//! The netdev table: DNS of local sockets that leaves by an uplink past TC.
//!
//! A packet socket with `PACKET_QDISC_BYPASS` skips TC, but not netfilter's egress hook (`packet_xmit` in
//! `net/packet/af_packet.c`, 5.16 and later). Its owner chooses what netfilter takes for the protocol and for the place of
//! the headers, so that no rule may ask for either: each looks at fixed places behind the network header, which the kernel
//! itself puts behind the device's own header. A VLAN tag that the sender has written may come first there.
//!
//! The hook comes before TC for every packet. Forwarded packets have no socket and are left to TC, which reports them.

use std::collections::{BTreeMap, BTreeSet};

use leakguard_common::abi::{Class, Reason};
use leakguard_common::packet::protocol;
use serde_json::Value;

use super::ruleset::{Ruleset, counter, deletion};
use super::state::{action, count, elements};
use super::{Action, Count, Permitted, TABLE, Transport};

/// The nftables family.
pub(super) const FAMILY: &str = "netdev";

/// The chain that every uplink's chain leads to.
const JUDGE: &str = "judge";

/// What the names of the uplinks' chains begin with; the interface's number follows.
const UPLINK: &str = "uplink_";

/// `(uid_t)-1`, which no socket has: being compared with it takes a socket, and a process that holds it.
const NO_UID: u32 = u32::MAX;

/// A VLAN tag, in bits.
const TAG: u32 = 32;

const VLAN: [u32; 2] = [0x8100, 0x88a8];
const IPV4: u32 = 0x0800;
const IPV6: u32 = 0x86dd;

/// The transports whose ports count as UDP's do, and as TCP's.
const LIKE_UDP: [u8; 2] = [protocol::UDP, protocol::UDP_LITE];
const LIKE_TCP: [u8; 3] = [protocol::TCP, protocol::DCCP, protocol::SCTP];

/// IPv6 extension headers that begin with the next header's number and their own length.
const EXTENSIONS: [u8; 3] = [0, 43, 60];
const FRAGMENT: u8 = 44;

/// The longest extension header that ports are looked for behind, in units of 8 bytes without the first.
const LONGEST_EXTENSION: u32 = 7;

/// What the netdev table should do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Egress {
    action: Action,
    ports: BTreeMap<Class, BTreeSet<(Transport, u16)>>,
    uplinks: BTreeSet<Permitted>,
}

/// The netdev table as it is in the kernel.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct EgressTable {
    /// What was caught so far, by reason.
    pub counts: BTreeMap<Reason, Count>,
    /// What each chain is attached to, as nft writes it.
    devices: BTreeMap<String, String>,
    /// The rules of each chain; `None` for one that is not ours.
    chains: BTreeMap<String, Vec<Option<Rule>>>,
}

/// A rule, in the form that both nft's text and its listing are made from.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Rule {
    fields: Vec<Field>,
    then: Then,
}

/// Bits behind the network header, and what they have to be.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Field {
    offset: u32,
    length: u32,
    values: BTreeSet<u32>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Then {
    Jump(String),
    Goto(String),
    /// Packets of local sockets only.
    Catch(Reason, Action),
}

impl Egress {
    /// What catches the same as a ruleset does, on these uplinks.
    pub fn new(ruleset: &Ruleset, uplinks: BTreeSet<Permitted>) -> Self {
        Self {
            action: ruleset.action,
            ports: ruleset.ports.clone(),
            uplinks,
        }
    }

    /// The batch that replaces the table, whatever it holds, and goes on counting.
    pub(super) fn replacement(&self, present: Option<&EgressTable>) -> String {
        let mut text = deletion(FAMILY);
        push!(text, "table {FAMILY} {TABLE} {{\n");
        for reason in self.reasons() {
            let counts = present.and_then(|table| table.counts.get(&reason));
            text.push_str(&counter(reason, counts.copied().unwrap_or_default()));
        }
        for (name, rules) in self.chains() {
            push!(text, "\tchain {name} {{\n");
            for rule in rules {
                push!(text, "\t\t{}\n", rule.text());
            }
            text.push_str("\t}\n");
        }
        for uplink in &self.uplinks {
            push!(
                text,
                "\tchain {} {{\n\t\ttype filter hook egress device \"{}\" priority filter; policy accept;\n\
                 \t\tjump {JUDGE}\n\t}}\n",
                chain_of(uplink),
                uplink.name()
            );
        }
        text.push_str("}\n");
        text
    }

    fn reasons(&self) -> impl Iterator<Item = Reason> {
        let classes = self.ports.keys().copied().map(Reason::from);
        classes.chain([Reason::Malformed])
    }

    /// The chains that are attached to nothing, by name.
    fn chains(&self) -> BTreeMap<String, Vec<Rule>> {
        let mut chains = BTreeMap::new();
        let mut judge = Vec::new();
        for tags in 0..=2 {
            let at = tags * TAG;
            for (kind, first_bytes) in [(IPV4, 0x45..=0x4f), (IPV6, 0x60..=0x6f)] {
                // What the sender has written: the last tag says what follows. Without one, only the version does.
                let mut fields: Vec<Field> = (0..tags)
                    .map(|tag| {
                        let last = tag + 1 == tags;
                        let kinds = if last { vec![kind] } else { VLAN.to_vec() };
                        Field::new(tag * TAG + 16, 16, kinds)
                    })
                    .collect();
                fields.push(Field::new(at, 8, first_bytes));
                let chain = if kind == IPV4 {
                    self.ipv4(at, &mut chains)
                } else {
                    self.ipv6(at, &mut chains)
                };
                judge.push(Rule::new(fields, Then::Jump(chain)));
            }
        }
        let many_tags = [16, 48].map(|offset| Field::new(offset, 16, VLAN));
        judge.push(self.malformed(many_tags.to_vec()));
        chains.insert(JUDGE.to_owned(), judge);
        chains
    }

    /// The chain for an IPv4 header at a place.
    fn ipv4(&self, at: u32, chains: &mut BTreeMap<String, Vec<Rule>>) -> String {
        // Later fragments have no ports. The three flags may be anything.
        let first_fragment = || Field::new(at + 48, 16, (0..8).map(|flags| flags << 13));
        let mut rules = Vec::new();
        for transport in Transport::ALL {
            let by_length = (5..=15_u32).map(|words| {
                let length = Field::new(at, 8, [0x40 | words]);
                let ports = self.ports_at(transport, at + words * 32, chains);
                Rule::new(vec![length], Then::Goto(ports))
            });
            let by_length = by_length.collect();
            let name = format!("{}4_{at}", transport.name());
            chains.insert(name.clone(), by_length);
            let fields = vec![transport_at(transport, at + 72), first_fragment()];
            rules.push(Rule::new(fields, Then::Goto(name)));
        }
        let name = format!("ip4_{at}");
        chains.insert(name.clone(), rules);
        name
    }

    /// The chain for an IPv6 header at a place.
    fn ipv6(&self, at: u32, chains: &mut BTreeMap<String, Vec<Rule>>) -> String {
        let next = at + 48;
        let behind = at + 320;
        let mut rules: Vec<Rule> = Transport::ALL
            .into_iter()
            .map(|transport| {
                let ports = self.ports_at(transport, behind, chains);
                let field = transport_at(transport, next);
                Rule::new(vec![field], Then::Goto(ports))
            })
            .collect();
        let extension = self.extension(behind, chains);
        let field = Field::new(next, 8, EXTENSIONS.map(u32::from));
        rules.push(Rule::new(vec![field], Then::Goto(extension)));
        let fragment = self.fragment(behind, chains);
        let field = Field::new(next, 8, [u32::from(FRAGMENT)]);
        rules.push(Rule::new(vec![field], Then::Goto(fragment)));
        let name = format!("ip6_{at}");
        chains.insert(name.clone(), rules);
        name
    }

    /// The chain for an extension header at a place: ports behind it are looked for, another such header is not.
    fn extension(&self, at: u32, chains: &mut BTreeMap<String, Vec<Rule>>) -> String {
        let mut rules = vec![self.malformed(vec![another_extension(at)])];
        for length in 0..=LONGEST_EXTENSION {
            for transport in Transport::ALL {
                let ports = self.ports_at(transport, at + (length + 1) * 64, chains);
                let fields = vec![transport_at(transport, at), Field::new(at + 8, 8, [length])];
                rules.push(Rule::new(fields, Then::Goto(ports)));
            }
        }
        // A longer one.
        for transport in Transport::ALL {
            rules.push(self.malformed(vec![transport_at(transport, at)]));
        }
        let name = format!("extension_{at}");
        chains.insert(name.clone(), rules);
        name
    }

    /// The chain for a fragment header at a place.
    fn fragment(&self, at: u32, chains: &mut BTreeMap<String, Vec<Rule>>) -> String {
        // The lower three bits are flags.
        let first = || Field::new(at + 16, 16, 0..8);
        let mut rules: Vec<Rule> = Transport::ALL
            .into_iter()
            .map(|transport| {
                let ports = self.ports_at(transport, at + 64, chains);
                Rule::new(
                    vec![transport_at(transport, at), first()],
                    Then::Goto(ports),
                )
            })
            .collect();
        rules.push(self.malformed(vec![another_extension(at), first()]));
        let name = format!("fragment_{at}");
        chains.insert(name.clone(), rules);
        name
    }

    /// The chain for a transport header at a place.
    fn ports_at(
        &self,
        transport: Transport,
        at: u32,
        chains: &mut BTreeMap<String, Vec<Rule>>,
    ) -> String {
        let name = format!("{}_{at}", transport.name());
        chains.entry(name.clone()).or_insert_with(|| {
            let classes = self.ports.iter().map(|(class, ports)| {
                let ports = ports.iter().filter(|(counts, _)| *counts == transport);
                (class, ports.map(|(_, port)| u32::from(*port)).collect())
            });
            classes
                .filter(|(_, ports): &(_, BTreeSet<u32>)| !ports.is_empty())
                .map(|(class, ports)| {
                    let destination = Field::new(at + 16, 16, ports);
                    Rule::new(vec![destination], Then::Catch((*class).into(), self.action))
                })
                .collect()
        });
        name
    }

    fn malformed(&self, fields: Vec<Field>) -> Rule {
        Rule::new(fields, Then::Catch(Reason::Malformed, self.action))
    }
}

fn chain_of(uplink: &Permitted) -> String {
    format!("{UPLINK}{}", uplink.ifindex())
}

fn transport_at(transport: Transport, offset: u32) -> Field {
    let numbers = match transport {
        Transport::Udp => LIKE_UDP.as_slice(),
        Transport::Tcp => LIKE_TCP.as_slice(),
    };
    Field::new(offset, 8, numbers.iter().copied().map(u32::from))
}

fn another_extension(offset: u32) -> Field {
    let numbers = EXTENSIONS.into_iter().chain([FRAGMENT]);
    Field::new(offset, 8, numbers.map(u32::from))
}

impl EgressTable {
    /// Whether the kernel does exactly this.
    pub fn satisfies(&self, egress: &Egress) -> bool {
        self.has_rules(egress) && self.lacking(&egress.uplinks).is_empty() && {
            self.devices.len() == egress.uplinks.len()
        }
    }

    /// Whether its chains hold the right rules, whatever they are attached to.
    pub fn has_rules(&self, egress: &Egress) -> bool {
        let chains = egress.chains();
        let held = self
            .chains
            .iter()
            .filter(|(name, _)| !name.starts_with(UPLINK));
        held.clone().count() == chains.len()
            && held.into_iter().all(|(name, rules)| {
                chains.get(name).is_some_and(|wanted| {
                    rules.iter().flatten().eq(wanted) && !rules.contains(&None)
                })
            })
    }

    /// The uplinks that no chain is attached to.
    pub fn lacking<'a>(&self, uplinks: &'a BTreeSet<Permitted>) -> Vec<&'a Permitted> {
        let jump = [Some(Rule::new(Vec::new(), Then::Jump(JUDGE.to_owned())))];
        let is_attached = |uplink: &&Permitted| {
            let chain = chain_of(uplink);
            let name = uplink.name();
            // As they are given, and as versions of nft list them.
            let forms = [
                format!("device \"{name}\""),
                format!("devices = {{ \"{name}\" }}"),
                format!("devices = {{ {name} }}"),
            ];
            self.devices
                .get(&chain)
                .is_some_and(|found| forms.contains(found))
                && self.chains.get(&chain).is_some_and(|rules| *rules == jump)
        };
        uplinks
            .iter()
            .filter(|uplink| !is_attached(uplink))
            .collect()
    }

    /// Reads a listing as JSON, which has the rules, and one as text: nft 1.0.6 leaves the devices out of the former.
    pub(super) fn parse(listing: &str, text: &str) -> Result<Self, serde_json::Error> {
        let listing: Value = serde_json::from_str(listing)?;
        let mut table = Self {
            devices: devices(text),
            ..Self::default()
        };
        for object in elements(&listing["nftables"]) {
            table.counts.extend(count(&object["counter"]));
            let chain = &object["chain"];
            if let Some(name) = chain["name"].as_str() {
                table.chains.entry(name.to_owned()).or_default();
            }
            let rule = &object["rule"];
            if let Some(name) = rule["chain"].as_str() {
                let rules = table.chains.entry(name.to_owned()).or_default();
                rules.push(Rule::parse(&rule["expr"]));
            }
        }
        Ok(table)
    }
}

/// What the chains at the egress hook are attached to.
fn devices(text: &str) -> BTreeMap<String, String> {
    let own = format!("table {FAMILY} {TABLE} {{");
    let mut chain = None;
    let mut devices = BTreeMap::new();
    let lines = text.lines().skip_while(|line| *line != own);
    for line in lines.take_while(|line| *line != "}").map(str::trim) {
        if let Some(name) = line.strip_prefix("chain ") {
            chain = name.strip_suffix(" {");
        }
        if let Some(hooked) = line.strip_prefix("type filter hook egress ")
            && let (Some(chain), Some((device, _))) = (chain, hooked.split_once(" priority "))
        {
            devices.insert(chain.to_owned(), device.to_owned());
        }
    }
    devices
}

impl Rule {
    fn new(fields: Vec<Field>, then: Then) -> Self {
        Self { fields, then }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for Field {
            offset,
            length,
            values,
        } in &self.fields
        {
            let values: Vec<_> = values.iter().map(u32::to_string).collect();
            push!(text, "@nh,{offset},{length} {{ {} }} ", values.join(", "));
        }
        match &self.then {
            Then::Jump(chain) => push!(text, "jump {chain}"),
            Then::Goto(chain) => push!(text, "goto {chain}"),
            Then::Catch(reason, action) => push!(
                text,
                "meta skuid != {NO_UID} counter name \"{}\"{}",
                reason.name(),
                action.verdict()
            ),
        }
        text
    }

    /// Reads a rule of a listing; `None` if it is not of this form.
    fn parse(expressions: &Value) -> Option<Self> {
        let expressions: Vec<_> = elements(expressions).collect();
        let matches = expressions
            .iter()
            .take_while(|expression| !expression["match"]["left"]["payload"].is_null());
        let fields: Vec<_> = matches
            .map(|expression| Field::parse(&expression["match"]))
            .collect::<Option<_>>()?;
        let then = match expressions.get(fields.len()..)? {
            [then] => match (
                then["jump"]["target"].as_str(),
                then["goto"]["target"].as_str(),
            ) {
                (Some(chain), None) => Then::Jump(chain.to_owned()),
                (None, Some(chain)) => Then::Goto(chain.to_owned()),
                _ => return None,
            },
            [has_socket, statements @ ..] => {
                let has_socket = &has_socket["match"];
                if has_socket["op"] != "!="
                    || has_socket["left"]["meta"]["key"] != "skuid"
                    || has_socket["right"] != NO_UID
                {
                    return None;
                }
                let reason = statements.first()?["counter"].as_str()?;
                Then::Catch(Reason::from_name(reason)?, action(statements)?)
            }
            [] => return None,
        };
        Some(Self::new(fields, then))
    }
}

impl Field {
    fn new(offset: u32, length: u32, values: impl IntoIterator<Item = u32>) -> Self {
        Self {
            offset,
            length,
            values: values.into_iter().collect(),
        }
    }

    fn parse(comparison: &Value) -> Option<Self> {
        let payload = &comparison["left"]["payload"];
        if comparison["op"] != "==" || payload["base"] != "nh" {
            return None;
        }
        let number = |value: &Value| u32::try_from(value.as_u64()?).ok();
        let right = &comparison["right"];
        let values = match &right["set"] {
            // nft turns a set of one element into a plain comparison.
            Value::Null => BTreeSet::from([number(right)?]),
            set => elements(set).map(number).collect::<Option<_>>()?,
        };
        Some(Self {
            offset: number(&payload["offset"])?,
            length: number(&payload["len"])?,
            values,
        })
    }
}

#[cfg(test)]
#[path = "egress_tests.rs"]
mod tests;
