use std::time::Duration;

use hickory_proto::rr::Name;

use super::*;
use crate::config::{
    Cache, Endpoint, EndpointProtocol, EventsLayer, KillSwitchLayer, KillSwitchMode, Labels,
    MetricsLayer, OtlpEndpoint, RatePerKey, ResolverLayer, Strategy, VerifyLayer, Word,
};

/// The error for a text, as `line:column: message`.
fn error(text: &str) -> String {
    let ParseError { position, problem } = parse(text).unwrap_err();
    format!("{position}: {problem}")
}

fn patterns_of(names: &[&str]) -> Vec<Pattern> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn config(text: &str) -> Config {
    Config::new(parse(text).unwrap()).unwrap()
}

fn words(words: &[&str]) -> Vec<Word> {
    words
        .iter()
        .map(|word| Word::named(word).unwrap())
        .collect()
}

#[test]
fn every_key_is_read() {
    let layer = parse(
        r#"
        mode = "observe"
        on_exit = "release"
        preflight = "refuse"
        [interfaces]
        tunnel = ["wg0", "tun*"]
        local = ["br-*"]
        uplink = ["eth0"]
        netlink_buffer = 65536
        [dns]
        block = ["dot", "dns", "dot"]
        ports = [5300, 1]
        doh_resolvers = "/etc/leakguard/resolvers"
        fragments = "strict"
        report_shaped = true
        redirect = ["fd00::1", "10.8.0.1"]
        redirect_except = ["/system.slice/unbound.service", "stubby"]
        [ipv6]
        policy = "block-off-tunnel"
        [hardening]
        packet_sockets = "strict"
        [kill_switch]
        mode = "tunnel-down"
        endpoints = [
            { address = "203.0.113.5", port = 51820, mark = 0xca6c },
            { address = "2001:db8::5", port = 443, protocol = "tcp", cgroup = "/system.slice/vpn.service" },
        ]
        dhcp = false
        ndp = false
        lan = ["192.168.1.7/24", "fd00::1"]
        handshake_max = "3m"
        [events]
        rate_per_key = 3
        file = "/var/log/leakguard/events.ndjson"
        audit_log = "/var/log/leakguard/audit.ndjson"
        journald = true
        otlp = "http://127.0.0.1:4318"
        [metrics]
        listen = "0.0.0.0:9853"
        public = true
        labels = { node = "a1" }
        [resolver]
        strategy = "resolved-off"
        servers = ["10.8.0.1", "fd00::1"]
        search = ["corp.example"]
        options = ["edns0", "timeout:1"]
        immutable = false
        cache = "unbound"
        upstream_tls = "dns.corp.example"
        trust_anchor = "/etc/root.key"
        sources = ["10.8.0.2"]
        insecure = ["internal"]
        containers = false
        ipv6_sysctl = true
        netdev_max_backlog = 5000
        watch = false
        [verify]
        interval = "5m"
        latency_max = "80ms"
        mtu = [1300, 1420]
        signed_name = "example.org"
        bogus_name = ""
        "#,
    )
    .unwrap();
    let mut labels = Labels::default();
    labels.add("node", "a1").unwrap();
    let mut ports = ExtraPorts::default();
    ports.add(5300).unwrap();
    ports.add(1).unwrap();
    let expected = Layer {
        mode: Some(Mode::Observe),
        on_exit: Some(OnExit::Release),
        preflight: Some(Preflight::Refuse),
        tunnel: Some(patterns_of(&["wg0", "tun*"])),
        local: Some(patterns_of(&["br-*"])),
        uplink: Some(patterns_of(&["eth0"])),
        netlink_buffer: Some(NetlinkBuffer::new(65536).unwrap()),
        block: Some(
            ["dns", "dot"]
                .iter()
                .map(|name| class_named(name).unwrap())
                .collect(),
        ),
        ports: Some(ports),
        doh_resolvers: Some(DohResolvers::File("/etc/leakguard/resolvers".into())),
        fragments: Some(Fragments::Strict),
        report_shaped: Some(true),
        redirect: Some(vec![
            "10.8.0.1".parse().unwrap(),
            "fd00::1".parse().unwrap(),
        ]),
        spared: Some(vec![
            Spared::Cgroup("/system.slice/unbound.service".into()),
            Spared::Process("stubby".into()),
        ]),
        ipv6: Some(Ipv6Policy::BlockOffTunnel),
        packet_sockets: Some(PacketSockets::Strict),
        kill_switch: KillSwitchLayer {
            mode: Some(KillSwitchMode::TunnelDown),
            endpoints: Some(vec![
                Endpoint {
                    address: "203.0.113.5".parse().unwrap(),
                    port: 51820,
                    protocol: EndpointProtocol::Udp,
                    mark: 0xca6c,
                    cgroup: None,
                },
                Endpoint {
                    address: "2001:db8::5".parse().unwrap(),
                    port: 443,
                    protocol: EndpointProtocol::Tcp,
                    mark: 0,
                    cgroup: Some("/system.slice/vpn.service".into()),
                },
            ]),
            dhcp: Some(false),
            ndp: Some(false),
            lan: Some(vec![
                "192.168.1.0/24".parse().unwrap(),
                "fd00::1/128".parse().unwrap(),
            ]),
            handshake_max: Some(Some(Duration::from_mins(3))),
        },
        events: EventsLayer {
            file: Some("/var/log/leakguard/events.ndjson".into()),
            audit_log: Some("/var/log/leakguard/audit.ndjson".into()),
            journald: Some(true),
            otlp: Some(OtlpEndpoint::named("http://127.0.0.1:4318").unwrap()),
            rate_per_key: Some(RatePerKey::new(3).unwrap()),
        },
        metrics: MetricsLayer {
            listen: Some("0.0.0.0:9853".parse().unwrap()),
            public: Some(true),
            labels: Some(labels),
        },
        resolver: ResolverLayer {
            strategy: Some(Strategy::ResolvedOff),
            servers: Some(vec![
                "10.8.0.1".parse().unwrap(),
                "fd00::1".parse().unwrap(),
            ]),
            search: Some(words(&["corp.example"])),
            options: Some(words(&["edns0", "timeout:1"])),
            immutable: Some(false),
            cache: Some(Cache::Unbound),
            upstream_tls: Some(Word::named("dns.corp.example").unwrap()),
            trust_anchor: Some("/etc/root.key".into()),
            sources: Some(vec!["10.8.0.2".parse().unwrap()]),
            insecure: Some(words(&["internal"])),
            containers: Some(false),
            ipv6_sysctl: Some(true),
            netdev_max_backlog: Some(5000),
            watch: Some(false),
        },
        verify: VerifyLayer {
            interval: Some(Some(Duration::from_mins(5))),
            latency_max: Some(Duration::from_millis(80)),
            mtu: Some(1300..=1420),
            signed_name: Some(Some(Name::from_ascii("example.org.").unwrap())),
            bogus_name: Some(None),
        },
    };
    assert_eq!(layer, expected);
}

#[test]
fn what_a_file_leaves_out_is_not_set() {
    for text in ["", "# nothing\n", "[dns]\n[interfaces]\n"] {
        assert_eq!(parse(text).unwrap(), Layer::default());
    }
}

#[test]
fn the_example_is_the_defaults_and_a_tunnel() {
    let example = config(include_str!("../../../../dist/leakguard.toml"));
    let expected = Layer {
        tunnel: Some(patterns_of(&["wg0"])),
        ..Layer::default()
    };
    assert_eq!(example, Config::new(expected).unwrap());
}

#[test]
fn what_is_shown_reads_back_the_same() {
    for text in [
        "",
        "mode = 'observe'\non_exit = 'release'\npreflight = 'off'",
        "[interfaces]\ntunnel = ['auto', 'tun*']\nlocal = ['br[0-9]']\nuplink = ['eth0']",
        "[interfaces]\ntunnel = ['veth:vpn0', 'any:x']\nnetlink_buffer = 70000",
        "[dns]\nblock = ['netbios', 'dns']\nports = [1, 65535]",
        "[ipv6]\npolicy = 'block-off-tunnel'",
        "[resolver]\nservers = ['10.8.0.1', 'fd00::1']\ncache = 'unbound'\nupstream_tls = 'a.example'\ntrust_anchor = '/k'",
        "[resolver]\nstrategy = 'static'\ncache = 'dnsmasq'\nnetdev_max_backlog = 5\nsearch = ['a', 'b']\nwatch = false",
        "[hardening]\npacket_sockets = 'off'",
        "[events]\nrate_per_key = 0\nfile = '/a b/c'\naudit_log = '/d'\njournald = true\notlp = 'http://[::1]:4318/x'",
        "[metrics]\nlisten = '192.0.2.1:9853'\npublic = true\nlabels = { node = 'a \"1\"', region = 'eu' }",
        "[metrics]\nlisten = '[::1]:9853'",
        "[kill_switch]\nmode = 'always'\ndhcp = false\nlan = ['10.0.0.0/8']\nhandshake_max = '1500ms'\n\
         [[kill_switch.endpoints]]\naddress = '203.0.113.5'\nport = 1194\nprotocol = 'tcp'\nmark = 7\n\
         [[kill_switch.endpoints]]\naddress = 'fd00::1'\nport = 1194\ncgroup = '/vpn'",
    ] {
        let original = config(text);
        assert_eq!(config(&render(&original).unwrap()), original, "{text}");
    }
}

#[test]
fn unknown_keys_are_refused_and_the_known_ones_listed() {
    assert_eq!(
        error("mode = \"enforce\"\nverifies = 1\n"),
        "2:1: unknown field `verifies`, expected one of `mode`, `on_exit`, `preflight`, `interfaces`, `dns`, `kill_switch`, `ipv6`, `hardening`, \
         `events`, `metrics`, `resolver`, `verify`"
    );
    assert_eq!(
        error("[kill_switch]\nlans = []"),
        "2:1: unknown field `lans`, expected one of `mode`, `dhcp`, `ndp`, `lan`, `handshake_max`, `endpoints`"
    );
    assert_eq!(
        error("[kill_switch]\nendpoints = [{ address = '1.2.3.4', host = 'vpn' }]"),
        "2:37: unknown field `host`, expected one of `address`, `port`, `protocol`, `mark`, `cgroup`"
    );
    assert_eq!(
        error("[interfaces]\ntunnels = []"),
        "2:1: unknown field `tunnels`, expected one of `tunnel`, `local`, `uplink`, `netlink_buffer`"
    );
    assert_eq!(
        error("[dns]\n\nredirects = []"),
        "3:1: unknown field `redirects`, expected one of `block`, `ports`, `doh_resolvers`, `fragments`, \
         `report_shaped`, `redirect`, `redirect_except`"
    );
}

#[test]
fn what_is_wrong_with_a_kill_switch_is_said_where_it_stands() {
    let endpoint = |fields: &str| {
        error(&format!(
            "[kill_switch]\nendpoints = [{{ address = '1.2.3.4', port = 7, {fields} }}]"
        ))
    };
    assert_eq!(
        endpoint("protocol = 'udp'"),
        "2:14: the endpoint is open to every process; say by what the VPN's packets are known: `mark` (wg set … \
         fwmark) or `cgroup`"
    );
    for (fields, wrong) in [
        ("mark = 0", "0 is not a mark"),
        ("mark = 4294967296", "4294967296 is not a mark"),
        (
            "protocol = 'sctp'",
            "unknown protocol `sctp`; allowed: udp, tcp",
        ),
        (
            "cgroup = 'vpn.service'",
            "`vpn.service` is no cgroup of its own",
        ),
    ] {
        let error = endpoint(fields);
        assert!(error.contains(wrong), "{error}");
    }
    for (text, wrong) in [
        (
            "mode = 'on'",
            "2:8: unknown kill switch mode `on`; allowed: off, tunnel-down, always",
        ),
        (
            "lan = ['10.0.0.0/8', 'home']",
            "2:22: `home` is not a prefix of a network",
        ),
        ("handshake_max = 'soon'", "2:17: `soon` is not a time"),
        ("dhcp = 'yes'", "2:8: "),
        (
            "endpoints = [{ address = 'vpn.example.com', port = 7, mark = 1 }]",
            "2:26: `vpn.example.com` is not an IP address",
        ),
        (
            "endpoints = [{ address = '::1', port = 0, mark = 1 }]",
            "2:40: 0 is not a port",
        ),
        (
            "endpoints = [{ port = 1, mark = 1 }]",
            "missing field `address`",
        ),
    ] {
        let error = error(&format!("[kill_switch]\n{text}"));
        assert!(error.contains(wrong), "{error}");
    }
}

#[test]
fn unknown_names_are_refused_and_the_known_ones_listed() {
    assert_eq!(
        error("mode = 'monitor'"),
        "1:8: unknown mode `monitor`; allowed: observe, enforce"
    );
    assert_eq!(
        error("on_exit = ''"),
        "1:11: unknown on_exit ``; allowed: keep, release"
    );
    assert_eq!(
        error("preflight = 'no'"),
        "1:13: unknown preflight `no`; allowed: warn, refuse, off"
    );
    assert_eq!(
        error("[dns]\nblock = [\"dns\",\n  \"tor\"]"),
        "3:3: unknown class `tor`; allowed: dns, dot, doq, mdns, llmnr, netbios, doh"
    );
    assert!(error("[dns]\nblock = ['DNS']").starts_with("2:10: unknown class `DNS`"));
}

#[test]
fn wrong_types_say_what_is_wanted() {
    for (text, expected) in [
        (
            "mode = 3",
            "1:8: invalid type: integer `3`, expected a string",
        ),
        (
            "[mode.enforce]",
            "1:2: invalid type: map, expected a string",
        ),
        (
            "dns = 4",
            "1:7: invalid type: integer `4`, expected a table, such as [dns]",
        ),
        (
            "[[dns]]",
            "1:1: invalid type: sequence, expected a table, such as [dns]",
        ),
        (
            "[interfaces]\ntunnel = 'wg0'",
            "2:10: invalid type: string \"wg0\", expected a list in square brackets",
        ),
        (
            "[interfaces]\ntunnel = ['wg0', 3]",
            "2:18: invalid type: integer `3`, expected a string",
        ),
        (
            "[dns]\nports = ['a']",
            "2:10: invalid type: string \"a\", expected a port, 1 to 65535",
        ),
        (
            "[dns]\nports = [1.5]",
            "2:10: invalid type: floating point `1.5`, expected a port, 1 to 65535",
        ),
    ] {
        assert_eq!(error(text), expected, "{text}");
    }
}

#[test]
fn malformed_text_is_located() {
    for (text, position) in [
        ("mode = \"enforce", "1:16:"),
        ("mode", "1:5:"),
        ("\n  = 1", "2:3:"),
        ("mode = 'observe'\nmode = 'enforce'", "2:1: duplicate key"),
        ("# ä\nx = \u{1}", "2:5:"),
    ] {
        assert!(
            error(text).starts_with(position),
            "{text:?}: {}",
            error(text)
        );
        assert!(!error(text).contains('\n'), "{text:?}: {}", error(text));
    }
}

#[test]
fn a_bad_pattern_is_located() {
    assert!(error("[interfaces]\ntunnel = ['wg0', '']").starts_with("2:18: "));
    assert!(error("[interfaces]\nlocal = ['a/b']").starts_with("2:10: "));
    assert!(error("[interfaces]\nlocal = ['a/b']").contains("`a/b`"));
}

#[test]
fn rules_are_located() {
    for (text, expected) in [
        (
            "[interfaces]\ntunnel = ['a']\nuplink = ['b', 'a']",
            "3:16: `a` is named as tunnel and as uplink; keep it in one of the two",
        ),
        (
            "[interfaces]\nlocal = ['a']\ntunnel = ['a']",
            "2:10: `a` is named as tunnel and as local; keep it in one of the two",
        ),
        (
            "[interfaces]\nlocal = ['auto']",
            "2:10: `auto` stands for tunnels and cannot be in `local`; name the interfaces",
        ),
        (
            "[interfaces]\nnetlink_buffer = 4096",
            "2:18: a netlink_buffer of 4096 bytes is not allowed; set it from 65536 to 536870912, or leave it out \
             for 8388608",
        ),
        (
            "[interfaces]\nnetlink_buffer = 1000000000000",
            "2:18: a netlink_buffer of 1000000000000 bytes is not allowed; set it from 65536 to 536870912, or leave it \
             out for 8388608",
        ),
        (
            "[dns]\nports = [1, 70000]",
            "2:13: 70000 is not a port; allowed: 1 to 65535",
        ),
        (
            "[dns]\nports = [0]",
            "2:10: 0 is not a port; allowed: 1 to 65535",
        ),
        (
            "[dns]\nports = [853]",
            "2:10: port 853 is judged as `dot` already; leave it out of `ports`",
        ),
        (
            "[dns]\nports = [99, 99]",
            "2:14: port 99 is given twice; name it once",
        ),
        (
            "[dns]\nports = [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,\n17]",
            "3:1: too many extra ports; allowed: 16",
        ),
    ] {
        assert_eq!(error(text), expected, "{text}");
    }
    assert!(error("[dns]\nblock = []").starts_with("2:9: `block` is empty"));
}

#[test]
fn what_is_wrong_with_outputs_is_said_where_it_stands() {
    for (text, expected) in [
        (
            "[events]\nfiles = ''",
            "2:1: unknown field `files`, expected one of `rate_per_key`, `file`, `audit_log`, `journald`, `otlp`",
        ),
        (
            "[events]\nfile = 'x.ndjson'",
            "2:8: `x.ndjson` is not the whole path",
        ),
        (
            "[events]\nfile = '/var/log/'",
            "2:8: `/var/log/` is not the whole path",
        ),
        (
            "[events]\nfile = '/x'\naudit_log = '/x'",
            "3:13: /x cannot be the file of events and the audit log",
        ),
        (
            "[events]\nrate_per_key = -1",
            "2:16: -1 is not a number of events",
        ),
        (
            "[events]\nrate_per_key = 1000001",
            "2:16: 1000001 is not a number of events",
        ),
        (
            "[events]\notlp = 'https://x'",
            "2:8: `https://x` is not the address of an OTLP receiver",
        ),
        (
            "[metrics]\nlabel = {}",
            "2:1: unknown field `label`, expected one of `listen`, `public`, `labels`",
        ),
        (
            "[metrics]\nlisten = ':9853'",
            "2:10: `:9853` is not an address and a port",
        ),
        (
            "[metrics]\nlisten = '0.0.0.0:9853'",
            "2:10: other hosts could read the metrics at 0.0.0.0:9853; use a loopback address",
        ),
        (
            "[metrics]\nlabels = { 'a-b' = 'x' }",
            "2:10: `a-b` is not the name of a label",
        ),
        (
            "[metrics]\nlabels = { class = 'x' }",
            "2:10: leakguard's own metrics have a label `class`",
        ),
        (
            "[metrics]\nlabels = { node = 1 }",
            "2:19: invalid type: integer `1`",
        ),
        (
            "[resolver]\nservers = ['10.8.0.1', 'dns']",
            "2:24: `dns` is not an IP address",
        ),
        ("[resolver]\nsearch = ['a;b']", "2:11: `a;b` is not a name"),
        (
            "[resolver]\nnetdev_max_backlog = 0",
            "2:22: 0 is not a number of packets",
        ),
    ] {
        let error = error(text);
        assert!(error.starts_with(expected), "{text}: {error}");
    }
}

#[test]
fn no_text_makes_it_panic() {
    // Every prefix of a full file, cut at any character and continued by junk.
    let text = include_str!("../../../../dist/leakguard.toml");
    for (end, _) in text.char_indices() {
        for junk in ["", "\"", "[", "ä=", "\u{0}"] {
            drop(parse(&format!("{}{junk}", &text[..end])));
        }
    }
}
