//! What the kernel really holds, out of `nft -j list table`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use leakguard_common::abi::{Class, Reason};

use super::let_out::{COVERED, COVERED_KINDLESS, LET_OUT, NO_KIND, PERMITTED, PERMITTED_KINDLESS};
use super::ruleset::{CAUGHT, Entry, FORWARD, Family, JUDGE};
use super::{Action, Permitted, Restriction, Ruleset, Transport};

/// The tables that exist.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct State {
    /// For routed packets.
    pub inet: Option<Table>,
    /// For bridged packets.
    pub bridge: Option<Table>,
}

impl State {
    /// Whether the kernel does exactly what the ruleset says.
    pub fn satisfies(&self, ruleset: &Ruleset) -> bool {
        ruleset.families().all(|family| {
            let table = match family {
                Family::Inet => &self.inet,
                Family::Bridge => &self.bridge,
            };
            table
                .as_ref()
                .is_some_and(|table| table.satisfies(ruleset, family))
        })
    }
}

/// One table as it is in the kernel.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Table {
    /// What was caught so far, by reason.
    pub counts: BTreeMap<Reason, Count>,
    /// Interfaces that are permitted; one that no longer exists is left out.
    pub permitted: BTreeSet<Permitted>,
    /// Uplinks that are left to their TC program now.
    pub covered: BTreeSet<Permitted>,
    /// The ports in the set that decides whether a packet is looked at.
    caught: BTreeSet<u16>,
    /// The sets of prefixes that are let out, by name.
    lans: BTreeMap<String, BTreeSet<IpNet>>,
    let_out: Chain,
    judge: Chain,
    forward: Chain,
}

/// One chain of the table.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Chain {
    /// Whether it is attached to the forward hook.
    hooked: bool,
    rules: Vec<Rule>,
}

/// How much was caught.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// A rule of the chain, as far as it is one of ours.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Rule {
    /// Goes to the chain that judges.
    Judge(Entry),
    /// Goes through the chain that lets out.
    LetOut,
    /// Accepts what leaves by the interfaces of a set.
    Accept(InterfaceSet),
    SkipIpsec,
    /// Whatever has a kind is done with the chain.
    SkipKinds,
    Catch {
        class: Class,
        ports: BTreeSet<(Transport, u16)>,
        action: Action,
    },
    /// To the prefixes of a set.
    Lan(String),
    Restrict {
        subject: Subject,
        reason: Reason,
        action: Action,
    },
    Foreign,
}

/// A set of interfaces, by number and name and, but for those without one, kind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum InterfaceSet {
    Permitted,
    PermittedKindless,
    Covered,
    CoveredKindless,
}

/// What a restriction is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Subject {
    Everything,
    Ip,
    Ipv6,
}

impl Table {
    /// What happens to packets of a class that leave by an interface that is not permitted; `None`
    /// if nothing does.
    pub fn action(&self, class: Class) -> Option<Action> {
        if !self.is_entered(&[Entry::Caught, Entry::Everything]) {
            return None;
        }
        self.judge.rules.iter().find_map(|rule| match rule {
            Rule::Catch {
                class: caught,
                action,
                ..
            } if *caught == class => Some(*action),
            _ => None,
        })
    }

    /// What happens to the rest that is not permitted, and why; `None` if nothing does.
    pub fn restriction(&self) -> Option<(Reason, Action)> {
        match self.judge.rules.last() {
            Some(Rule::Restrict { reason, action, .. })
                if self.is_entered(&[Entry::Ipv6, Entry::Everything]) =>
            {
                Some((*reason, *action))
            }
            _ => None,
        }
    }

    /// Whether one of these leads from the hook to the chain that judges.
    fn is_entered(&self, entries: &[Entry]) -> bool {
        let Chain { hooked, rules } = &self.forward;
        let leads = |rule: &Rule| matches!(rule, Rule::Judge(entry) if entries.contains(entry));
        *hooked && rules.iter().any(leads)
    }

    /// Reads a listing; `resolve` gives the number of an interface by its name.
    pub(super) fn parse(
        listing: &str,
        resolve: impl Fn(&str) -> Option<u32>,
    ) -> Result<Self, serde_json::Error> {
        let listing: Value = serde_json::from_str(listing)?;
        let mut table = Self::default();
        for object in elements(&listing["nftables"]) {
            table.counts.extend(count(&object["counter"]));
            let chain = &object["chain"];
            if let Some(named) = table.chain(&chain["name"]) {
                named.hooked = chain["hook"] == "forward" && chain["type"] == "filter";
            }
            let set = &object["set"];
            match set["name"].as_str() {
                Some(PERMITTED | PERMITTED_KINDLESS) => {
                    table.permitted.extend(interfaces(set, &resolve));
                }
                Some(COVERED | COVERED_KINDLESS) => {
                    table.covered.extend(interfaces(set, &resolve));
                }
                Some(CAUGHT) => {
                    let ports = elements(&set["elem"]).filter_map(Value::as_u64);
                    table.caught = ports.filter_map(|port| port.try_into().ok()).collect();
                }
                Some(name) => {
                    let prefixes = elements(&set["elem"]).filter_map(prefix).collect();
                    table.lans.insert(name.to_owned(), prefixes);
                }
                None => {}
            }
            let rule = &object["rule"];
            if let Some(chain) = table.chain(&rule["chain"]) {
                chain.rules.push(Rule::parse(&rule["expr"]));
            }
        }
        Ok(table)
    }

    fn chain(&mut self, name: &Value) -> Option<&mut Chain> {
        match name.as_str()? {
            LET_OUT => Some(&mut self.let_out),
            JUDGE => Some(&mut self.judge),
            FORWARD => Some(&mut self.forward),
            _ => None,
        }
    }

    fn satisfies(&self, ruleset: &Ruleset, family: Family) -> bool {
        let Ruleset {
            action,
            ports,
            permitted,
            covered,
            restriction,
            bridge: _,
        } = ruleset;
        let mut rules = vec![Rule::LetOut];
        rules.extend(
            ports
                .iter()
                .filter(|(_, ports)| !ports.is_empty())
                .map(|(class, ports)| Rule::Catch {
                    class: *class,
                    ports: ports.clone(),
                    action: *action,
                }),
        );
        let (restrict, lans) = match restriction {
            Some(restriction) => restricting(restriction, *action, family),
            None => Default::default(),
        };
        rules.extend(restrict);
        let judge = Chain {
            hooked: false,
            rules,
        };
        let forward = Chain {
            hooked: true,
            rules: ruleset.entries().into_iter().map(Rule::Judge).collect(),
        };
        self.forward == forward
            && self.judge == judge
            && self.let_out == let_out(family)
            && self.permitted == *permitted
            // Leases that nobody renews end by themselves.
            && (covered.is_empty() || self.covered == *covered)
            && self.caught == ruleset.caught()
            && self.lans == lans
    }
}

/// The rules of a restriction, and the sets that they ask.
fn restricting(
    restriction: &Restriction,
    action: Action,
    family: Family,
) -> (Vec<Rule>, BTreeMap<String, BTreeSet<IpNet>>) {
    let reason = restriction.reason;
    let lans: BTreeMap<String, BTreeSet<IpNet>> = restriction
        .lans()
        .into_iter()
        .filter(|(_, _, prefixes)| !prefixes.is_empty())
        .map(|(set, _, prefixes)| (set.to_owned(), prefixes.into_iter().collect()))
        .collect();
    let mut rules: Vec<_> = lans.keys().cloned().map(Rule::Lan).collect();
    rules.push(Rule::Restrict {
        subject: match (reason, family) {
            (Reason::Ipv6, _) => Subject::Ipv6,
            (_, Family::Inet) => Subject::Everything,
            (_, Family::Bridge) => Subject::Ip,
        },
        reason,
        action,
    });
    (rules, lans)
}

/// The chain of what is permitted or left to others.
fn let_out(family: Family) -> Chain {
    let mut rules = vec![
        Rule::Accept(InterfaceSet::Permitted),
        Rule::Accept(InterfaceSet::Covered),
    ];
    if family == Family::Inet {
        rules.push(Rule::SkipIpsec);
    }
    rules.extend([
        Rule::SkipKinds,
        Rule::Accept(InterfaceSet::PermittedKindless),
        Rule::Accept(InterfaceSet::CoveredKindless),
    ]);
    Chain {
        hooked: false,
        rules,
    }
}

impl Rule {
    fn parse(expressions: &Value) -> Self {
        let expressions: Vec<_> = elements(expressions).collect();
        let Some(first) = expressions.first() else {
            return Self::Foreign;
        };
        let rest = &expressions;
        if rest.len() == 1 && first["jump"]["target"] == LET_OUT {
            return Self::LetOut;
        }
        let goes = |rest: &[&Value]| matches!(rest, [goto] if goto["goto"]["target"] == JUDGE);
        if goes(rest) {
            return Self::Judge(Entry::Everything);
        }
        let first = &first["match"];
        if first.is_null() {
            return Self::restrict(Subject::Everything, rest);
        }
        let keys: Vec<_> = match &first["left"]["concat"] {
            Value::Array(keys) => keys.iter().filter_map(key).collect(),
            _ => key(&first["left"]).into_iter().collect(),
        };
        let operator = first["op"].as_str().unwrap_or_default();
        let accepts = rest.len() == 2 && rest[1].get("accept").is_some();
        match (keys.as_slice(), operator, first["right"].as_str()) {
            (["dport"], "==", Some("@caught")) if goes(&rest[1..]) => Self::Judge(Entry::Caught),
            (["oif", "oifname", "oifkind"], "==", Some("@permitted")) if accepts => {
                Self::Accept(InterfaceSet::Permitted)
            }
            (["oif", "oifname", "oifkind"], "==", Some("@covered")) if accepts => {
                Self::Accept(InterfaceSet::Covered)
            }
            (["oif", "oifname"], "==", Some("@permitted_kindless")) if accepts => {
                Self::Accept(InterfaceSet::PermittedKindless)
            }
            (["oif", "oifname"], "==", Some("@covered_kindless")) if accepts => {
                Self::Accept(InterfaceSet::CoveredKindless)
            }
            (["oifkind"], "!=", Some(NO_KIND))
                if rest.len() == 2 && rest[1].get("return").is_some() =>
            {
                Self::SkipKinds
            }
            (["ipsec"], "==", None) if accepts && first["right"] == true => Self::SkipIpsec,
            (["l4proto", "dport"], "==", None) => Self::catch(&first["right"], &rest[1..]),
            (["daddr"], "==", Some(set)) if accepts && set.starts_with('@') => {
                Self::Lan(set[1..].to_owned())
            }
            (["nfproto"], "==", Some("ipv6")) | (["protocol"], "==", Some("ip6"))
                if goes(&rest[1..]) =>
            {
                Self::Judge(Entry::Ipv6)
            }
            (["nfproto"], "==", Some("ipv6")) | (["protocol"], "==", Some("ip6")) => {
                Self::restrict(Subject::Ipv6, &rest[1..])
            }
            (["protocol"], "==", None) if is_ip(&first["right"]) => {
                Self::restrict(Subject::Ip, &rest[1..])
            }
            _ => Self::Foreign,
        }
    }

    fn restrict(subject: Subject, statements: &[&Value]) -> Self {
        let (Some(action), Some(reason)) = (
            action(statements),
            statements
                .first()
                .and_then(|first| first["counter"].as_str())
                .and_then(Reason::from_name),
        ) else {
            return Self::Foreign;
        };
        Self::Restrict {
            subject,
            reason,
            action,
        }
    }

    fn catch(right: &Value, statements: &[&Value]) -> Self {
        let ports = match &right["set"] {
            // nft turns a set of one element into a plain comparison.
            Value::Null => port(right).into_iter().collect(),
            set => elements(set).filter_map(port).collect(),
        };
        let Some(action) = action(statements) else {
            return Self::Foreign;
        };
        match statements[0]["counter"].as_str().and_then(Class::from_name) {
            Some(class) => Self::Catch {
                class,
                ports,
                action,
            },
            None => Self::Foreign,
        }
    }
}

/// What a counter of a listing has counted.
pub(super) fn count(counter: &Value) -> Option<(Reason, Count)> {
    let number = |key: &str| counter[key].as_u64().unwrap_or_default();
    let reason = Reason::from_name(counter["name"].as_str()?)?;
    let count = Count {
        packets: number("packets"),
        bytes: number("bytes"),
    };
    Some((reason, count))
}

/// What is done after counting.
pub(super) fn action(statements: &[&Value]) -> Option<Action> {
    match statements {
        [_] => Some(Action::Count),
        [_, verdict] if verdict.get("drop").is_some() => Some(Action::Drop),
        _ => None,
    }
}

/// Whether a set is both versions of IP.
fn is_ip(set: &Value) -> bool {
    let protocols: BTreeSet<_> = elements(&set["set"]).filter_map(Value::as_str).collect();
    protocols == BTreeSet::from(["ip", "ip6"])
}

/// An element of a set of prefixes.
pub(super) fn prefix(element: &Value) -> Option<IpNet> {
    match element {
        Value::String(address) => address.parse::<IpAddr>().ok().map(IpNet::from),
        prefix => {
            let prefix = &prefix["prefix"];
            let length = u8::try_from(prefix["len"].as_u64()?).ok()?;
            IpNet::new(prefix["addr"].as_str()?.parse().ok()?, length).ok()
        }
    }
}

/// The name of what an expression looks at.
fn key(expression: &Value) -> Option<&str> {
    let meta = expression["meta"]["key"].as_str();
    meta.or(expression["payload"]["field"].as_str())
        .or(expression["rt"]["key"].as_str())
}

/// What a set of interfaces holds; `resolve` gives the number of an interface by its name.
pub(super) fn interfaces(
    set: &Value,
    resolve: impl Fn(&str) -> Option<u32>,
) -> BTreeSet<Permitted> {
    elements(&set["elem"])
        // In a set with a timeout an element says when it expires.
        .map(|element| element.pointer("/elem/val").unwrap_or(element))
        .filter_map(|pair| permitted(pair, &resolve))
        .collect()
}

fn permitted(key: &Value, resolve: impl Fn(&str) -> Option<u32>) -> Option<Permitted> {
    let mut parts = elements(&key["concat"]);
    let ifindex = match parts.next()? {
        Value::Number(number) => u32::try_from(number.as_u64()?).ok()?,
        // A device may be called 77: what exists by that name comes first, as it does in nft.
        Value::String(text) => resolve(text).or_else(|| text.parse().ok())?,
        _ => return None,
    };
    let name = parts.next()?.as_str()?;
    Permitted::new(ifindex, name, parts.next().and_then(Value::as_str)).ok()
}

fn port(pair: &Value) -> Option<(Transport, u16)> {
    let [transport, port] = elements(&pair["concat"])
        .collect::<Vec<_>>()
        .try_into()
        .ok()?;
    // nft names a protocol as /etc/protocols does, and prints its number where there is no such file.
    let transport = match (transport.as_str(), transport.as_u64()) {
        (Some("tcp"), _) | (_, Some(6)) => Transport::Tcp,
        (Some("udp"), _) | (_, Some(17)) => Transport::Udp,
        _ => return None,
    };
    Some((transport, u16::try_from(port.as_u64()?).ok()?))
}

pub(super) fn elements(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ruleset() -> Ruleset {
        let mut ruleset = Ruleset::new(Action::Drop, [Class::Dns], &[]);
        let interface = |ifindex, name, kind| Permitted::new(ifindex, name, kind).unwrap();
        ruleset.permitted.extend([
            interface(1, "lo", None),
            interface(77, "gone", Some("wireguard")),
        ]);
        ruleset.covered.insert(interface(3, "up0", Some("veth")));
        ruleset
    }

    /// What nft 1.0.6 lists for the table above.
    fn listing() -> Value {
        let ports = json!([{"concat": ["tcp", 53]}, {"concat": ["udp", 53]}]);
        let port = json!({"payload": {"protocol": "th", "field": "dport"}});
        let keys = json!([{"meta": {"key": "oif"}}, {"meta": {"key": "oifname"}}, {"meta": {"key": "oifkind"}}]);
        let out_keys = json!({"concat": keys});
        let kindless = json!({"concat": keys.as_array().unwrap()[..2]});
        let rule = |chain: &str, expressions: Value| json!({"rule": {"chain": chain, "expr": expressions}});
        let accept = |keys: &Value, set: &str| {
            rule(
                "let_out",
                json!([{"match": {"op": "==", "left": keys, "right": set}}, {"accept": null}]),
            )
        };
        json!({"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"table": {"family": "inet", "name": "leakguard"}},
            {"counter": {"name": "dns", "packets": 4, "bytes": 240}},
            {"set": {"name": "permitted", "elem": [{"concat": ["77", "gone", "wireguard"]}]}},
            {"set": {"name": "permitted_kindless", "elem": [{"concat": ["lo", "lo"]}]}},
            {"set": {"name": "covered", "flags": ["timeout"], "timeout": 30, "elem": [
                {"elem": {"val": {"concat": ["3", "up0", "veth"]}, "timeout": 30, "expires": 29}}]}},
            {"set": {"name": "covered_kindless", "flags": ["timeout"], "timeout": 30}},
            {"set": {"name": "caught", "elem": [53]}},
            {"chain": {"name": "let_out"}},
            {"chain": {"name": "forward", "type": "filter", "hook": "forward", "prio": 10}},
            accept(&out_keys, "@permitted"),
            accept(&out_keys, "@covered"),
            rule("let_out", json!([
                {"match": {"op": "==", "left": {"rt": {"key": "ipsec"}}, "right": true}},
                {"accept": null}])),
            rule("let_out", json!([
                {"match": {"op": "!=", "left": {"meta": {"key": "oifkind"}}, "right": "-"}},
                {"return": null}])),
            accept(&kindless, "@permitted_kindless"),
            accept(&kindless, "@covered_kindless"),
            rule("forward", json!([
                {"match": {"op": "==", "left": port, "right": "@caught"}}, {"goto": {"target": "judge"}}])),
            rule("judge", json!([{"jump": {"target": "let_out"}}])),
            rule("judge", json!([
                {"match": {"op": "==", "left": {"concat": [{"meta": {"key": "l4proto"}}, port]}, "right": {"set": ports}}},
                {"counter": "dns"}, {"drop": null}])),
            {"chain": {"name": "judge"}},
        ]})
    }

    fn state(listing: &Value) -> State {
        let resolve = |name: &str| (name == "lo").then_some(1);
        let table = Table::parse(&listing.to_string(), resolve).unwrap();
        State {
            inet: Some(table),
            bridge: None,
        }
    }

    #[test]
    fn a_listing_of_our_table_is_understood() {
        let state = state(&listing());
        let table = state.inet.as_ref().unwrap();
        assert_eq!(
            table.counts[&Reason::Dns],
            Count {
                packets: 4,
                bytes: 240
            }
        );
        assert_eq!(table.action(Class::Dns), Some(Action::Drop));
        assert_eq!(table.action(Class::Dot), None);
        assert!(state.satisfies(&Ruleset {
            bridge: false,
            ..ruleset()
        }));
        assert!(
            !state.satisfies(&ruleset()),
            "the bridge table is not there"
        );
    }

    #[test]
    fn a_machine_without_etc_protocols_lists_numbers() {
        let mut listing = listing();
        let numbers = json!([{"concat": [6, 53]}, {"concat": [17, 53]}]);
        *listing
            .pointer_mut("/nftables/18/rule/expr/0/match/right/set")
            .unwrap() = numbers;
        assert!(state(&listing).satisfies(&Ruleset {
            bridge: false,
            ..ruleset()
        }));
    }

    #[test]
    fn every_difference_shows() {
        let wanted = Ruleset {
            bridge: false,
            ..ruleset()
        };
        let changed = |path: &str, value: Value| {
            let mut listing = listing();
            *listing.pointer_mut(path).unwrap() = value;
            state(&listing).satisfies(&wanted)
        };
        assert!(
            changed("/nftables/2/counter/packets", json!(9)),
            "counting is no difference"
        );
        for (path, value) in [
            ("3/set/elem/0/concat/1", json!("wg0")),
            ("3/set/elem/0/concat/2", json!("veth")),
            ("3/set/elem/0/concat", json!(["77", "gone"])),
            ("4/set/elem/0/concat", json!(["lo", "lo", "veth"])),
            ("5/set/elem", json!([])),
            ("7/set/elem", json!([])),
            (
                "8/chain",
                json!({"name": "let_out", "hook": "forward", "type": "filter"}),
            ),
            ("9/chain/hook", json!("input")),
            ("10/rule/expr/0", json!({})),
            ("11/rule/expr", json!([{"accept": null}])),
            ("13/rule/expr/1", json!({"accept": null})),
            ("13/rule/expr/0/match/op", json!("==")),
            ("14/rule/expr/1", json!({"drop": null})),
            ("14/rule/expr/0/match/right", json!("@permitted")),
            ("16/rule/expr/0/match/op", json!("!=")),
            ("16/rule/expr/1/goto/target", json!("let_out")),
            ("16/rule/expr/1", json!({"jump": {"target": "judge"}})),
            ("17/rule/expr/0/jump/target", json!("other")),
            (
                "17/rule/expr",
                json!([{"jump": {"target": "let_out"}}, {"accept": null}]),
            ),
            ("18/rule/expr/2", json!({"accept": null})),
            ("18/rule/expr/1", json!({"counter": "other"})),
            ("18", json!({})),
            (
                "19/chain",
                json!({"name": "judge", "hook": "forward", "type": "filter"}),
            ),
        ] {
            assert!(!changed(&format!("/nftables/{path}"), value), "{path}");
        }

        let observing = Ruleset {
            action: Action::Count,
            ..wanted
        };
        assert!(!state(&listing()).satisfies(&observing));
    }

    #[test]
    fn a_chain_that_is_not_attached_does_nothing() {
        let mut listing = listing();
        listing["nftables"][9]["chain"]["hook"] = Value::Null;
        let state = state(&listing);
        assert_eq!(state.inet.unwrap().action(Class::Dns), None);
    }

    #[test]
    fn what_is_not_json_is_an_error() {
        assert!(Table::parse("Error: no", |_| None).is_err());
    }
}
