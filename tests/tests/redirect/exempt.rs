//! Sockets that are left alone although they ask.

use leakguard::lab::{Netns, Resolver};
use leakguard_tests::{Origin, Place};

use crate::way::Way;
use crate::{ASKED, FAMILIES, asked, assert_silence, bench, redirect};

#[test]
fn sockets_of_another_network_namespace_reach_whom_they_ask_there() {
    let mut bench = bench();
    redirect(&mut bench, &[]);
    let elsewhere = Netns::new("elsewhere").unwrap();
    for asked in ASKED {
        elsewhere
            .ip(&["addr", "add", &asked.to_string(), "dev", "lo"])
            .unwrap();
    }
    let _resolver = Resolver::new(&elsewhere, "elsewhere").unwrap();
    let host = bench.origin(Place::Host);
    let elsewhere = Origin {
        netns: &elsewhere,
        ..host
    };
    for (family, name) in FAMILIES.into_iter().enumerate() {
        for way in [Way::SendTo, Way::Connected, Way::Tcp] {
            // Of the same cgroup, and of the same address.
            for (origin, by_tunnel) in [(elsewhere, false), (host, true)] {
                let told = way.ask(origin, asked(family), asked(family)).unwrap();
                let right = told.by_tunnel == by_tunnel && told.from == asked(family);
                assert!(right, "{way:?} {name}: {told:?}");
            }
        }
    }
    assert_silence(&mut bench);
}
