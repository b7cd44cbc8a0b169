//! Leaks that were planted, one by one: each is found, named, and counted as the ISP counts it.

use std::collections::BTreeSet;

use leakguard::kernel::pins::Pins;
use leakguard::lab::{Observer, Topology, output_within};
use leakguard_common::abi::Class;
use leakguard_tests::{Bench, Carrier, detach, write_config};

use super::runs::{LIMIT, Run, UNSIGNED, verify};

const UPLINK: &str = Topology::UPLINK;
const STRICT: [&str; 2] = ["--packet-sockets", "strict"];

/// Ways of sending that cgroup programs judge.
const SOCKETS: [&str; 7] = [
    "udp",
    "connected",
    "tcp",
    "bound-device",
    "bound-address",
    "raw",
    "fragments",
];

/// The names of all classes.
fn classes() -> BTreeSet<String> {
    Class::ALL
        .iter()
        .map(|class| class.name().to_owned())
        .collect()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

impl Run {
    /// The values of one property over everything that leaked.
    fn all(&self, property: &str) -> BTreeSet<String> {
        let leaked = self.leaked([property, property, property]);
        leaked.into_iter().map(|[value, ..]| value).collect()
    }

    /// Asserts that exactly these ways leak, that nothing else fails, and that the ISP saw the same.
    #[track_caller]
    fn assert_leaks(&self, ways: &BTreeSet<String>, classes: &BTreeSet<String>) {
        println!(
            "{} packets left, {} seen by the ISP",
            self.counted().len(),
            self.seen.len(),
        );
        assert_eq!(self.code, 3);
        assert_eq!(&self.all("way"), ways, "{:#}", self.report["checks"]);
        assert_eq!(&self.all("class"), classes, "{:#}", self.report["checks"]);
        let failed: BTreeSet<String> = self
            .failures()
            .into_iter()
            .map(|(name, _, result)| {
                assert_eq!(result, "fail", "{:#}", self.report["checks"]);
                name
            })
            .filter(|name| name != "level" && name != "role")
            .collect();
        assert_eq!(&failed, ways, "{:#}", self.report["checks"]);
        self.assert_agreement();
    }
}

/// A device whose agent was killed, so that nobody mends what is broken.
fn without_agent(arguments: &[&str]) -> Bench {
    let mut bench = Bench::with_tunnel();
    bench.protect(arguments).kill9().unwrap();
    bench
}

/// Takes the TC program off the uplink.
fn detach_tc(bench: &Bench) {
    let index = || nix::net::if_::if_nametoindex(UPLINK).unwrap();
    let index = bench.topology.host().run_in(index).unwrap();
    detach(&Pins::at(bench.bpffs.path()).tcx_link(index));
}

fn nft(bench: &Bench, arguments: &[&str]) {
    let mut nft = bench.topology.host().command("nft");
    nft.args(arguments);
    let output = output_within(nft, LIMIT).unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Makes an uplink that no program was attached to, with the way to everywhere over it.
fn rogue(bench: &Bench) -> Observer {
    let far = Carrier::Veth.open(&bench.topology, "rogue0", None, "");
    let host = bench.topology.host();
    host.ip_batch(
        "route del 198.51.100.53/32 dev rogue0\n\
         route del 2001:db8:53::53/128 dev rogue0\n\
         route replace 192.0.2.0/25 via 10.99.0.2 dev rogue0 onlink\n\
         route replace 2001:db8:6c67::/64 via fd99::2 dev rogue0 onlink\n",
    )
    .unwrap();
    far
}

/// What leaks where nothing is judged, but for what the options of sockets are refused.
fn everything() -> BTreeSet<String> {
    let mut ways = set(SOCKETS);
    ways.extend(set(["packet", "forwarded"]));
    ways
}

/// The second net leaves what is forwarded to the TC programs of uplinks that have one.
#[test]
fn packet_sockets_and_forwarded_packets_leak_without_the_tc_program() {
    let mut bench = without_agent(&[]);
    detach_tc(&bench);
    let run = verify(&mut bench, UNSIGNED, &["--quick"]);
    run.assert_leaks(&set(["packet", "forwarded"]), &classes());
}

#[test]
fn ordinary_sockets_leak_without_the_cgroup_and_tc_programs() {
    let mut bench = without_agent(&[]);
    detach_tc(&bench);
    detach(&Pins::at(bench.bpffs.path()).cgroup_link());
    let run = verify(&mut bench, UNSIGNED, &["--quick"]);
    run.assert_leaks(&everything(), &classes());
}

#[test]
fn forwarded_packets_leak_by_a_new_uplink_without_the_second_net() {
    let mut bench = without_agent(&[]);
    let mut far = rogue(&bench);
    nft(&bench, &["delete", "table", "inet", "leakguard"]);
    let mut run = verify(&mut bench, UNSIGNED, &["--quick"]);
    run.note(&far.drain().unwrap());
    run.assert_leaks(&set(["packet", "forwarded"]), &classes());
    assert_eq!(run.all("interface"), set(["rogue0"]));
}

#[test]
fn an_uplink_on_the_allow_list_is_tested_nonetheless() {
    let mut bench = Bench::with_tunnel();
    let agent = bench.protect(&[]);
    let output = agent.output(&["allow", "add", UPLINK]).unwrap();
    assert!(output.status.success(), "{output:?}");
    let run = verify(&mut bench, UNSIGNED, &["--quick"]);
    run.assert_leaks(&everything(), &classes());
    assert_eq!(run.check("role").0, "fail");
}

#[test]
fn an_uplink_that_is_called_local_is_tested_nonetheless() {
    let mut bench = Bench::with_tunnel();
    bench.protect(&["--local", UPLINK]);
    let run = verify(&mut bench, UNSIGNED, &["--quick", "--local", UPLINK]);
    run.assert_leaks(&everything(), &classes());
    assert_eq!(run.check("role").0, "fail");
}

#[test]
fn packet_sockets_leak_by_an_uplink_that_came_when_no_agent_ran() {
    let mut bench = without_agent(&[]);
    let mut far = rogue(&bench);
    let mut run = verify(&mut bench, UNSIGNED, &["--quick"]);
    run.note(&far.drain().unwrap());
    // The second net holds what is forwarded, but does not read the name in a TLS hello.
    run.assert_leaks(&set(["packet", "forwarded"]), &classes());
    assert_eq!(run.all("interface"), set(["rogue0"]));
    let leaked = run.leaked(["way", "class", "transport"]);
    let forwarded = leaked.iter().filter(|[way, ..]| way == "forwarded");
    assert_eq!(
        forwarded.collect::<Vec<_>>(),
        [&["forwarded", "doh", "tcp"].map(str::to_owned)]
    );
}

/// The ways by which a class can be sent: those over TCP have no datagrams, and the other way round.
fn ways_of(class: Class) -> BTreeSet<String> {
    let mut ways = everything();
    match class {
        Class::Dns | Class::Llmnr | Class::Doh => {}
        Class::Dot => {
            for datagrams in ["udp", "connected", "bound-address", "fragments"] {
                ways.remove(datagrams);
            }
        }
        Class::Doq | Class::Mdns | Class::Netbios => {
            ways.remove("tcp");
        }
    }
    ways
}

#[test]
fn each_class_leaks_that_is_not_blocked_but_asked_for() {
    let mut bench = Bench::with_tunnel();
    for &class in Class::ALL {
        let others = Class::ALL.iter().filter(|&&other| other != class);
        let others: Vec<_> = others.map(|other| other.name()).collect();
        bench.protect(&["--block", &others.join(",")]);
        let all = Class::ALL.iter().map(|class| class.name());
        let all = all.collect::<Vec<_>>().join(",");
        let run = verify(&mut bench, UNSIGNED, &["--quick", "--block", &all]);
        run.assert_leaks(&ways_of(class), &set([class.name()]));
        bench.unprotect();
    }
}

#[test]
fn what_the_enforcement_leaves_out_is_not_asked_for() {
    let mut bench = Bench::with_tunnel();
    bench.protect(&["--block", "dns"]);
    let run = verify(&mut bench, UNSIGNED, &["--quick"]);
    assert_eq!(run.failures(), [].into(), "{:#}", run.report);
}

#[test]
fn everything_leaks_in_observe_mode() {
    let mut bench = Bench::with_tunnel();
    bench.protect(&["--mode", "observe"]);
    let run = verify(&mut bench, UNSIGNED, &["--quick"]);
    let mut ways = everything();
    ways.insert("packet-bypass".into());
    run.assert_leaks(&ways, &classes());
    assert_eq!(run.check("level").0, "fail");
}

#[test]
fn everything_leaks_once_released() {
    let mut bench = Bench::with_tunnel();
    bench.protect(&STRICT);
    bench.unprotect();
    let run = verify(&mut bench, UNSIGNED, &["--quick"]);
    let mut ways = everything();
    ways.insert("packet-bypass".into());
    run.assert_leaks(&ways, &classes());
    assert_eq!(run.check("level").0, "fail");
}

#[test]
fn what_bypasses_the_queueing_layer_leaks_where_that_is_let() {
    let mut bench = Bench::with_tunnel();
    bench.protect(&["--packet-sockets", "off"]);
    let run = verify(&mut bench, UNSIGNED, &["--quick"]);
    run.assert_leaks(&set(["packet-bypass"]), &classes());
    assert_eq!(run.all("seen_by"), set(["sender"]));
}

#[test]
fn a_later_fragment_leaks_where_only_those_of_dropped_ones_are_dropped() {
    let mut bench = Bench::with_tunnel();
    bench.protect(&[]);
    let config = format!("{UNSIGNED}[dns]\nfragments = 'strict'\n");
    let run = verify(&mut bench, &config, &["--quick"]);
    run.assert_leaks(&set(["late-fragment"]), &set(["dns"]));
}

#[test]
fn ipv6_leaks_where_somebody_thought_of_ipv4_only() {
    let mut bench = Bench::with_tunnel();
    bench.protect(&[]);
    bench.unprotect();
    let rules = format!(
        "add table netdev mine; add chain netdev mine out {{ type filter hook egress device {UPLINK} priority 0; }}; \
         add rule netdev mine out meta protocol ip ip ttl 1 drop"
    );
    nft(&bench, &[&rules]);
    let run = verify(&mut bench, UNSIGNED, &["--quick"]);
    let mut ways = everything();
    ways.insert("packet-bypass".into());
    // What is forwarded of IPv4 cannot be tested there, and what is of IPv6 leaks.
    run.assert_leaks(&ways, &classes());
    assert_eq!(run.all("family"), set(["ipv6"]));
}

#[test]
fn dns_over_https_leaks_to_a_resolver_that_only_the_auditor_knows() {
    let mut bench = Bench::with_tunnel();
    let theirs = write_config("192.0.2.200\nother.example\n");
    let ours = write_config("192.0.2.99\n2001:db8::99\nplanted.example\n");
    let lines = |list: &std::path::Path| format!("[dns]\ndoh_resolvers = '{}'\n", list.display());
    let config = write_config(&lines(theirs.path()));
    bench.protect(&["--config", config.path().to_str().unwrap()]);
    let config = format!("{UNSIGNED}{}", lines(ours.path()));
    let run = verify(&mut bench, &config, &["--quick"]);
    run.assert_leaks(&everything(), &set(["doh"]));

    let config = format!("{UNSIGNED}{}", lines(theirs.path()));
    let run = verify(&mut bench, &config, &["--quick"]);
    assert_eq!(run.failures(), [].into(), "{:#}", run.report);
}
