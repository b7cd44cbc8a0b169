//! Sockets that are left alone although they ask: what they send is judged as before.

use std::thread;

use leakguard_tests::{Origin, Place};
use nix::errno::Errno;

use crate::way::Way;
use crate::{FAMILIES, asked, assert_silence, bench, redirect};

#[test]
fn sockets_of_another_network_namespace_are_left_alone_and_reach_nobody() {
    let mut bench = bench();
    redirect(&mut bench, &[]);
    // Guarded by its cgroup, but what is behind the container's interfaces is not the host's to know.
    let origin = Origin {
        netns: bench.netns(Place::Client),
        cgroup: Some(&bench.cgroup),
    };
    // All at once, because they wait.
    thread::scope(|scope| {
        for (family, name) in FAMILIES.into_iter().enumerate() {
            for way in [Way::SendTo, Way::Connected, Way::Tcp] {
                scope.spawn(move || {
                    let error = way.ask(origin, asked(family), asked(family)).unwrap_err();
                    let refused = error.raw_os_error() == Some(Errno::ENETUNREACH as i32);
                    assert!(!refused, "{way:?} {name}: {error}");
                });
            }
        }
    });
    // Control: the host's own are answered.
    let told = Way::SendTo
        .ask(bench.origin(Place::Host), asked(0), asked(0))
        .unwrap();
    assert!(told.by_tunnel, "{told:?}");
    assert_silence(&mut bench);
}
