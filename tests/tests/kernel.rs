//! What depends on the kernel's version: run natively, and on older kernels by `cargo xtask vm-test`.
//!
//! Every promise is checked from outside, with its positive control; no program but iproute2, nft and bash is needed.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a helper that fails has to fail its test"
)]

use std::ffi::OsString;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use leakguard::kernel::pins::Pins;
use leakguard::kernel::{Device, Enforcement};
use leakguard::lab::{
    Agent, AgentConfig, Bpffs, Cgroup, Directions, Frame, LabError, Netns, Observer, Topology,
    address, output_within, wait_until,
};
use leakguard_common::abi::{Role, Settings};
use leakguard_common::packet::LinkLayer;
use leakguard_tests::{Foreign, agent_binary};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How many packets each probe sends.
const PROBES: usize = 20;
/// Emulated machines are slow.
const LIMIT: Duration = Duration::from_mins(1);

const TUNNEL: &str = "tun0";
const RESOLVER: Ipv4Addr = address::ISP_RESOLVER_V4;

/// What `status` says of TC on an uplink of this kernel.
fn expected_tc() -> &'static str {
    let name = nix::sys::utsname::uname().unwrap();
    let release = name.release().to_str().unwrap().to_owned();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next().unwrap(), numbers.next().unwrap());
    if version >= (6, 6) { "head" } else { "clsact" }
}

/// Runs a program in a namespace; it has to succeed.
fn run(netns: &Netns, program: &str, arguments: &[&str]) -> String {
    let mut command = netns.command(program);
    command.args(arguments);
    let output = output_within(command, LIMIT).unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The filters at the clsact egress of an interface.
fn clsact_filters(netns: &Netns, interface: &str) -> Vec<String> {
    run(netns, "tc", &["filter", "show", "dev", interface, "egress"])
        .lines()
        .filter(|line| line.contains("handle"))
        .map(str::to_owned)
        .collect()
}

/// A host with a tunnel, a container behind it, and an observer outside.
struct Lab {
    observer: Observer,
    topology: Topology,
    bpffs: Bpffs,
    cgroup: Cgroup,
}

impl Lab {
    fn new() -> Self {
        let topology = Topology::with_client().unwrap();
        topology
            .host()
            .ip_batch(&format!(
                "tuntap add dev {TUNNEL} mode tun\n\
                 link set {TUNNEL} up\n\
                 addr add 10.8.0.2/24 dev {TUNNEL}\n"
            ))
            .unwrap();
        let observer =
            Observer::new(topology.isp(), Topology::OBSERVED, Directions::Incoming).unwrap();
        Self {
            observer,
            topology,
            bpffs: Bpffs::new().unwrap(),
            cgroup: Cgroup::new("kernel").unwrap(),
        }
    }

    fn agent(&self) -> Agent {
        let mut agent = Agent::spawn(&AgentConfig {
            binary: agent_binary(),
            netns: self.topology.host(),
            cgroup: &self.cgroup,
            bpffs: &self.bpffs,
            tunnels: vec![TUNNEL.to_owned()],
            arguments: vec![OsString::from("-v")],
        })
        .unwrap();
        agent.await_enforcing(LIMIT).unwrap();
        agent
    }

    /// Sends from a process of the cgroup, in any namespace.
    fn send_from(&self, netns: &Netns, server: Ipv4Addr) -> Output {
        let mut bash = netns.command("bash");
        bash.env("LC_ALL", "C").arg("-c").arg(format!(
            "result=0; for ((n = 0; n < {PROBES}; n++)); do \
             echo question >/dev/udp/{server}/53 || result=1; done; exit $result"
        ));
        self.cgroup.attach(&mut bash);
        output_within(bash, LIMIT).unwrap()
    }

    fn send_from_client(&self) {
        let client = self.topology.client().unwrap();
        client
            .run_in(|| {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
                for _ in 0..PROBES {
                    // A refusal that came back for an earlier one is reported here.
                    while socket.send_to(b"question", (RESOLVER, 53)).is_err() {}
                }
            })
            .unwrap();
    }

    /// How many DNS packets have left the host since the last call.
    fn left(&mut self) -> usize {
        let frames = self
            .observer
            .drain_past_fence(self.topology.host())
            .unwrap();
        assert_eq!(self.observer.lost().unwrap(), 0);
        frames
            .iter()
            .filter_map(|frame| Frame::parse(frame))
            .filter(|frame| frame.is_udp() && frame.destination.port() == 53)
            .count()
    }

    fn assert_open(&mut self) {
        let output = self.send_from(self.topology.host(), RESOLVER);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(self.left(), PROBES, "local");
        self.send_from_client();
        assert_eq!(self.left(), PROBES, "forwarded");
    }

    fn assert_closed(&mut self) {
        let output = self.send_from(self.topology.host(), RESOLVER);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            errors.matches("Operation not permitted").count(),
            PROBES,
            "{errors}"
        );
        assert_eq!(self.left(), 0, "local");
        self.send_from_client();
        assert_eq!(self.left(), 0, "forwarded");
    }
}

/// What `status` says of TC on an interface.
fn tc(agent: &Agent, interface: &str) -> String {
    let status = agent.status_json().unwrap();
    status["interfaces"]
        .as_array()
        .unwrap()
        .iter()
        .find(|found| found["name"] == interface)
        .unwrap_or_else(|| panic!("{status}"))["tc"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// How many packets TC has dropped.
fn dropped_by_tc(agent: &Agent) -> u64 {
    let status = agent.status_json().unwrap();
    status["packets"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|series| series["hook"] == "tc" && series["verdict"] == "drop")
        .map(|series| series["count"].as_u64().unwrap())
        .sum()
}

#[test]
fn dns_stays_inside_until_it_is_released() {
    let mut lab = Lab::new();
    lab.assert_open();

    let started = Instant::now();
    let mut agent = lab.agent();
    println!(
        "measured: enforcing {:.1} s after the start of the agent",
        started.elapsed().as_secs_f64()
    );
    let status = agent.status_json().unwrap();
    println!("fact: level: {}", status["level"].as_str().unwrap());
    println!("fact: tc: {}", tc(&agent, Topology::UPLINK));
    assert_eq!(tc(&agent, Topology::UPLINK), expected_tc());
    lab.assert_closed();
    let through_tunnel = lab.send_from(lab.topology.host(), address::TUNNEL_RESOLVER_V4);
    assert!(through_tunnel.status.success(), "{through_tunnel:?}");

    // Without the second net it is TC that drops what is forwarded.
    let before = dropped_by_tc(&agent);
    for family in ["inet", "bridge"] {
        run(
            lab.topology.host(),
            "nft",
            &["delete", "table", family, "leakguard"],
        );
    }
    lab.send_from_client();
    assert_eq!(lab.left(), 0);
    assert_eq!(dropped_by_tc(&agent), before + PROBES as u64);

    agent.kill9().unwrap();
    assert_eq!(tc(&agent, Topology::UPLINK), expected_tc());
    lab.assert_closed();

    agent.release().unwrap();
    lab.assert_open();
    assert_nothing_is_left(&lab);
}

fn assert_nothing_is_left(lab: &Lab) {
    let host = lab.topology.host();
    assert!(!lab.bpffs.path().join("leakguard").exists());
    let tables = run(host, "nft", &["list", "tables"]);
    assert!(!tables.contains("leakguard"), "{tables}");
    assert_eq!(clsact_filters(host, Topology::UPLINK), Vec::<String>::new());
    let qdiscs = run(host, "tc", &["qdisc", "show", "dev", Topology::UPLINK]);
    assert!(!qdiscs.contains("clsact"), "{qdiscs}");
}

/// Lets every packet of the uplink out before leakguard's program sees it, for as long as what is returned is held.
fn go_before(host: &Netns) -> Option<Foreign> {
    if expected_tc() == "clsact" {
        let filter = format!(
            "filter add dev {} egress protocol all prio 1 bpf bytecode",
            Topology::UPLINK
        );
        // Returns -1: it matches, and without an action that is an OK, which ends the list.
        let mut arguments: Vec<&str> = filter.split(' ').collect();
        arguments.extend(["1,6 0 0 4294967295", "flowid", "1:1"]);
        run(host, "tc", &arguments);
        return None;
    }
    let foreign = host.run_in(|| {
        let uplink = nix::net::if_::if_nametoindex(Topology::UPLINK).unwrap();
        Foreign::at_head(uplink).unwrap()
    });
    Some(foreign.unwrap())
}

#[test]
fn a_foreign_program_in_front_is_overtaken_on_every_kernel() {
    let mut lab = Lab::new();
    let agent = lab.agent();
    let pid = Pid::from_raw(agent.pid().cast_signed());
    for _ in 0..2 {
        kill(pid, Signal::SIGSTOP).unwrap();
        let foreign = go_before(lab.topology.host());
        assert_eq!(tc(&agent, Topology::UPLINK), "behind");
        lab.send_from_client();
        assert_eq!(lab.left(), PROBES, "positive control: it lets DNS out");

        kill(pid, Signal::SIGCONT).unwrap();
        wait_until("it is overtaken", LIMIT, || {
            Ok(tc(&agent, Topology::UPLINK) == expected_tc())
        })
        .unwrap();
        lab.assert_closed();
        drop(foreign);
    }
    if expected_tc() == "clsact" {
        let filters = clsact_filters(lab.topology.host(), Topology::UPLINK);
        assert_eq!(filters.len(), 3, "ours once, and theirs: {filters:?}");
    }
    agent.release().unwrap();
    lab.assert_open();
}

#[test]
fn every_program_can_be_replaced_by_another_copy() {
    with_enforcement(|netns, enforcement| {
        let device = [uplink(LinkLayer::Ethernet)];
        attach_anew(enforcement, &device);
        let programs = || clsact_filters(netns, "up0");
        let before = programs();
        for _ in 0..3 {
            let replaced = enforcement.reload().unwrap();
            assert!(replaced.failures.is_empty(), "{replaced:?}");
            let again = enforcement.attach(&device, Duration::MAX);
            assert!(again.changes.is_empty(), "{again:?}");
            assert_eq!(programs().len(), before.len());
        }
        assert_eq!(programs() == before, expected_tc() == "head");
    });
}

#[test]
fn a_number_of_another_namespace_is_no_tunnel() {
    let mut lab = Lab::new();
    let host = lab.topology.host();
    let index = host
        .run_in(|| nix::net::if_::if_nametoindex(TUNNEL).unwrap())
        .unwrap();
    let other = Netns::new("other").unwrap();
    let connect = || -> Result<(), LabError> {
        other.ip_batch(&format!(
            "link add index {index} name eth0 type veth peer name other0 netns {}\n\
             link set eth0 up\n\
             addr add 192.168.79.10/24 dev eth0\n",
            host.name()
        ))?;
        host.ip_batch("link set other0 up\naddr add 192.168.79.1/24 dev other0\n")?;
        other.ip(&["route", "add", "default", "via", "192.168.79.1"])?;
        lab.topology
            .isp()
            .ip(&["route", "add", "192.168.79.0/24", "via", "192.168.77.10"])
            .map(drop)
    };
    connect().unwrap();
    assert!(lab.send_from(&other, RESOLVER).status.success());
    assert_eq!(lab.left(), PROBES, "positive control");

    let agent = lab.agent();
    let output = lab.send_from(&other, RESOLVER);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(lab.left(), 0);
    agent.release().unwrap();
}

#[test]
fn an_interface_that_is_no_uplink_any_more_loses_its_program() {
    let lab = Lab::new();
    let agent = lab.agent();
    let count = || clsact_filters(lab.topology.host(), Topology::UPLINK).len();
    let expected = usize::from(expected_tc() == "clsact");
    assert_eq!(count(), expected);
    for (change, tc_after, filters_after) in
        [("add", "unneeded", 0), ("remove", expected_tc(), expected)]
    {
        let output = agent.output(&["allow", change, Topology::UPLINK]).unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(tc(&agent, Topology::UPLINK), tc_after);
        assert_eq!(count(), filters_after);
    }
    agent.release().unwrap();
}

#[test]
fn a_second_start_finds_everything_in_place() {
    let lab = Lab::new();
    let filters = || clsact_filters(lab.topology.host(), Topology::UPLINK);
    let mut agent = lab.agent();
    let first = filters();
    agent.kill9().unwrap();
    // A program that is the same is not replaced: its number in the list stays.
    let mut agent = lab.agent();
    assert_eq!(filters(), first);
    agent.kill9().unwrap();

    let mut apply: Command = lab.topology.host().command(agent_binary());
    apply
        .args(["apply", "-v", "--tunnel", TUNNEL, "--cgroup"])
        .arg(lab.cgroup.path())
        .arg("--bpffs")
        .arg(lab.bpffs.path());
    let output = output_within(apply, LIMIT).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "unchanged\n",
        "{output:?}"
    );
    assert_eq!(filters(), first);
    agent.release().unwrap();
}

/// An interface and its link layer as given, not as it is.
fn uplink(link: LinkLayer) -> Device {
    Device {
        ifindex: nix::net::if_::if_nametoindex("up0").unwrap(),
        name: "up0".into(),
        role: Role::Uplink,
        link,
    }
}

fn with_enforcement(test: impl FnOnce(&Netns, &mut Enforcement) + Send) {
    let netns = Netns::new("filters").unwrap();
    netns
        .ip(&["link", "add", "up0", "type", "veth", "peer", "name", "up1"])
        .unwrap();
    let bpffs = Bpffs::new().unwrap();
    let cgroup = Cgroup::new("filters").unwrap();
    netns
        .run_in(|| {
            let pins = Pins::at(bpffs.path());
            let mut enforcement = Enforcement::prepare(&pins).unwrap();
            enforcement
                .enforce_sockets(cgroup.path(), Settings::default())
                .unwrap();
            test(&netns, &mut enforcement);
        })
        .unwrap();
}

/// Sees to the devices where that has something to change.
fn attach_anew(enforcement: &mut Enforcement, devices: &[Device]) {
    let followed = enforcement.attach(devices, Duration::MAX);
    assert!(!followed.changes.is_empty(), "{followed:?}");
}

#[test]
fn another_program_replaces_the_one_that_is_attached() {
    with_enforcement(|netns, enforcement| {
        let mut attach = |link| {
            let followed = enforcement.attach(&[uplink(link)], Duration::MAX);
            assert!(followed.failures.is_empty(), "{:?}", followed.failures);
            (!followed.changes.is_empty(), clsact_filters(netns, "up0"))
        };
        let (changed, first) = attach(LinkLayer::Unknown);
        assert!(changed);
        assert_eq!(first.len(), usize::from(expected_tc() == "clsact"));
        assert_eq!(attach(LinkLayer::Unknown), (false, first.clone()));
        let (changed, second) = attach(LinkLayer::Ethernet);
        assert!(changed);
        assert_eq!(second.len(), first.len());
    });
}

#[test]
fn a_deleted_qdisc_is_noticed() {
    with_enforcement(|netns, enforcement| {
        let device = [uplink(LinkLayer::Ethernet)];
        attach_anew(enforcement, &device);
        let before = clsact_filters(netns, "up0").len();
        if expected_tc() == "clsact" {
            run(netns, "tc", &["qdisc", "del", "dev", "up0", "clsact"]);
            attach_anew(enforcement, &device);
        }
        assert_eq!(clsact_filters(netns, "up0").len(), before);
    });
}

#[test]
fn an_ingress_qdisc_is_not_taken_for_clsact() {
    with_enforcement(|netns, enforcement| {
        run(netns, "tc", &["qdisc", "add", "dev", "up0", "ingress"]);
        let failures = enforcement
            .attach(&[uplink(LinkLayer::Ethernet)], Duration::MAX)
            .failures;
        // TCX does not need a qdisc.
        assert_eq!(failures.len(), usize::from(expected_tc() == "clsact"));
        let filters = run(netns, "tc", &["filter", "show", "dev", "up0", "ingress"]);
        assert_eq!(filters, "");
    });
}

#[test]
fn an_empty_clsact_qdisc_from_before_goes_with_the_filter_where_there_is_no_tcx() {
    with_enforcement(|netns, enforcement| {
        run(netns, "tc", &["qdisc", "add", "dev", "up0", "clsact"]);
        let has_qdisc = || run(netns, "tc", &["qdisc", "show", "dev", "up0"]).contains("clsact");
        let mut device = uplink(LinkLayer::Ethernet);
        attach_anew(enforcement, &[device.clone()]);
        assert!(has_qdisc(), "control");
        device.role = Role::Local;
        attach_anew(enforcement, &[device]);
        assert_eq!(has_qdisc(), expected_tc() == "head");
    });
}

#[test]
fn foreign_filters_and_their_qdisc_stay() {
    const FOREIGN: &str =
        "filter add dev up0 ingress protocol all prio 5 u32 match u32 0 0 classid 1:1";
    with_enforcement(|netns, enforcement| {
        run(netns, "tc", &["qdisc", "add", "dev", "up0", "clsact"]);
        run(netns, "tc", &FOREIGN.split(' ').collect::<Vec<_>>());
        let list = || run(netns, "tc", &["filter", "show", "dev", "up0", "ingress"]);
        let before = list();
        assert!(before.contains("u32"), "{before}");
        let mut device = uplink(LinkLayer::Ethernet);
        attach_anew(enforcement, &[device.clone()]);
        device.role = Role::Local;
        attach_anew(enforcement, &[device]);
        assert_eq!(list(), before);
        assert_eq!(clsact_filters(netns, "up0"), Vec::<String>::new());
    });
}
