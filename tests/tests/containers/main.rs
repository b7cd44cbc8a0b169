//! Containers, however they are connected: DNS leaves them through the tunnel only, all else goes on, and so does DNS
//! between containers of one host.
//!
//! One module for each shape; `docs/containers.md` lists them. ipvlan is in `tests/tests/ipvlan.rs`, for a kernel that
//! has it.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod bridge;
mod macvlan;
mod moved;
mod podman;
mod pods;
mod rootless;
mod vxlan;

use std::net::IpAddr;
use std::time::Duration;

use leakguard::lab::{Cgroup, Netns, Query};
use leakguard_tests::{Bench, Origin, packets};

/// How long anything that should happen may take.
const LIMIT: Duration = Duration::from_secs(10);
/// IPv4 and IPv6.
const BOTH: &[usize] = &[0, 1];

/// A namespace for a container, whose addresses are usable at once.
fn container(label: &str) -> Netns {
    let netns = Netns::new(label).unwrap();
    for key in ["all.accept_dad", "default.accept_dad"] {
        netns.sysctl(&format!("net.ipv6.conf.{key}"), "0").unwrap();
    }
    netns
}

/// A container's processes: in its namespace, and in the cgroup that the agent guards.
fn inside<'lab>(netns: &'lab Netns, cgroup: &'lab Cgroup) -> Origin<'lab> {
    Origin {
        netns,
        cgroup: Some(cgroup),
    }
}

/// Asserts that one hook has dropped packets, and that the other has not.
#[track_caller]
fn caught_by(bench: &mut Bench, hook: &str) {
    let status = bench.agent().status_json().unwrap();
    for candidate in ["cgroup_skb", "tc"] {
        let dropped = packets(&status, &[("verdict", "drop"), ("hook", candidate)]);
        assert_eq!(dropped > 0, candidate == hook, "{candidate}: {status}");
    }
}

/// Asserts that a server gives the address of a name to a container, over UDP and TCP.
#[track_caller]
fn finds(origin: Origin<'_>, server: IpAddr, name: &str, address: IpAddr) {
    let record = if address.is_ipv4() { "A" } else { "AAAA" };
    let query = Query::new(server, name, record);
    for query in [query.clone(), query.over_tcp()] {
        let lookup = query.run(origin.netns, origin.cgroup).unwrap();
        let line = query.command_line();
        assert!(lookup.is(&address.to_string()), "{line}: {lookup:?}");
    }
}
