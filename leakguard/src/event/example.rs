//! An event for tests.

use super::record::record;
use super::{
    Attribution, Decoder, Event, InterfaceRef, Judged, PacketKind, Process, Query, VERSION,
};
use crate::guard::Interfaces;

/// dig's question for `example.com`, dropped at eth0.
pub(crate) fn example() -> Event {
    Event {
        v: VERSION,
        seq: 41,
        time: "2026-11-23T10:00:00.123456789Z".into(),
        kind: PacketKind::Packet,
        verdict: "drop".into(),
        reason: "dns".into(),
        hook: "cgroup_skb".into(),
        interface: InterfaceRef {
            index: 2,
            name: Some("eth0".into()),
            role: "uplink".into(),
        },
        netns: "host".into(),
        family: "ipv4".into(),
        protocol: "udp".into(),
        source: "192.0.2.10:40112".into(),
        destination: "8.8.8.8:53".into(),
        encapsulation: None,
        length: 57,
        query: Some(Query {
            name: "example.com.".into(),
            kind: "A".into(),
        }),
        redirected_to: None,
        option: None,
        packets: 1,
        process: Some(Process {
            pid: Some(4242),
            name: Some("dig".into()),
            exe: Some("/usr/bin/dig".into()),
            cmdline: None,
            uid: 1000,
            user: Some("alice".into()),
            attribution: Some(Attribution::Sender),
        }),
        cgroup: None,
        unit: None,
        container: None,
        client: None,
        suppressed: 0,
    }
}

/// Its process, by another name.
pub(crate) fn process(name: &str) -> Option<Process> {
    example().process.map(|process| Process {
        name: Some(name.into()),
        ..process
    })
}

/// A question for `example.com`, as the kernel reports it.
pub(crate) fn judged() -> Judged {
    let judged = Decoder::default().judged(record().as_bytes(), &Interfaces::new());
    judged.unwrap()
}
