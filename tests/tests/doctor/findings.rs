//! What is broken is found; where the remedy is a command, it is run, and mends it.

use std::collections::BTreeSet;

use crate::machine::{Machine, Mutable, ids};

/// Something that is broken by a command.
struct Break {
    /// Breaks it.
    by: &'static str,
    /// What is found then, all of it.
    found: &'static [&'static str],
    /// Whose remedy is run, after which nothing is found any more.
    mended_by: Option<&'static str>,
    /// What sets it right where no remedy does.
    undone_by: &'static str,
}

const fn mended(
    by: &'static str,
    found: &'static [&'static str],
    mended_by: &'static str,
) -> Break {
    Break {
        by,
        found,
        mended_by: Some(mended_by),
        undone_by: "true",
    }
}

const fn undone(
    by: &'static str,
    found: &'static [&'static str],
    undone_by: &'static str,
) -> Break {
    Break {
        by,
        found,
        mended_by: None,
        undone_by,
    }
}

const BREAKS: &[Break] = &[
    mended(
        "printf 'nameserver 192.168.77.1\\nnameserver 10.8.0.1\\n' > /etc/resolv.conf",
        &["resolver-over-uplink"],
        "resolver-over-uplink",
    ),
    mended(
        "printf 'nameserver 2001:db8:53::53\\nnameserver 10.8.0.1\\n' > /etc/resolv.conf; \
         ip -6 route add unreachable 2001:db8:53::53",
        &["resolver-without-route"],
        "resolver-without-route",
    ),
    mended(
        "chattr +i /etc/resolv.conf",
        &["resolv-conf-immutable"],
        "resolv-conf-immutable",
    ),
    mended(
        "printf 'nameserver 192.168.77.1\\nnameserver 10.8.0.1\\n' > /etc/resolv.conf && chattr +i /etc/resolv.conf",
        &["resolver-over-uplink", "resolv-conf-stuck"],
        "resolv-conf-stuck",
    ),
    undone(
        "rm /etc/resolv.conf; ln -s /run/nowhere /etc/resolv.conf",
        &["resolv-conf-absent", "resolver-not-listening"],
        "rm /etc/resolv.conf; echo 'nameserver 10.8.0.1' > /etc/resolv.conf",
    ),
    mended(
        "echo 'search home.lan' >> /etc/resolv.conf",
        &["resolv-conf-search"],
        "resolv-conf-search",
    ),
    mended(
        "chmod 666 /etc/resolv.conf",
        &["resolv-conf-writable-by-others"],
        "resolv-conf-writable-by-others",
    ),
    undone(
        "echo 'nameserver 10.8.0.99' > /etc/resolv.conf",
        &["resolver-silent"],
        "echo 'nameserver 10.8.0.1' > /etc/resolv.conf",
    ),
    mended(
        "echo 'hosts: files' > /etc/nsswitch.conf",
        &["nss-without-dns"],
        "nss-without-dns",
    ),
    mended(
        "chmod 666 /etc/leakguard/leakguard.toml",
        &["config-in-unsafe-hands"],
        "config-in-unsafe-hands",
    ),
    mended(
        "chmod 644 /etc/leakguard/leakguard.toml",
        &["config-readable-by-others"],
        "config-readable-by-others",
    ),
    undone(
        "echo 'nonsense = 1' >> /etc/leakguard/leakguard.toml",
        &["config-unusable"],
        "sed -i /nonsense/d /etc/leakguard/leakguard.toml",
    ),
    mended(
        "ip link set wg0 mtu 1280; ip link set wg0 mtu 9000",
        &["tunnel-mtu-too-high", "mtu-probing-off"],
        "tunnel-mtu-too-high",
    ),
    mended(
        "sysctl -qw net.ipv4.ip_no_pmtu_disc=1",
        &["pmtu-discovery-off"],
        "pmtu-discovery-off",
    ),
    mended(
        "ip addr add 10.8.0.77/16 dev eth0",
        &["prefix-overlap"],
        "prefix-overlap",
    ),
    mended(
        "ip -6 route del ::/1 dev wg0; ip -6 route del 8000::/1 dev wg0",
        &["ipv6-off-tunnel"],
        "ipv6-off-tunnel",
    ),
    undone(
        "ip route del 128.0.0.0/1 dev wg0",
        &["default-route-split"],
        "ip route add 128.0.0.0/1 dev wg0",
    ),
    mended(
        "ip route add 100.64.0.0/10 via 192.168.77.1",
        &["routes-past-tunnel"],
        "routes-past-tunnel",
    ),
    undone(
        "ip rule add fwmark 0xca6c table 51820",
        &["policy-rules"],
        "ip rule del fwmark 0xca6c",
    ),
    mended(
        "nft 'add table inet other; add chain inet other out { type filter hook output priority 0; }; \
         add rule inet other out udp dport { 53, 5300 } counter drop'",
        &["firewall-drops-dns"],
        "firewall-drops-dns",
    ),
    mended(
        "nft 'add table ip other4; add chain ip other4 out { type nat hook output priority -100; }; \
         add rule ip other4 out tcp dport 53 dnat to 192.0.2.1'",
        &["firewall-redirects-dns"],
        "firewall-redirects-dns",
    ),
    mended(
        "iptables -t nat -A OUTPUT -p udp --dport 53 -j DNAT --to-destination 192.0.2.1",
        &["firewall-redirects-dns", "resolver-silent"],
        "firewall-redirects-dns",
    ),
    mended(
        "ip6tables -A OUTPUT -p tcp --dport 53 -j REJECT",
        &["firewall-drops-dns"],
        "firewall-drops-dns",
    ),
    mended(
        "iptables -A OUTPUT -p udp --dport 53 -j ACCEPT",
        &["firewall-accepts-dns"],
        "firewall-accepts-dns",
    ),
];

/// Runs the remedy of a finding as it is printed.
#[track_caller]
fn mend(machine: &mut Machine, id: &str) {
    let findings = machine.findings(&[]);
    let finding = findings.iter().find(|finding| finding["id"] == id).unwrap();
    machine.run(finding["remedy"].as_str().unwrap());
}

#[test]
fn a_sound_machine_has_no_finding_and_what_is_broken_is_found_and_mended() {
    let mut machine = Machine::sound();
    let _mutable = Mutable(machine.etc("resolv.conf"));
    for Break {
        by,
        found,
        mended_by,
        undone_by,
    } in BREAKS
    {
        let before = machine.findings(&[]);
        assert!(before.is_empty(), "before {by}: {before:#?}");
        machine.run(by);
        let broken = machine.findings(&[]);
        let expected: BTreeSet<&str> = found.iter().copied().collect();
        assert_eq!(ids(&broken), expected, "{by}: {broken:#?}");
        match mended_by {
            Some(id) => mend(&mut machine, id),
            None => machine.run(undone_by),
        }
    }
    let after = machine.findings(&[]);
    assert!(after.is_empty(), "{after:#?}");
}
