//! systemd-resolved: whom it asks over which interface, and what it does besides DNS.

use std::collections::BTreeMap;
use std::net::IpAddr;

use leakguard_common::abi::Role;

use super::Facts;
use super::finding::{Finding, Rule, Severity, Subject};
use super::root::Root;
use super::settings::{self, Setting, last};

/// The command name of its process, which the kernel cuts off.
pub(super) const PROCESS: &str = "systemd-resolve";

/// Facts about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Resolved {
    /// Its configuration, as it holds.
    pub(super) settings: Vec<Setting>,
    /// What it was told about interfaces, by number.
    pub(super) links: BTreeMap<u32, Link>,
    /// Those that it asks, all of them.
    pub(super) upstreams: Vec<IpAddr>,
}

/// What it was told about an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    /// The file that says so.
    pub(super) path: String,
    pub(super) servers: Vec<IpAddr>,
    pub(super) domains: Vec<String>,
}

impl Resolved {
    /// The servers of its configuration, which belong to no interface.
    pub(super) fn global(&self) -> impl Iterator<Item = (IpAddr, &Setting)> {
        let lines = self
            .settings
            .iter()
            .filter(|setting| setting.section == "Resolve" && setting.key == "DNS");
        lines.flat_map(|setting| {
            let addresses = setting.value.split_whitespace().filter_map(server);
            addresses.map(move |address| (address, setting))
        })
    }

    /// Every address that was found.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let links = self.links.values().flat_map(|link| link.servers.clone());
        let global = self.global().map(|(address, _)| address);
        self.upstreams.iter().copied().chain(links).chain(global)
    }
}

const fn rule(
    id: &'static str,
    severity: Severity,
    title: &'static str,
    why: &'static str,
) -> Rule {
    Rule {
        id,
        subject: Subject::Resolved,
        severity,
        title,
        why,
    }
}

pub(super) const ASKS_UPLINK: Rule = rule(
    "resolved-asks-uplink",
    Severity::Warning,
    "systemd-resolved has resolvers of an uplink",
    "it asks every interface that has some: leakguard drops those questions, and answers come late",
);
pub(super) const GLOBAL_OFF: Rule = rule(
    "resolved-global-past-tunnel",
    Severity::Warning,
    "systemd-resolved has a resolver of no interface, past the tunnel",
    "it is asked beside the VPN's: leakguard drops those questions, and answers come late",
);
pub(super) const NO_DEFAULT: Rule = rule(
    "resolved-without-default-domain",
    Severity::Warning,
    "the tunnel does not have the domain ~.",
    "systemd-resolved asks the resolvers of other interfaces as well",
);
pub(super) const FALLBACK: Rule = rule(
    "resolved-fallback",
    Severity::Warning,
    "systemd-resolved falls back to resolvers of its own",
    "where FallbackDNS= is not set, it asks the public ones that were compiled in when it knows no other",
);
pub(super) const DOT: Rule = rule(
    "resolved-dot",
    Severity::Note,
    "systemd-resolved insists on DNS over TLS",
    "a VPN's resolver often does not offer it, and then no name resolves; past the tunnel port 853 is dropped as well",
);
pub(super) const MULTICAST: Rule = rule(
    "resolved-multicast",
    Severity::Note,
    "systemd-resolved asks the LAN by LLMNR or mDNS",
    "leakguard drops that on uplinks; each such question waits in vain and counts as an attempt",
);

pub(super) const RULES: &[&Rule] = &[
    &ASKS_UPLINK,
    &GLOBAL_OFF,
    &NO_DEFAULT,
    &FALLBACK,
    &DOT,
    &MULTICAST,
];

pub(super) fn collect(root: &Root) -> Resolved {
    let mut links: BTreeMap<u32, Link> = BTreeMap::new();
    // What programs told it over D-Bus, and what systemd-networkd knows: both call these files private, and there is no
    // other place to read it without waking the daemon.
    for (directory, servers, domains) in [
        ("/run/systemd/resolve/netif", "SERVERS", "DOMAINS"),
        ("/run/systemd/netif/links", "DNS", "ROUTE_DOMAINS"),
    ] {
        for name in root.list(directory) {
            let path = format!("{directory}/{name}");
            let (Ok(ifindex), Some(text)) = (name.parse(), root.read(&path)) else {
                continue;
            };
            let link = links.entry(ifindex).or_default();
            for setting in settings::parse(&path, &text) {
                let words = setting.value.split_whitespace();
                if setting.key == servers {
                    link.servers.extend(words.filter_map(server));
                    link.path.clone_from(&path);
                } else if setting.key == domains {
                    // systemd-networkd leaves the mark of a domain for routing out.
                    let plain = words.map(|word| word.trim_start_matches('~'));
                    link.domains.extend(plain.map(str::to_owned));
                }
            }
        }
    }
    let upstreams = root
        .read("/run/systemd/resolve/resolv.conf")
        .unwrap_or_default();
    Resolved {
        settings: settings::read(
            root,
            "/etc/systemd/resolved.conf",
            &[
                "/etc/systemd/resolved.conf.d",
                "/run/systemd/resolved.conf.d",
                "/usr/lib/systemd/resolved.conf.d",
            ],
        ),
        links,
        upstreams: upstreams
            .lines()
            .filter_map(|line| server(line.strip_prefix("nameserver ")?.trim()))
            .collect(),
    }
}

/// An address with what may be behind it: `%interface`, `#name`.
fn server(text: &str) -> Option<IpAddr> {
    let text = text.split(['%', '#']).next()?;
    let text = text.strip_prefix('[').map_or(text, |rest| {
        rest.split_once(']').map_or(rest, |(address, _)| address)
    });
    text.parse().ok()
}

/// A drop-in and what makes it hold.
fn drop_in(setting: &str) -> String {
    format!(
        "mkdir -p /etc/systemd/resolved.conf.d && printf '[Resolve]\\n{setting}\\n' > \
         /etc/systemd/resolved.conf.d/90-{}.conf && systemctl restart systemd-resolved",
        setting.split('=').next().unwrap_or_default().to_lowercase()
    )
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let resolved = &facts.resolved;
    let mut found = Vec::new();
    if !facts.processes.runs(PROCESS) {
        return found;
    }
    let network = &facts.network;
    let mut evidence = Vec::new();
    let mut commands = Vec::new();
    for (ifindex, link) in &resolved.links {
        if network.role(*ifindex) == Role::Uplink && !link.servers.is_empty() {
            let name = network.name(*ifindex);
            let servers: Vec<String> = link.servers.iter().map(ToString::to_string).collect();
            evidence.push(format!("{}: {name}: {}", link.path, servers.join(" ")));
            commands.push(format!("resolvectl dns {name} ''"));
        }
    }
    if !evidence.is_empty() {
        found.push(ASKS_UPLINK.found(evidence, commands.join("; ")));
    }
    let global: Vec<String> = resolved
        .global()
        .filter_map(|(address, setting)| {
            Some(format!(
                "{}: {}",
                setting.evidence(),
                network.leaves(address)?
            ))
        })
        .collect();
    if !global.is_empty() {
        found.push(GLOBAL_OFF.found(global, drop_in("DNS=")));
    }
    for tunnel in network.of_role(Role::Tunnel) {
        let told = resolved.links.get(&tunnel.ifindex);
        if let Some(link) = told.filter(|link| !link.servers.is_empty())
            && !link.domains.iter().any(|domain| domain == ".")
        {
            found.push(NO_DEFAULT.found(
                [format!(
                    "{}: {}: domains: {}",
                    link.path,
                    tunnel.name,
                    if link.domains.is_empty() {
                        "none".to_owned()
                    } else {
                        link.domains.join(" ")
                    }
                )],
                format!("resolvectl domain {} '~.'", tunnel.name),
            ));
        }
    }
    let setting = |key| last(&resolved.settings, "Resolve", key);
    match setting("FallbackDNS") {
        Some(setting) if setting.value.is_empty() => {}
        Some(setting) => found.push(FALLBACK.found([setting.evidence()], drop_in("FallbackDNS="))),
        None => found.push(FALLBACK.found(
            ["/etc/systemd/resolved.conf, resolved.conf.d: no FallbackDNS=".to_owned()],
            drop_in("FallbackDNS="),
        )),
    }
    if let Some(setting) = setting("DNSOverTLS").filter(|setting| is_yes(&setting.value)) {
        found.push(DOT.found([setting.evidence()], drop_in("DNSOverTLS=opportunistic")));
    }
    let multicast: Vec<String> = ["LLMNR", "MulticastDNS"]
        .into_iter()
        .filter_map(|key| match setting(key) {
            Some(setting) if setting.value == "no" || setting.value == "false" => None,
            Some(setting) => Some(setting.evidence()),
            None => Some(format!("{key}= is not set, and on as a rule")),
        })
        .collect();
    if !multicast.is_empty() {
        found.push(MULTICAST.found(multicast, drop_in("LLMNR=no\\nMulticastDNS=no")));
    }
    found
}

fn is_yes(value: &str) -> bool {
    ["yes", "true", "on", "1"].contains(&value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_with_their_trimmings() {
        for text in [
            "10.8.0.1",
            "10.8.0.1#dns.example",
            "10.8.0.1%wg0#dns.example",
            "[10.8.0.1]:853#x",
        ] {
            assert_eq!(server(text), "10.8.0.1".parse().ok(), "{text}");
        }
        assert_eq!(server("fe80::1%eth0"), "fe80::1".parse().ok());
        assert_eq!(server("nonsense"), None);
    }
}
