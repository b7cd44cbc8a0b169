//! One broken thing for each kind of finding.

use std::time::{Duration, UNIX_EPOCH};

use leakguard_common::abi::Role;

use super::super::Facts;
use super::super::firewall::Verdict;
use super::super::host::{FAR_V4, FAR_V6};
use super::sound::{ETH0, Host, WG0, address, drops, over, resolver, route, uplink};
use crate::interfaces::PolicyRule;
use crate::preflight::{Asked, Way};
use crate::sockets::{Inventory, Kind, OpenSocket};
use crate::status::{Level, Status};

/// A host that is broken in one way.
pub(super) struct Case {
    /// The finding.
    pub(super) id: &'static str,
    /// What its evidence says.
    pub(super) shows: &'static str,
    /// Breaks files.
    pub(super) files: fn(&Host),
    /// Breaks what the system says.
    pub(super) facts: fn(&mut Facts),
    /// What is found besides, as it must be.
    pub(super) with: &'static [&'static str],
}

impl Case {
    const fn of_files(id: &'static str, shows: &'static str, files: fn(&Host)) -> Self {
        Self {
            id,
            shows,
            files,
            facts: |_| {},
            with: &[],
        }
    }

    const fn of_facts(id: &'static str, shows: &'static str, facts: fn(&mut Facts)) -> Self {
        Self {
            id,
            shows,
            files: |_| {},
            facts,
            with: &[],
        }
    }

    const fn and(self, facts: fn(&mut Facts)) -> Self {
        Self { facts, ..self }
    }

    const fn with(self, with: &'static [&'static str]) -> Self {
        Self { with, ..self }
    }
}

fn status(facts: &mut Facts) -> &mut Status {
    facts.enforcement.status.as_mut().unwrap()
}

fn way(facts: &mut Facts, address: &str, way: Way) {
    facts.network.ways.insert(address.parse().unwrap(), way);
}

fn resolved(host: &Host) {
    host.run("systemd-resolve");
    host.write(
        "etc/systemd/resolved.conf",
        "[Resolve]\nFallbackDNS=\nLLMNR=no\nMulticastDNS=no\n",
    );
}

/// Whom programs ask is 127.0.0.1, where this program listens.
fn ask_here(host: &Host, program: &str) {
    host.write("etc/resolv.conf", "nameserver 127.0.0.1\n");
    host.listen(program, "0100007F");
}

fn here(facts: &mut Facts) {
    facts.network.resolvers = vec![resolver("127.0.0.1", Way::Here, None)];
}

fn nothing_enforced(facts: &mut Facts) {
    let status = status(facts);
    status.level = Level::None;
    status.mode = None;
    status.causes = vec!["nothing is enforced".to_owned()];
}

pub(super) const CASES: &[Case] = &[
    Case::of_files("kernel-too-old", "5.4.0", |host| {
        host.write("proc/sys/kernel/osrelease", "5.4.0-generic\n");
    }),
    Case::of_files("kernel-without-btf", "vmlinux", |host| {
        host.remove("sys/kernel/btf/vmlinux");
    }),
    Case::of_files("bpf-jit-off", "bpf_jit_enable = 0", |host| {
        host.write("proc/sys/net/core/bpf_jit_enable", "0\n");
    }),
    Case::of_files("kernel-without-tcx", "6.1.0", |host| {
        host.write("proc/sys/kernel/osrelease", "6.1.0-56-amd64\n");
    }),
    Case::of_files("cgroup2-not-mounted", "no cgroup2", |host| {
        host.write("proc/self/mountinfo", "2 0 0:2 / /b rw - bpf bpf rw\n");
    }),
    Case::of_files("bpffs-not-mounted", "no bpf", |host| {
        host.write(
            "proc/self/mountinfo",
            "1 0 0:1 / /c rw - cgroup2 cgroup2 rw\n",
        );
    }),
    Case::of_files("kernel-locked-down", "[confidentiality]", |host| {
        host.write(
            "sys/kernel/security/lockdown",
            "none integrity [confidentiality]\n",
        );
    }),
    Case::of_facts("nft-missing", "PATH", |facts| facts.kernel.nft = false),
    Case::of_facts("bpf-refused", "too large", |facts| {
        facts.kernel.refusal = Some("the program is too large".to_owned());
    }),
    Case::of_files("privilege-missing", "CAP_BPF", |host| {
        host.write("proc/self/status", "CapEff:\t0000000000001000\n");
    }),
    Case::of_files("cap-sys-ptrace-missing", "CapEff", |host| {
        host.write("proc/self/status", "CapEff:\t000001fffff7ffff\n");
    }),
    Case::of_files("cap-sys-resource-missing", "CapEff", |host| {
        host.write("proc/self/status", "CapEff:\t000001fffeffffff\n");
    }),
    Case::of_files("open-files-limited", "hard limit 1024", |host| {
        host.write(
            "proc/self/limits",
            "Max open files            1024   1024   files\n",
        );
    }),
    Case::of_files("not-seen", "/etc/docker/daemon.json", |host| {
        host.link("etc/docker/daemon.json", "daemon.json");
    }),
    Case::of_facts("not-enforced", "nothing is enforced", nothing_enforced),
    Case::of_facts("enforcement-unreadable", "cannot read a map", |facts| {
        facts.enforcement.status = None;
        facts.enforcement.error = Some("cannot read a map".to_owned());
    }),
    Case::of_facts("enforced-in-part", "no program is attached", |facts| {
        status(facts).level = Level::Reduced;
        status(facts).causes = vec!["no program is attached".to_owned()];
    }),
    Case::of_facts("observe-mode", "observe", |facts| {
        status(facts).mode = Some("observe");
    }),
    Case::of_facts("foreign-tc-program-first", "eth0 tc behind", |facts| {
        status(facts).interfaces[0].tc = "behind";
    }),
    Case::of_facts("kill-switch-engaged", "tunnel-down", |facts| {
        status(facts).kill_switch.as_mut().unwrap().engaged = true;
    }),
    Case::of_facts("agent-absent", "socket", |facts| {
        facts.enforcement.agent = false;
    }),
    Case::of_facts("dns-was-dropped", "7 packets of dns", |facts| {
        status(facts).packets = vec![drops("dns", 3), drops("dns", 4)];
    }),
    Case::of_facts("events-lost", "5 lost", |facts| {
        status(facts).events.lost = 5;
    }),
    Case::of_files("config-in-unsafe-hands", "writable by group", |host| {
        host.chmod("etc/leakguard/leakguard.toml", 0o666);
    }),
    Case::of_files("config-unusable", "leakguard.toml:1", |host| {
        host.write("etc/leakguard/leakguard.toml", "nonsense = 1\n");
    }),
    Case::of_files("config-readable-by-others", "mode 0644", |host| {
        host.chmod("etc/leakguard/leakguard.toml", 0o644);
    }),
    Case::of_files("no-tunnel-named", "wg0", |host| {
        host.remove("etc/leakguard/leakguard.toml");
    })
    .and(nothing_enforced)
    .with(&["not-enforced"]),
    Case::of_files(
        "state-writable-by-others",
        "/var/lib/leakguard: mode 0777",
        |host| {
            host.write("var/lib/leakguard/journal", "");
            host.chmod("var/lib/leakguard", 0o777);
        },
    ),
    Case::of_facts("tunnel-absent", "wg7", |facts| {
        facts.network.unmet = vec!["wg7".to_owned()];
    }),
    Case::of_facts("tunnel-down", "wg0", |facts| {
        facts.network.interfaces.get_mut(&WG0).unwrap().up = false;
    }),
    Case::of_facts("tunnel-without-address", "wg0", |facts| {
        facts
            .network
            .tables
            .addresses
            .retain(|address| address.ifindex != WG0);
    }),
    Case::of_facts("tunnel-of-another-kind", "pattern wg1", |facts| {
        facts.network.interfaces.get_mut(&ETH0).unwrap().passed_over = Some("wg1".to_owned());
    }),
    Case::of_facts(
        "ipv6-off-tunnel",
        "2001:4860:4860::8888 leaves by eth0",
        |facts| {
            for address in FAR_V6 {
                facts.network.ways.insert(address, uplink());
            }
        },
    ),
    Case::of_facts(
        "default-route-split",
        "198.41.0.4 leaves by eth0",
        |facts| {
            facts.network.ways.insert(FAR_V4[1], uplink());
        },
    ),
    Case::of_facts(
        "default-route-off-tunnel",
        "8.8.8.8 leaves by eth0",
        |facts| {
            for address in FAR_V4.into_iter().chain(FAR_V6) {
                facts.network.ways.insert(address, uplink());
            }
        },
    )
    .with(&["doh-unlisted"]),
    Case::of_facts(
        "routes-past-tunnel",
        "10.0.0.0/8 via 192.168.1.1 dev eth0",
        |facts| {
            let learnt = route(ETH0, "10.0.0.0/8", Some("192.168.1.1"));
            facts.network.tables.routes.push(learnt);
            way(facts, "10.0.0.1", uplink());
        },
    ),
    Case::of_facts(
        "prefix-overlap",
        "10.8.0.0/24 at wg0 overlaps 10.8.0.0/16 at eth0",
        |facts| {
            facts
                .network
                .tables
                .addresses
                .push(address(ETH0, "10.8.3.4/16"));
        },
    ),
    Case::of_facts(
        "policy-rules",
        "32764: table 51820 fwmark 0xca6c",
        |facts| {
            facts.network.tables.rules.push(PolicyRule {
                v6: false,
                priority: 32764,
                table: 51820,
                mark: Some(0xca6c),
            });
        },
    ),
    Case::of_facts(
        "resolver-over-uplink",
        "192.168.1.1 is reached over eth0",
        |facts| {
            facts
                .network
                .resolvers
                .push(resolver("192.168.1.1", uplink(), None));
        },
    ),
    Case::of_facts(
        "resolver-without-route",
        "no route to nameserver 2001:db8::1",
        |facts| {
            facts
                .network
                .resolvers
                .push(resolver("2001:db8::1", Way::Nowhere, None));
        },
    ),
    Case::of_facts("resolver-silent", "does not answer", |facts| {
        facts.network.resolvers[0].asked = Some(Asked::Silent);
    }),
    Case::of_facts("resolver-refuses", "SERVFAIL", |facts| {
        facts.network.resolvers[0].asked = Some(Asked::Refused("SERVFAIL".to_owned()));
    }),
    Case::of_files(
        "resolver-not-listening",
        "/etc/resolv.conf:1: nameserver 127.0.0.53",
        |host| {
            host.write("etc/resolv.conf", "nameserver 127.0.0.53\n");
        },
    )
    .and(|facts| {
        facts.network.resolvers = vec![resolver("127.0.0.53", Way::Here, None)];
    }),
    Case::of_files("resolv-conf-absent", "-> /run/nowhere", |host| {
        host.remove("etc/resolv.conf");
        host.link("etc/resolv.conf", "/run/nowhere");
    }),
    Case::of_files("resolv-conf-without-nameserver", "no line", |host| {
        host.write("etc/resolv.conf", "options edns0\n");
    }),
    Case::of_files(
        "resolv-conf-too-many",
        "/etc/resolv.conf:4: 10.8.0.4",
        |host| {
            host.write(
            "etc/resolv.conf",
            "nameserver 10.8.0.1\nnameserver 10.8.0.2\nnameserver 10.8.0.3\nnameserver 10.8.0.4\n",
        );
        },
    ),
    Case::of_files(
        "resolv-conf-search",
        "/etc/resolv.conf:1: home.lan",
        |host| {
            host.write("etc/resolv.conf", "search home.lan\nnameserver 10.8.0.1\n");
        },
    ),
    Case::of_files("resolv-conf-writable-by-others", "mode 0666", |host| {
        host.chmod("etc/resolv.conf", 0o666);
    }),
    Case::of_facts("resolv-conf-immutable", "lsattr", |facts| {
        facts.resolv_conf.immutable = true;
    }),
    Case::of_facts("resolv-conf-stuck", "lsattr", |facts| {
        facts.resolv_conf.immutable = true;
        facts.network.resolvers = vec![resolver("192.168.1.1", uplink(), None)];
    })
    .with(&["resolver-over-uplink"]),
    Case::of_files(
        "resolv-conf-written-by",
        "written by NetworkManager",
        |host| {
            host.write(
                "etc/resolv.conf",
                "# Generated by NetworkManager\nnameserver 10.8.0.1\n",
            );
        },
    ),
    Case::of_files(
        "resolved-asks-uplink",
        "netif/2: eth0: 192.168.1.1",
        |host| {
            resolved(host);
            host.write(
                "run/systemd/resolve/netif/2",
                "SERVERS=192.168.1.1\nDOMAINS=\n",
            );
        },
    ),
    Case::of_files(
        "resolved-global-past-tunnel",
        "resolved.conf.d/x.conf:2: DNS=1.1.1.1",
        |host| {
            resolved(host);
            host.write(
                "etc/systemd/resolved.conf.d/x.conf",
                "[Resolve]\nDNS=1.1.1.1\n",
            );
        },
    )
    .and(|facts| way(facts, "1.1.1.1", uplink())),
    Case::of_files("resolved-without-default-domain", "netif/3: wg0", |host| {
        resolved(host);
        host.write(
            "run/systemd/resolve/netif/3",
            "SERVERS=10.8.0.1\nDOMAINS=corp\n",
        );
    }),
    Case::of_files("resolved-fallback", "no FallbackDNS=", |host| {
        host.run("systemd-resolve");
        host.write(
            "etc/systemd/resolved.conf",
            "[Resolve]\nLLMNR=no\nMulticastDNS=no\n",
        );
    }),
    Case::of_files("resolved-dot", "DNSOverTLS=yes", |host| {
        resolved(host);
        host.write(
            "etc/systemd/resolved.conf.d/x.conf",
            "[Resolve]\nDNSOverTLS=yes\n",
        );
    }),
    Case::of_files("resolved-multicast", "LLMNR=yes", |host| {
        resolved(host);
        host.write(
            "etc/systemd/resolved.conf.d/x.conf",
            "[Resolve]\nLLMNR=yes\n",
        );
    }),
    Case::of_files("nss-without-dns", "nsswitch.conf:1: hosts: files", |host| {
        host.write("etc/nsswitch.conf", "hosts: files # dns\n");
    }),
    Case::of_files(
        "nss-resolve-differs",
        "resolv.conf:1: nameserver 10.8.0.1",
        |host| {
            resolved(host);
            host.write(
                "etc/nsswitch.conf",
                "hosts: files resolve [!UNAVAIL=return] dns\n",
            );
        },
    ),
    Case::of_files("nss-mdns", "mdns4_minimal", |host| {
        host.write(
            "etc/nsswitch.conf",
            "hosts: files mdns4_minimal [NOTFOUND=return] dns\n",
        );
    }),
    Case::of_files("nscd-runs", "nscd runs", |host| host.run("nscd")),
    Case::of_files("networkmanager-writes-resolv-conf", "no dns=", |host| {
        host.run("NetworkManager");
    }),
    Case::of_files(
        "networkmanager-dnsmasq",
        "NetworkManager.conf:2: dns=dnsmasq",
        |host| {
            host.run("NetworkManager");
            host.write(
                "etc/NetworkManager/NetworkManager.conf",
                "[main]\ndns=dnsmasq\n",
            );
        },
    ),
    Case::of_files("networkmanager-connectivity", "uri=http", |host| {
        host.run("NetworkManager");
        host.write(
            "etc/NetworkManager/conf.d/a.conf",
            "[main]\ndns=none\n[connectivity]\nuri=http://x.example\n",
        );
    }),
    Case::of_files("dhcp-rewrites-resolv-conf", "dhclient runs", |host| {
        host.run("dhclient");
    }),
    Case::of_files("rdnssd-rewrites-resolv-conf", "rdnssd runs", |host| {
        host.run("rdnssd");
    }),
    Case::of_files(
        "local-resolver-past-tunnel",
        "a.conf:1: server=/lan/192.168.1.1#53",
        |host| {
            ask_here(host, "dnsmasq");
            host.write(
                "etc/dnsmasq.d/a.conf",
                "server=/lan/192.168.1.1#53\nserver=10.8.0.1\n",
            );
        },
    )
    .and(|facts| {
        here(facts);
        way(facts, "192.168.1.1", uplink());
    }),
    Case::of_files(
        "local-resolver-recurses-past-tunnel",
        "no forward-addr",
        |host| {
            ask_here(host, "unbound");
        },
    )
    .and(|facts| {
        here(facts);
        facts.network.ways.insert(FAR_V4[1], uplink());
    })
    .with(&["default-route-split"]),
    Case::of_files(
        "local-resolver-unknown",
        "127.0.0.1 port 53: named",
        |host| ask_here(host, "named"),
    )
    .and(here),
    Case::of_files(
        "docker-dns-past-tunnel",
        "192.168.1.1 leaves by eth0",
        |host| {
            host.write(
                "etc/docker/daemon.json",
                r#"{"dns": ["192.168.1.1", "10.8.0.1"]}"#,
            );
        },
    )
    .and(|facts| way(facts, "192.168.1.1", uplink())),
    Case::of_files("docker-daemon-json-invalid", "daemon.json", |host| {
        host.write("etc/docker/daemon.json", "{");
    }),
    Case::of_files(
        "docker-takes-resolveds-upstreams",
        "192.168.1.1 leaves by eth0",
        |host| {
            resolved(host);
            host.run("dockerd");
            host.write("etc/resolv.conf", "nameserver 127.0.0.53\n");
            host.write(
                "run/systemd/resolve/resolv.conf",
                "nameserver 192.168.1.1\n",
            );
        },
    )
    .and(|facts| way(facts, "192.168.1.1", uplink())),
    Case::of_files("docker-falls-back", "dockerd runs", |host| {
        ask_here(host, "dnsmasq");
        host.run("dockerd");
    })
    .and(here),
    Case::of_files("podman-dns-past-tunnel", "containers.conf:2", |host| {
        host.write(
            "etc/containers/containers.conf",
            "[containers]\ndns_servers = [\"192.168.1.1\"]\n",
        );
    })
    .and(|facts| way(facts, "192.168.1.1", uplink())),
    Case::of_files("podman-falls-back", "loopback", |host| {
        ask_here(host, "dnsmasq");
        host.write("usr/bin/podman", "");
    })
    .and(here),
    Case::of_files("cni-dns-past-tunnel", "10-a.conflist", |host| {
        host.write(
            "etc/cni/net.d/10-a.conflist",
            r#"{"plugins": [{"type": "bridge", "dns": {"nameservers": ["192.168.1.1"]}}]}"#,
        );
    })
    .and(|facts| way(facts, "192.168.1.1", uplink())),
    Case::of_files("ipv6-off-on-tunnel", "disable_ipv6 = 1", |host| {
        host.write("proc/sys/net/ipv6/conf/wg0/disable_ipv6", "1\n");
    })
    .and(|facts| {
        let seen = resolver("fd08::1", over("wg0", Role::Tunnel), Some(Asked::Answered));
        facts.network.resolvers.push(seen);
    }),
    Case::of_files("ipv6-accepts-routers", "eth0.accept_ra = 1", |host| {
        host.write("proc/sys/net/ipv6/conf/eth0/accept_ra", "1\n");
    })
    .and(|facts| {
        let v6 = address(WG0, "fd08::2/64");
        facts.network.tables.addresses.retain(|known| *known != v6);
    }),
    Case::of_facts("tunnel-mtu-too-low", "mtu 1200", |facts| {
        facts.network.mtus.insert(WG0, 1200);
    }),
    Case::of_facts("tunnel-mtu-too-high", "mtu 9000", |facts| {
        facts.network.mtus.insert(WG0, 9000);
    })
    .with(&["mtu-probing-off"]),
    Case::of_facts("tunnel-mtu-over-uplink", "mtu 1492", |facts| {
        facts.network.mtus.insert(WG0, 1440);
        facts.network.mtus.insert(ETH0, 1492);
    })
    .with(&["mtu-probing-off"]),
    Case::of_facts("mtu-probing-off", "tcp_mtu_probing = 0", |facts| {
        facts.network.mtus.insert(WG0, 1500);
    })
    .with(&["tunnel-mtu-over-uplink"]),
    Case::of_files("pmtu-discovery-off", "ip_no_pmtu_disc = 1", |host| {
        host.write("proc/sys/net/ipv4/ip_no_pmtu_disc", "1\n");
    }),
    Case::of_files("cpu-without-aes", "ChaCha20", |host| {
        host.write("proc/cpuinfo", "Features\t: fp asimd\n");
    }),
    Case::of_files("cpu-throttled", "core_throttle_count: 12", |host| {
        host.write(
            "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count",
            "12\n",
        );
        host.write("sys/devices/system/cpu/cpufreq/x", "");
    }),
    Case::of_files("cpu-powersave", "acpi-cpufreq", |host| {
        host.write(
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
            "powersave\n",
        );
        host.write(
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_driver",
            "acpi-cpufreq\n",
        );
    }),
    Case::of_files("backlog-drops", "17 dropped", |host| {
        host.write(
            "proc/net/softnet_stat",
            "00431a7b 00000010 0\n003bfa91 00000001 0\n",
        );
    }),
    Case::of_files("rp-filter-strict", "eth0.rp_filter = 1", |host| {
        host.write("proc/sys/net/ipv4/conf/all/rp_filter", "0\n");
        host.write("proc/sys/net/ipv4/conf/eth0/rp_filter", "1\n");
    })
    .and(|facts| {
        facts.network.tables.rules.push(PolicyRule {
            v6: false,
            priority: 32765,
            table: 51820,
            mark: Some(0xca6c),
        });
    })
    .with(&["policy-rules"]),
    Case::of_files("forwarding-on", "ip_forward = 1", |host| {
        host.write("proc/sys/net/ipv4/ip_forward", "1\n");
    }),
    Case::of_facts("clock-wrong", "1000000", |facts| {
        facts.clock.now = UNIX_EPOCH + Duration::from_secs(1_000_000);
    }),
    Case::of_facts("clock-unsynchronised", "STA_UNSYNC", |facts| {
        facts.clock.synchronised = Some(false);
    }),
    Case::of_files(
        "browser-doh-on",
        "a.json: DnsOverHttpsMode secure",
        |host| {
            host.write(
                "etc/chromium/policies/managed/a.json",
                r#"{"DnsOverHttpsMode": "secure"}"#,
            );
        },
    ),
    Case::of_files("browser-doh-free", "/usr/bin/firefox", |host| {
        host.write("usr/bin/firefox", "");
        host.write("usr/bin/chromium", "");
        host.write(
            "etc/chromium/policies/managed/a.json",
            r#"{"DnsOverHttpsMode": "off"}"#,
        );
    }),
    Case::of_facts("firewall-drops-dns", "handle 4", |facts| {
        facts.firewall.rules = vec![(Verdict::Drop, "handle 4".to_owned())];
    }),
    Case::of_facts("firewall-redirects-dns", "handle 4", |facts| {
        facts.firewall.rules = vec![(Verdict::Redirect, "handle 4".to_owned())];
    }),
    Case::of_facts("firewall-accepts-dns", "handle 4", |facts| {
        facts.firewall.rules = vec![(Verdict::Accept, "handle 4".to_owned())];
    }),
    Case::of_facts("iptables-legacy", "filter, nat", |facts| {
        facts.firewall.legacy = vec!["filter".to_owned(), "nat".to_owned()];
    }),
    Case::of_facts("nftables-conf-flushes", "flush ruleset", |facts| {
        facts.firewall.flush_at = Some("/etc/nftables.conf:3: flush ruleset".to_owned());
    }),
    Case::of_facts("packet-socket-bypass", "inode 7", |facts| {
        facts.open_ways.inventory = Inventory {
            sockets: vec![OpenSocket {
                kind: Kind::AfXdp,
                inode: 7,
                processes: Vec::new(),
            }],
            unknown: 0,
        };
    }),
    Case::of_facts("packet-sockets-unknown", "2 sockets", |facts| {
        facts.open_ways.inventory.unknown = 2;
    }),
    Case::of_files("bypass-by-32-bit-call", "vsyscall32", |host| {
        host.write("proc/sys/abi/vsyscall32", "1\n");
    }),
    Case::of_files("boot-not-covered", "leakguard-early", |host| {
        host.write("run/systemd/system/x", "");
    }),
    Case::of_facts("cgroup-narrow", "/sys/fs/cgroup/part", |facts| {
        facts.open_ways.cgroup = Some("/sys/fs/cgroup/part".to_owned());
    }),
    Case::of_facts("doh-unlisted", "8.8.8.8 leaves by eth0", |facts| {
        for address in FAR_V4.into_iter().chain(FAR_V6) {
            facts.network.ways.insert(address, uplink());
        }
    })
    .with(&["default-route-off-tunnel"]),
];
