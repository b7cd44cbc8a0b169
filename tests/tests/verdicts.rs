//! The kernel programs by themselves: what the verifier takes, and that both hooks give the same verdict.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a step that fails is a test that fails; what is measured is shown"
)]

use std::collections::BTreeSet;

use etherparse::{IpNumber, PacketBuilder};
use leakguard::error::chain;
use leakguard::kernel::object::{CgroupVariant, LINK_LAYERS, Loaded, Object};
use leakguard::kernel::pins::Pins;
use leakguard::kernel::{Enforcement, KernelError};
use leakguard::lab::{Bpffs, Cgroup, Netns};
use leakguard_common::abi::{Class, ClassSet, Settings};
use leakguard_common::packet::LinkLayer;

/// A fifth of the kernel's limit of 1,000,000, also with the log lines of a debug build.
const MOST_INSTRUCTIONS: u32 = 200_000;

const TC_NEXT: i32 = -1;
const TC_DROP: i32 = 2;
const CGROUP_PASS: i32 = 1;
const CGROUP_DROP: i32 = 0;

/// An object loaded in a namespace of its own, with an interface that is in no table.
struct Fixture {
    netns: Netns,
    bpffs: Bpffs,
    cgroup: Cgroup,
}

impl Fixture {
    fn new() -> Self {
        let netns = Netns::new("programs").unwrap();
        netns
            .ip(&["link", "add", "up0", "type", "veth", "peer", "name", "up1"])
            .unwrap();
        Self {
            netns,
            bpffs: Bpffs::new().unwrap(),
            cgroup: Cgroup::new("programs").unwrap(),
        }
    }

    fn with<T: Send>(&self, settings: Settings, test: impl FnOnce(&Object, u32) -> T + Send) -> T {
        self.with_variants(settings, &CgroupVariant::ALL, test)
    }

    fn with_variants<T: Send>(
        &self,
        settings: Settings,
        variants: &[CgroupVariant],
        test: impl FnOnce(&Object, u32) -> T + Send,
    ) -> T {
        self.netns
            .run_in(|| {
                let pins = Pins::at(self.bpffs.path());
                let mut enforcement = Enforcement::prepare(&pins).unwrap();
                enforcement
                    .enforce_sockets(self.cgroup.path(), settings)
                    .unwrap();
                let uplink = nix::net::if_::if_nametoindex("up0").unwrap();
                // A second load shares the pinned maps, and can be run without sending anything.
                let object = Object::load_variants(&pins, variants).unwrap();
                let result = test(&object, uplink);
                enforcement.release().unwrap();
                result
            })
            .unwrap()
    }
}

/// Whether a variant was refused because the kernel lacks what it asks for, and not because the verifier found fault.
fn lacks_a_helper(error: &KernelError) -> bool {
    // Before 6.8, and since.
    ["unknown func", "program of this type cannot use helper"]
        .iter()
        .any(|message| chain(error).contains(message))
}

#[test]
fn the_verifier_takes_every_variant_that_the_kernel_has_helpers_for_within_the_budget() {
    let fixture = Fixture::new();
    let (taken, judging) = fixture
        .netns
        .run_in(|| {
            let (mut taken, mut judging) = (0, 0);
            for variant in CgroupVariant::ALL {
                let pins = Pins::at(fixture.bpffs.path());
                pins.create().unwrap();
                match Object::load_variants(&pins, &[variant]) {
                    Ok(object) => {
                        assert_eq!(object.variant(), variant);
                        object.loaded().iter().for_each(check_budget);
                        if taken == 0 {
                            tell(&object);
                        }
                        taken += 1;
                        judging += usize::from(object.setsockopt_variant().is_some());
                    }
                    Err(error) if lacks_a_helper(&error) => {
                        println!("measured: {}: not for this kernel", variant.program());
                    }
                    Err(error) => panic!("{}: {}", variant.program(), chain(&error)),
                }
                pins.remove().unwrap();
            }
            (taken, judging)
        })
        .unwrap();
    assert_ne!(taken, 0, "the agent cannot work on this kernel");
    assert_ne!(
        judging, 0,
        "the agent cannot judge socket options on this kernel"
    );
}

/// Says what an agent takes, which is the first that can be had.
fn tell(object: &Object) {
    println!("fact: egress: {}", object.variant().program());
    let walked = object.loaded().iter();
    let walked = walked.filter_map(|program| program.verified_instructions);
    println!("fact: instructions: {}", walked.max().unwrap());
}

fn check_budget(program: &Loaded) {
    let instructions = program.verified_instructions.unwrap();
    println!(
        "measured: {}: {instructions} verified instructions, {} bytes of machine code",
        program.name, program.jited_bytes
    );
    assert!(instructions < MOST_INSTRUCTIONS, "{program:?}");
}

/// An IP packet with what both hooks have to say about it on an uplink.
struct Case {
    name: String,
    packet: Vec<u8>,
    blocked: bool,
}

fn case(name: impl Into<String>, packet: Vec<u8>, blocked: bool) -> Case {
    Case {
        name: name.into(),
        packet,
        blocked,
    }
}

fn ipv4() -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ipv4([192, 0, 2, 10], [198, 51, 100, 53], 64)
}

fn ipv6() -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    let mut to = [0; 16];
    to[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    PacketBuilder::ipv6([0xfd; 16], to, 64)
}

fn udp(ip: etherparse::PacketBuilderStep<etherparse::IpHeaders>, port: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    ip.udp(40_000, port).write(&mut bytes, b"question").unwrap();
    bytes
}

fn tcp(ip: etherparse::PacketBuilderStep<etherparse::IpHeaders>, port: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    ip.tcp(40_000, port, 1, 1024)
        .syn()
        .write(&mut bytes, &[])
        .unwrap();
    bytes
}

/// Inserts extension headers of 8 bytes each between an IPv6 header and what follows.
fn with_extensions(mut packet: Vec<u8>, headers: &[u8]) -> Vec<u8> {
    let mut next = packet[6];
    for &header in headers.iter().rev() {
        let mut bytes = [0_u8; 8];
        bytes[0] = next;
        // Only AH counts in units of 4 bytes, minus 2; none of these is longer than 8.
        packet.splice(40..40, bytes);
        next = header;
    }
    packet[6] = next;
    let length = u16::try_from(packet.len() - 40).unwrap();
    packet[4..6].copy_from_slice(&length.to_be_bytes());
    packet
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (port, over_udp, over_tcp) in [
        (53, true, true),
        (853, true, true),
        (5353, true, false),
        (5355, true, true),
        (137, true, true),
        (8053, true, true),
        (443, false, false),
        (54, false, false),
        (13_568, false, false),
    ] {
        cases.push(case(
            format!("ipv4 udp {port}"),
            udp(ipv4(), port),
            over_udp,
        ));
        cases.push(case(
            format!("ipv6 udp {port}"),
            udp(ipv6(), port),
            over_udp,
        ));
        cases.push(case(
            format!("ipv4 tcp {port}"),
            tcp(ipv4(), port),
            over_tcp,
        ));
        cases.push(case(
            format!("ipv6 tcp {port}"),
            tcp(ipv6(), port),
            over_tcp,
        ));
    }

    let mut options = udp(ipv4(), 53);
    options[0] = 0x47;
    options.splice(20..20, [1; 8]);
    cases.push(case("ipv4 options", options, true));

    let mut first = udp(ipv4(), 53);
    first[6] = 0x20;
    cases.push(case("ipv4 first fragment", first, true));

    for headers in [
        &[0][..],
        &[60],
        &[0, 43, 60],
        &[44],
        &[135, 139, 140],
        &[60; 16],
    ] {
        let packet = with_extensions(udp(ipv6(), 53), headers);
        cases.push(case(format!("ipv6 behind {headers:?}"), packet, true));
        let packet = with_extensions(udp(ipv6(), 443), headers);
        cases.push(case(format!("ipv6 443 behind {headers:?}"), packet, false));
    }
    let mut first = with_extensions(udp(ipv6(), 443), &[44, 60]);
    first[43] = 1;
    cases.push(case("ipv6 443 in a first fragment", first.clone(), false));
    // A receiver takes the ports from the next fragment.
    first[5] = 16;
    cases.push(case("ipv6 443 behind a first fragment", first, true));
    let chain = with_extensions(udp(ipv6(), 443), &[60; 17]);
    cases.push(case("ipv6 chain beyond the bound", chain, true));

    for kept in [20, 21, 23] {
        let mut cut = udp(ipv4(), 53);
        cut.truncate(kept);
        cases.push(case(format!("ipv4 cut to {kept} bytes"), cut, true));
    }
    let mut cut = udp(ipv6(), 53);
    cut.truncate(43);
    cases.push(case("ipv6 cut in the ports", cut, true));
    let mut short = udp(ipv4(), 443);
    short[0] = 0x44;
    cases.push(case("ipv4 header length of 16", short, true));

    let mut icmp = Vec::new();
    ipv4()
        .icmpv4_echo_request(1, 1)
        .write(&mut icmp, b"ping")
        .unwrap();
    cases.push(case("icmp", icmp, false));
    for number in [33, 132, 136] {
        let mut other = udp(ipv4(), 53);
        other[9] = number;
        cases.push(case(format!("{:?} 53", IpNumber(number)), other, true));
    }
    cases
}

fn ethernet(ip: &[u8], tags: &[u16]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend([0, 7]);
    }
    let kind: u16 = if ip[0] >> 4 == 6 { 0x86dd } else { 0x0800 };
    frame.extend(kind.to_be_bytes());
    frame.extend(ip);
    frame
}

fn extra_port(port: u16) -> Settings {
    let mut settings = Settings {
        extra_port_count: 1,
        ..Settings::default()
    };
    settings.extra_ports[0] = port;
    settings
}

#[test]
fn both_hooks_give_the_same_verdict() {
    assert_same_verdicts(&CgroupVariant::ALL);
}

#[test]
fn the_lean_programs_give_the_same_verdict() {
    assert_same_verdicts(&[CgroupVariant::Lean]);
}

fn assert_same_verdicts(variants: &[CgroupVariant]) {
    let fixture = Fixture::new();
    fixture.with_variants(extra_port(8053), variants, |object, uplink| {
        let egress = object.variant().program();
        let [tc_ethernet, tc_any] =
            [LinkLayer::Ethernet, LinkLayer::Unknown].map(|link| object.variant().tc_program(link));
        for Case {
            name,
            packet,
            blocked,
        } in cases()
        {
            let framed = ethernet(&packet, &[]);
            let expected = if blocked { CGROUP_DROP } else { CGROUP_PASS };
            assert_eq!(
                object.test_run(egress, &framed, uplink).unwrap(),
                expected,
                "cgroup: {name}"
            );

            let expected = if blocked { TC_DROP } else { TC_NEXT };
            for tags in [&[][..], &[0x8100], &[0x88a8, 0x8100], &[0x8100; 4]] {
                let framed = ethernet(&packet, tags);
                for program in [tc_ethernet, tc_any] {
                    let verdict = object.test_run(program, &framed, uplink).unwrap();
                    assert_eq!(
                        verdict,
                        expected,
                        "{program} with {} tags: {name}",
                        tags.len()
                    );
                }
            }
        }
    });
}

/// Of a packet in a packet, they know nothing.
#[test]
fn the_lean_programs_drop_what_may_carry_others() {
    let inner = udp(ipv4(), 443);
    let mut carried = Vec::new();
    for (protocol, head) in [
        (IpNumber::IPV4, &[][..]),
        // No flags, and IPv4 in it.
        (IpNumber::GRE, &[0, 0, 8, 0]),
    ] {
        let mut packet = Vec::new();
        let payload = [head, &inner].concat();
        ipv4().write(&mut packet, protocol, &payload).unwrap();
        carried.push(packet);
    }
    let frame = ethernet(&inner, &[]);
    let mut packet = Vec::new();
    let payload = [&[8, 0, 0, 0, 0, 0, 7, 0][..], &frame].concat();
    ipv4()
        .udp(40_000, 4789)
        .write(&mut packet, &payload)
        .unwrap();
    carried.push(packet);
    let fixture = Fixture::new();
    for (variants, expected) in [
        (&CgroupVariant::ALL[..], (CGROUP_PASS, TC_NEXT)),
        (&[CgroupVariant::Lean], (CGROUP_DROP, TC_DROP)),
    ] {
        fixture.with_variants(Settings::default(), variants, |object, uplink| {
            let variant = object.variant();
            for packet in &carried {
                let framed = ethernet(packet, &[]);
                let run = |program| object.test_run(program, &framed, uplink).unwrap();
                let verdicts = (
                    run(variant.program()),
                    run(variant.tc_program(LinkLayer::Ethernet)),
                );
                assert_eq!(verdicts, expected, "{packet:x?}");
            }
        });
    }
}

#[test]
fn a_frame_with_too_many_tags_is_dropped() {
    let fixture = Fixture::new();
    fixture.with(Settings::default(), |object, uplink| {
        let frame = ethernet(&udp(ipv4(), 443), &[0x8100; 5]);
        assert_eq!(
            object.test_run("tc_ethernet", &frame, uplink).unwrap(),
            TC_DROP
        );
    });
}

#[test]
fn frames_that_are_not_ip_pass() {
    let fixture = Fixture::new();
    fixture.with(Settings::default(), |object, uplink| {
        for kind in [0x0806_u16, 0x88cc, 0x888e, 0x0040] {
            let mut frame = ethernet(&udp(ipv4(), 53), &[]);
            frame[12..14].copy_from_slice(&kind.to_be_bytes());
            assert_eq!(
                object.test_run("tc_ethernet", &frame, uplink).unwrap(),
                TC_NEXT,
                "{kind:#x}"
            );
        }
    });
}

/// The one place where the hooks differ: the stack fragments between them.
#[test]
fn a_later_fragment_passes_on_the_wire_but_not_from_a_socket() {
    let fixture = Fixture::new();
    fixture.with(Settings::default(), |object, uplink| {
        let mut later = udp(ipv4(), 53);
        later[7] = 185;
        let frame = ethernet(&later, &[]);
        let egress = object.variant().program();
        assert_eq!(
            object.test_run(egress, &frame, uplink).unwrap(),
            CGROUP_DROP
        );
        assert_eq!(
            object.test_run("tc_ethernet", &frame, uplink).unwrap(),
            TC_NEXT
        );
    });
}

#[test]
fn observe_mode_and_exempt_classes_let_packets_pass() {
    let fixture = Fixture::new();
    let frame = ethernet(&udp(ipv4(), 53), &[]);
    let verdicts = |settings| {
        fixture.with(settings, |object, uplink| {
            let egress = object.variant().program();
            (
                object.test_run(egress, &frame, uplink).unwrap(),
                object.test_run("tc_ethernet", &frame, uplink).unwrap(),
            )
        })
    };
    assert_eq!(
        verdicts(Settings::default()),
        (CGROUP_DROP, TC_DROP),
        "positive control"
    );
    let observe = Settings {
        mode: Settings::OBSERVE,
        ..Settings::default()
    };
    assert_eq!(verdicts(observe), (CGROUP_PASS, TC_NEXT));
    let exempt = Settings {
        exempt: ClassSet::default().with(Class::Dns),
        ..Settings::default()
    };
    assert_eq!(verdicts(exempt), (CGROUP_PASS, TC_NEXT));
}

#[test]
fn there_is_a_program_for_every_link_layer() {
    Fixture::new().with(Settings::default(), |object, _| {
        let names: BTreeSet<_> = LINK_LAYERS
            .into_iter()
            .map(|link| object.variant().tc_program(link))
            .collect();
        assert_eq!(names.len(), LINK_LAYERS.len(), "one of its own: {names:?}");
        let loaded: BTreeSet<_> = object.loaded().iter().map(|program| program.name).collect();
        assert!(names.is_subset(&loaded), "{names:?} of {loaded:?}");
    });
}
