//! `leakguard-work WHAT COUNT`: does one piece of leakguard's work as often as it is told, for something else to count the
//! instructions.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test's hand: what fails in it has to fail the test"
)]

#[path = "../../../leakguard-common/tests/facts/mod.rs"]
mod facts;

use std::hint::black_box;

use etherparse::PacketBuilder;
use leakguard_common::abi::{Hook, Role, Settings};
use leakguard_common::packet::{LinkLayer, Packet, PacketBytes, Truncated, parse};
use leakguard_common::plain::{Rest, is_other_ipv4};
use leakguard_common::sieve::{Place, Sieve};
use leakguard_common::verdict::{Decision, Facts, decide};

use self::facts::known;

const HOST: [u8; 4] = [192, 168, 77, 10];
const FAR: [u8; 4] = [198, 51, 100, 7];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, count] = &arguments[..] else {
        panic!("usage: leakguard-work WHAT COUNT");
    };
    let count: u32 = count.parse().unwrap();
    match &**what {
        "datagram" => judge(&datagram(4_000), count, false),
        "https" => judge(&segment(), count, false),
        "question" => judge(&datagram(53), count, true),
        _ => panic!("there is no work of this name"),
    }
}

fn datagram(port: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ipv4(HOST, FAR, 64).udp(40_000, port);
    builder.write(&mut packet, &[0x55; 64]).unwrap();
    packet
}

fn segment() -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ipv4(HOST, FAR, 64).tcp(40_000, 443, 1, 65_000);
    builder.ack(1).write(&mut packet, &[]).unwrap();
    packet
}

/// Does with a packet what a program does with it.
fn judge(packet: &[u8], count: u32, judged: bool) {
    let settings = Settings::default();
    let linear = Linear(Box::new(Sieve::EMPTY));
    let facts = known(|| Some(Role::Uplink), false);
    for _ in 0..count {
        let decision = decision(black_box(packet), black_box(&settings), &linear, &facts);
        assert_eq!(decision.is_some_and(|found| found.is_judged()), judged);
    }
}

/// What is decided about a packet; `None` if its first bytes let it go.
fn decision(
    bytes: &[u8],
    settings: &Settings,
    linear: &Linear,
    facts: &impl Facts,
) -> Option<Decision> {
    let head = bytes.first_chunk()?;
    if is_other_ipv4(head, settings, false, linear) {
        return None;
    }
    let mut packet = Packet::UNKNOWN;
    let parsed = parse(bytes, LinkLayer::Ip, &mut packet);
    Some(decide(parsed, &packet, Hook::CgroupSkb, settings, facts))
}

/// The linear part of a packet of which nothing stands behind options, at a host that knows no resolver.
struct Linear(Box<Sieve>);

impl PacketBytes for Linear {
    /// It is asked for what stands behind options only.
    fn read<const N: usize>(&self, _offset: u32, _into: &mut [u8; N]) -> Result<(), Truncated> {
        Err(Truncated)
    }
}

impl Rest for Linear {
    fn may_be_resolver(&self, destination: Place) -> bool {
        self.0.may_hold(destination)
    }

    fn may_be_hello(&self) -> bool {
        false
    }
}
