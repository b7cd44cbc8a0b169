//! Resolvers on this host, and whom they ask in their turn.

use std::net::IpAddr;

use super::Facts;
use super::finding::{Finding, Rule, Severity, Subject};
use super::host::FAR_V4;
use super::resolved;
use super::root::Root;

/// Whom a resolver's configuration names, with the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Forwarder {
    pub(super) place: String,
    pub(super) address: IpAddr,
}

/// Facts about them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LocalResolvers {
    pub(super) unbound: Vec<Forwarder>,
    pub(super) dnsmasq: Vec<Forwarder>,
}

const fn rule(
    id: &'static str,
    severity: Severity,
    title: &'static str,
    why: &'static str,
) -> Rule {
    Rule {
        id,
        subject: Subject::LocalResolver,
        severity,
        title,
        why,
    }
}

pub(super) const FORWARDS_OFF: Rule = rule(
    "local-resolver-past-tunnel",
    Severity::Problem,
    "a resolver on this host asks past the tunnel",
    "programs ask it and it asks in vain: SERVFAIL, after a while",
);
pub(super) const RECURSES_OFF: Rule = rule(
    "local-resolver-recurses-past-tunnel",
    Severity::Problem,
    "a resolver on this host asks the root servers past the tunnel",
    "its questions go where the default route leads, and are dropped there: SERVFAIL, after a while",
);
pub(super) const UNKNOWN: Rule = rule(
    "local-resolver-unknown",
    Severity::Note,
    "whom a resolver on this host asks is not known",
    "if it asks past the tunnel, names fail",
);

pub(super) const RULES: &[&Rule] = &[&FORWARDS_OFF, &RECURSES_OFF, &UNKNOWN];

pub(super) fn collect(root: &Root) -> LocalResolvers {
    let texts = |main: &str, directory: &str| {
        let files = std::iter::once(main.to_owned()).chain(root.files(directory, ".conf"));
        files
            .filter_map(|path| Some((root.read(&path)?, path)))
            .collect::<Vec<_>>()
    };
    let find = |texts: Vec<(String, String)>, value: fn(&str) -> Option<IpAddr>| {
        let mut forwarders = Vec::new();
        for (text, path) in texts {
            for (number, line) in (1..).zip(text.lines()) {
                forwarders.extend(value(line.trim()).map(|address| Forwarder {
                    place: format!("{path}:{number}: {}", line.trim()),
                    address,
                }));
            }
        }
        forwarders
    };
    LocalResolvers {
        unbound: find(
            texts("/etc/unbound/unbound.conf", "/etc/unbound/unbound.conf.d"),
            |line| {
                let rest = line.strip_prefix("forward-addr:")?.trim();
                rest.split(['@', '#']).next()?.trim().parse().ok()
            },
        ),
        dnsmasq: find(texts("/etc/dnsmasq.conf", "/etc/dnsmasq.d"), |line| {
            let rest = line.strip_prefix("server=")?;
            // Behind the domains that it is for, and before its port and source.
            let rest = rest.rsplit('/').next()?;
            rest.split(['#', '@']).next()?.trim().parse().ok()
        }),
    }
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let network = &facts.network;
    let LocalResolvers { unbound, dnsmasq } = &facts.local_resolvers;
    let mut found = Vec::new();
    let asked = |name: &str| {
        facts
            .processes
            .listeners
            .iter()
            .any(|listener| listener.program.as_deref() == Some(name))
            || facts.processes.runs(name)
    };
    for (name, forwarders, key) in [
        ("unbound", unbound, "forward-addr: "),
        ("dnsmasq", dnsmasq, "server="),
    ] {
        if !asked(name) {
            continue;
        }
        let off: Vec<String> = forwarders
            .iter()
            .filter_map(|forwarder| {
                Some(format!(
                    "{}: {}",
                    forwarder.place,
                    network.leaves(forwarder.address)?
                ))
            })
            .collect();
        if !off.is_empty() {
            found.push(FORWARDS_OFF.found(
                off,
                format!(
                    "put {key}{} there, and systemctl restart {name}",
                    network.resolver_to_use()
                ),
            ));
        }
    }
    if asked("unbound")
        && unbound.is_empty()
        && network.has_tunnel()
        && let Some(leaves) = network.leaves(FAR_V4[1])
    {
        found.push(RECURSES_OFF.found(
            [format!("/etc/unbound: no forward-addr; {leaves}")],
            format!(
                "printf 'forward-zone:\\n  name: \".\"\\n  forward-addr: {}\\n' > \
                 /etc/unbound/unbound.conf.d/leakguard.conf && systemctl restart unbound",
                network.resolver_to_use()
            ),
        ));
    }
    let known = ["unbound", "dnsmasq", resolved::PROCESS];
    for listener in &facts.processes.listeners {
        let program = listener.program.as_deref();
        let told = program.is_some_and(|program| known.contains(&program));
        let asked = facts
            .resolv_conf
            .nameservers()
            .any(|(_, name)| name.parse() == Ok(listener.address));
        if asked && !told {
            found.push(UNKNOWN.found(
                [format!(
                    "{} port 53: {}",
                    listener.address,
                    program.unwrap_or("a process that cannot be seen")
                )],
                "see its configuration; leakguard events --follow says whether it is stopped",
            ));
        }
    }
    found
}
