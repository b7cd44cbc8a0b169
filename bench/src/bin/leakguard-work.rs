//! `leakguard-work WHAT COUNT`: does one piece of leakguard's work as often as it is told, for something else to count the
//! instructions.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test's hand: what fails in it has to fail the test"
)]

#[path = "../../../leakguard-common/tests/facts/mod.rs"]
mod facts;
#[path = "../../../leakguard-common/tests/record/mod.rs"]
mod record;

use std::hint::black_box;
use std::time::Duration;

use etherparse::PacketBuilder;
use leakguard::event::Decoder;
use leakguard::guard::Interfaces;
use leakguard_common::abi::{Event, Hook, Role, Settings};
use leakguard_common::packet::{LinkLayer, Packet, PacketBytes, Truncated, parse};
use leakguard_common::plain::{Rest, is_other_ipv4};
use leakguard_common::sieve::{Place, Sieve};
use leakguard_common::verdict::{Decision, Facts, decide};
use nix::time::{ClockId, clock_gettime};

use self::facts::known;
use self::record::record;

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
        "event" => tell(count),
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

/// Makes lines of JSON of records: this process has asked for a name, and was refused.
fn tell(count: u32) {
    let question = question();
    let (mut decoder, interfaces) = (Decoder::default(), Interfaces::new());
    let mut lines = String::new();
    for _ in 0..count {
        lines.clear();
        let record = black_box(&question).as_bytes();
        let judged = decoder.judged(record, &interfaces).unwrap();
        judged.write_json(&mut lines);
        assert!(lines.contains("example.com."));
    }
}

/// A question of this process, as it comes from the ring.
fn question() -> Event {
    // Another program may stand for this one while it counts.
    let name = std::fs::read("/proc/self/comm").unwrap();
    let mut comm = [0; 16];
    comm[..name.len() - 1].copy_from_slice(name.trim_ascii_end());
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap();
    Event {
        boot_time: Duration::from(now).as_nanos().try_into().unwrap(),
        pid: std::process::id(),
        uid: 0,
        comm,
        ..record()
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
