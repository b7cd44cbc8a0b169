//! Packets that this host itself loses, and parameters that decide where packets go.

use std::collections::BTreeMap;

use leakguard_common::abi::Role;

use super::Facts;
use super::finding::{Finding, Rule, Severity, Subject};
use super::root::Root;

/// Facts about them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Parameters {
    /// Packets that found the queue of a processor full, since boot.
    pub(super) backlog_drops: u64,
    /// `net.core.netdev_max_backlog`.
    pub(super) max_backlog: Option<u64>,
    /// `net.ipv4.ip_forward`.
    pub(super) forwarding: bool,
    /// `rp_filter` and `src_valid_mark` of interfaces, by name.
    pub(super) rp_filter: BTreeMap<String, u64>,
    pub(super) src_valid_mark: BTreeMap<String, u64>,
}

const CONF: &str = "/proc/sys/net/ipv4/conf";

const fn rule(
    id: &'static str,
    severity: Severity,
    title: &'static str,
    why: &'static str,
) -> Rule {
    Rule {
        id,
        subject: Subject::Network,
        severity,
        title,
        why,
    }
}

pub(super) const BACKLOG: Rule = rule(
    "backlog-drops",
    Severity::Warning,
    "packets were lost before anything looked at them",
    "a processor's queue was full: answers of DNS are lost with the rest, and come seconds later",
);
pub(super) const RP_FILTER: Rule = rule(
    "rp-filter-strict",
    Severity::Warning,
    "answers of the VPN's server may be dropped",
    "with a rule by mark, the strict check of sources does not find the way back and drops what comes in",
);
pub(super) const FORWARDS: Rule = rule(
    "forwarding-on",
    Severity::Note,
    "this host forwards packets",
    "what containers, machines and neighbours send over it is judged where it leaves, like its own",
);

pub(super) const RULES: &[&Rule] = &[&BACKLOG, &RP_FILTER, &FORWARDS];

pub(super) fn collect(root: &Root) -> Parameters {
    let softnet = root.read("/proc/net/softnet_stat").unwrap_or_default();
    // A line for each processor: what was processed, then what was dropped, in hexadecimal.
    let drops = softnet.lines().filter_map(|line| {
        let dropped = line.split_whitespace().nth(1)?;
        u64::from_str_radix(dropped, 16).ok()
    });
    let of_interfaces = |key: &str| -> BTreeMap<String, u64> {
        let names = root.list(CONF).into_iter();
        names
            .filter_map(|name| {
                let value = root.number(&format!("{CONF}/{name}/{key}"))?;
                Some((name, value))
            })
            .collect()
    };
    Parameters {
        backlog_drops: drops.sum(),
        max_backlog: root.number("/proc/sys/net/core/netdev_max_backlog"),
        forwarding: root.number("/proc/sys/net/ipv4/ip_forward") == Some(1),
        rp_filter: of_interfaces("rp_filter"),
        src_valid_mark: of_interfaces("src_valid_mark"),
    }
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let Parameters {
        backlog_drops,
        max_backlog,
        forwarding,
        rp_filter,
        src_valid_mark,
    } = &facts.parameters;
    let network = &facts.network;
    let mut found = Vec::new();
    if *backlog_drops > 0 {
        let now = max_backlog.unwrap_or(1000);
        found.push(BACKLOG.found(
            [
                format!("/proc/net/softnet_stat: {backlog_drops} dropped since boot"),
                format!("net.core.netdev_max_backlog = {now}"),
            ],
            format!(
                "sysctl -w net.core.netdev_max_backlog={}",
                now.saturating_mul(2)
            ),
        ));
    }
    let of = |map: &BTreeMap<String, u64>, name: &str| {
        let value = |name: &str| map.get(name).copied().unwrap_or(0);
        value("all").max(value(name))
    };
    let by_mark = network
        .tables
        .rules
        .iter()
        .any(|rule| rule.mark.is_some() && !rule.v6);
    for interface in network.interfaces.values() {
        let name = &interface.name;
        let concerned = interface.role == Role::Uplink && by_mark && network.has_tunnel();
        if concerned && of(rp_filter, name) == 1 && of(src_valid_mark, name) == 0 {
            found.push(RP_FILTER.found(
                [
                    format!("net.ipv4.conf.{name}.rp_filter = 1 (or of all)"),
                    "net.ipv4.conf.all.src_valid_mark = 0".to_owned(),
                ],
                "sysctl -w net.ipv4.conf.all.src_valid_mark=1",
            ));
            break;
        }
    }
    if *forwarding {
        found.push(FORWARDS.found(
            ["net.ipv4.ip_forward = 1".to_owned()],
            "if nothing is meant to be forwarded: sysctl -w net.ipv4.ip_forward=0",
        ));
    }
    found
}
