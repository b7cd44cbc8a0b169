//! A record as the programs write it into the ring.

use leakguard_common::abi::{
    Carrier, EVENT_BYTES, Event, Family, Hook, Owner, Reason, Role, Verdict,
};
use leakguard_common::packet::protocol;

/// A UDP question for `example.com A`, of nobody.
pub(crate) fn record() -> Event {
    let mut bytes = [0; EVENT_BYTES];
    let question = b"\x12\x34\x01\x20\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01";
    // Behind the UDP header, which is not read again.
    let len = 8 + question.len();
    bytes[8..len].copy_from_slice(question);
    let mut source = [0; 16];
    source[..4].copy_from_slice(&[192, 0, 2, 10]);
    let mut destination = [0; 16];
    destination[..4].copy_from_slice(&[8, 8, 8, 8]);
    Event {
        boot_time: 1,
        netns_cookie: 1,
        socket_cookie: 2,
        cgroup_id: 3,
        ifindex: 2,
        ingress_ifindex: 0,
        length: 57,
        segments: 1,
        pid: 0,
        uid: Event::NO_UID,
        source_port: 40112,
        destination_port: 53,
        bytes_len: u16::try_from(len).unwrap(),
        protocol: protocol::UDP,
        family: Family::Ipv4 as u8,
        verdict: Verdict::Drop as u8,
        reason: Reason::Dns as u8,
        hook: Hook::CgroupSkb as u8,
        role: Role::Uplink as u8,
        carrier: Carrier::None as u8,
        padding: [0; 3],
        comm: [0; 16],
        owner: Owner::NOBODY,
        rate_created: 0,
        suppressed: 0,
        source,
        destination,
        bytes,
    }
}
