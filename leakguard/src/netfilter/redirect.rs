//! The tables that send forwarded questions to the tunnel's resolver: one in the family `ip`, one in `ip6`.
//!
//! What comes in by a local interface for port 53 is translated, as conntrack knows how to: the answer seems to come from
//! whom was asked. What leaves by a tunnel so gets the tunnel's address, which is the only one that its other end knows.
//! What does not leave by a tunnel is caught as all DNS is.
//!
//! Interfaces are known by number and name, not by kind: one that is mistaken for another sends its questions to the
//! tunnel's resolver, or gets an address that it does not need.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::let_out::InterfaceSet;
use super::ruleset::deletion;
use super::state::{elements, interfaces, prefix};
use super::{Permitted, TABLE, resolve};

/// The nftables families, one for each version of IP.
pub(super) const FAMILIES: [&str; 2] = ["ip", "ip6"];

const LOCAL: &str = "local";
const TUNNELS: &str = "tunnels";
const NEAR: &str = "near";

/// Whom forwarded questions are sent to, and which.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Redirection {
    targets: BTreeSet<IpAddr>,
    near: Vec<IpNet>,
    local: BTreeSet<Permitted>,
    tunnels: BTreeSet<Permitted>,
}

/// What one table should do.
pub(super) struct Nat<'a> {
    family: &'static str,
    target: IpAddr,
    near: BTreeSet<IpNet>,
    local: &'a BTreeSet<Permitted>,
    tunnels: &'a BTreeSet<Permitted>,
}

/// A chain, in the form that both nft's text and its listing are made from.
struct Chain {
    hook: &'static str,
    priority: (&'static str, i32),
    rules: Vec<(String, Value)>,
}

impl Redirection {
    /// Sends what comes in by local interfaces to these resolvers, at most one of each family, but for what is near.
    pub fn new(
        targets: BTreeSet<IpAddr>,
        near: &[IpNet],
        local: &BTreeSet<Permitted>,
        tunnels: &BTreeSet<Permitted>,
    ) -> Self {
        let kindless = |interfaces: &BTreeSet<Permitted>| {
            interfaces.iter().map(Permitted::without_kind).collect()
        };
        Self {
            targets,
            // A set of ranges takes none that overlap.
            near: IpNet::aggregate(&near.to_vec()),
            local: kindless(local),
            tunnels: kindless(tunnels),
        }
    }

    /// The table of a family; `None` without a resolver of it.
    pub(super) fn table(&self, family: &'static str) -> Option<Nat<'_>> {
        let is_of_it = |address: IpAddr| address.is_ipv4() == (family == "ip");
        let target = self.targets.iter().copied().find(|to| is_of_it(*to))?;
        let near = self.near.iter().filter(|net| is_of_it(net.addr()));
        Some(Nat {
            family,
            target,
            near: near.copied().collect(),
            local: &self.local,
            tunnels: &self.tunnels,
        })
    }
}

impl Nat<'_> {
    /// The batch that replaces the table, whatever it holds.
    pub(super) fn replacement(&self) -> String {
        let mut text = deletion(self.family);
        push!(text, "table {} {TABLE} {{\n", self.family);
        let near: Vec<_> = self.near.iter().map(IpNet::to_string).collect();
        for (name, keys, elements) in [
            (LOCAL, "iif . iifname".to_owned(), list(LOCAL, self.local)),
            (
                TUNNELS,
                "oif . oifname".to_owned(),
                list(TUNNELS, self.tunnels),
            ),
            (
                NEAR,
                format!("{} daddr\n\t\tflags interval", self.family),
                near.join(", "),
            ),
        ] {
            push!(text, "\tset {name} {{\n\t\ttypeof {keys}\n");
            if !elements.is_empty() {
                push!(text, "\t\telements = {{ {elements} }}\n");
            }
            text.push_str("\t}\n");
        }
        for Chain {
            hook,
            priority: (priority, _),
            rules,
        } in self.chains()
        {
            push!(
                text,
                "\tchain {hook} {{\n\t\ttype nat hook {hook} priority {priority}; policy accept;\n"
            );
            for (rule, _) in rules {
                push!(text, "\t\t{rule}\n");
            }
            text.push_str("\t}\n");
        }
        text.push_str("}\n");
        text
    }

    fn chains(&self) -> [Chain; 2] {
        let Self { family, target, .. } = self;
        let is = |operator, left: Value, right: Value| json!({"match": {"op": operator, "left": left, "right": right}});
        let accept = || json!({"accept": null});
        let meta =
            |keys: [&str; 2]| json!({"concat": keys.map(|key| json!({"meta": {"key": key}}))});
        let question = |operator| {
            let left = json!({"concat": [
                {"meta": {"key": "l4proto"}}, {"payload": {"protocol": "th", "field": "dport"}}]});
            let right = json!({"set": [{"concat": ["tcp", 53]}, {"concat": ["udp", 53]}]});
            is(operator, left, right)
        };
        let destination = || json!({"payload": {"protocol": family, "field": "daddr"}});
        let to = || json!(target.to_string());
        let prerouting = vec![
            (
                "meta l4proto . th dport != { tcp . 53, udp . 53 } accept".to_owned(),
                json!([question("!="), accept()]),
            ),
            (
                format!("iif . iifname != @{LOCAL} accept"),
                json!([
                    is("!=", meta(["iif", "iifname"]), json!("@local")),
                    accept()
                ]),
            ),
            // What this host answers itself: a service on a bridge, a published port, multicast DNS.
            (
                "fib daddr type { local, broadcast, anycast, multicast } accept".to_owned(),
                json!([
                    is(
                        "==",
                        json!({"fib": {"result": "type", "flags": "daddr"}}),
                        json!({"set": ["local", "broadcast", "anycast", "multicast"]})
                    ),
                    accept()
                ]),
            ),
            (
                format!("{family} daddr @{NEAR} accept"),
                json!([is("==", destination(), json!("@near")), accept()]),
            ),
            (
                format!("{family} daddr {target} accept"),
                json!([is("==", destination(), to()), accept()]),
            ),
            (
                format!("dnat to {target}"),
                json!([{"dnat": {"addr": to()}}]),
            ),
        ];
        let original = json!({"ct": {"key": format!("{family} daddr"), "dir": "original"}});
        let postrouting = vec![
            (
                format!("oif . oifname != @{TUNNELS} accept"),
                json!([
                    is("!=", meta(["oif", "oifname"]), json!("@tunnels")),
                    accept()
                ]),
            ),
            (
                format!(
                    "meta l4proto . th dport {{ tcp . 53, udp . 53 }} {family} daddr {target} ct status dnat \
                     ct original {family} daddr != {target} masquerade"
                ),
                json!([
                    question("=="),
                    is("==", destination(), to()),
                    is("in", json!({"ct": {"key": "status"}}), json!("dnat")),
                    is("!=", original, to()),
                    {"masquerade": null}
                ]),
            ),
        ];
        [
            // After those at the usual place: who translates an address there, as Kubernetes does for that of its own
            // resolver, knows whose it is. Only the first translation counts.
            Chain {
                hook: "prerouting",
                priority: ("dstnat + 1", -99),
                rules: prerouting,
            },
            // Before those at the usual place, which may give an address that is not the tunnel's.
            Chain {
                hook: "postrouting",
                priority: ("srcnat - 1", 99),
                rules: postrouting,
            },
        ]
    }

    /// Whether a listing as JSON is of exactly this table.
    pub(super) fn is_listed(&self, listing: &str) -> Result<bool, serde_json::Error> {
        let listed: Value = serde_json::from_str(listing)?;
        let mut found = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for object in elements(&listed["nftables"]) {
            let set = &object["set"];
            match set["name"].as_str() {
                Some(LOCAL) => found.0 = interfaces(set, resolve),
                Some(TUNNELS) => found.1 = interfaces(set, resolve),
                Some(NEAR) => found.2 = elements(&set["elem"]).filter_map(prefix).collect(),
                _ => {}
            }
        }
        Ok(self.has_rules(listing)?
            && found.0 == *self.local
            && found.1 == *self.tunnels
            && found.2 == self.near)
    }

    /// Whether a listing as JSON has these rules, whatever its sets hold.
    pub(super) fn has_rules(&self, listing: &str) -> Result<bool, serde_json::Error> {
        let listing: Value = serde_json::from_str(listing)?;
        let mut found: BTreeMap<&str, (Value, Vec<Value>)> = BTreeMap::new();
        for object in elements(&listing["nftables"]) {
            let chain = &object["chain"];
            if let Some(name) = chain["name"].as_str() {
                let base = json!([chain["type"], chain["hook"], chain["prio"], chain["policy"]]);
                found.entry(name).or_default().0 = base;
            }
            let rule = &object["rule"];
            if let Some(name) = rule["chain"].as_str() {
                let rules = &mut found.entry(name).or_default().1;
                rules.push(plain(rule["expr"].clone()));
            }
        }
        let wanted = self.chains().into_iter().map(|chain| {
            let base = json!(["nat", chain.hook, chain.priority.1, "accept"]);
            let rules = chain.rules.into_iter().map(|(_, rule)| plain(rule));
            (chain.hook, (base, rules.collect()))
        });
        Ok(found == wanted.collect())
    }
}

fn list(name: &'static str, interfaces: &BTreeSet<Permitted>) -> String {
    InterfaceSet::new(name, interfaces, true, false).elements
}

/// An expression in one form, whichever nft chooses: sets have no order, one flag may stand alone, and protocols have
/// names only where there is an `/etc/protocols`.
fn plain(value: Value) -> Value {
    match value {
        Value::Array(values) => values.into_iter().map(plain).collect(),
        Value::Object(members) => {
            let plain = members.into_iter().map(|(key, value)| {
                let value = match (key.as_str(), plain(value)) {
                    ("set", Value::Array(mut values)) => {
                        values.sort_by_key(Value::to_string);
                        Value::Array(values)
                    }
                    ("flags", flag @ Value::String(_)) => Value::Array(vec![flag]),
                    (_, value) => value,
                };
                (key, value)
            });
            Value::Object(plain.collect())
        }
        Value::String(name) if name == "tcp" => json!(6),
        Value::String(name) if name == "udp" => json!(17),
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_without_a_resolver_has_no_table() {
        let near = ["10.88.0.0/16", "10.88.0.1/32", "fd78::/64"].map(|net| net.parse().unwrap());
        let target = "10.8.0.1".parse().unwrap();
        let bridge = Permitted::new(7, "br0", Some("bridge")).unwrap();
        let redirection = Redirection::new(
            BTreeSet::from([target]),
            &near,
            &BTreeSet::from([bridge]),
            &BTreeSet::new(),
        );
        assert!(redirection.table("ip6").is_none());
        let text = redirection.table("ip").unwrap().replacement();
        assert!(text.contains("elements = { 10.88.0.0/16 }"), "{text}");
        assert!(text.contains("elements = { 7 . \"br0\" }"), "{text}");
        assert!(text.contains("dnat to 10.8.0.1\n"), "{text}");
    }

    #[test]
    fn expressions_are_the_same_in_the_forms_of_every_nft() {
        let one = json!({"flags": "daddr", "right": {"set": ["tcp", "udp"]}});
        let other = json!({"flags": ["daddr"], "right": {"set": [17, 6]}});
        assert_eq!(plain(one), plain(other));
        assert_ne!(plain(json!(["a", "b"])), plain(json!(["b", "a"])));
    }
}
