//! Sockets that send past TC all the same are named.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};

use leakguard_tests::{Bench, PacketSocket, Place, XdpSocket};
use serde_json::Value;

use super::{STRICT, UPLINK, count, question};

/// What the agent says of sockets that send past TC.
pub(crate) fn open_sockets(status: &Value) -> &Vec<Value> {
    status["hardening"]["sockets"].as_array().unwrap()
}

/// The number in `socket:[…]`.
pub(crate) fn inode(socket: impl AsFd) -> u64 {
    let link = format!("/proc/self/fd/{}", socket.as_fd().as_raw_fd());
    let link = fs::read_link(link).unwrap();
    let number = link.to_str().unwrap().strip_prefix("socket:[").unwrap();
    number.strip_suffix(']').unwrap().parse().unwrap()
}

/// The row "`AF_XDP` sockets from before" of the known issues: they are named, and that is all.
#[test]
fn af_xdp_from_before_sends_dns_even_in_strict_and_is_listed() {
    let mut bench = Bench::new();
    let mut socket = XdpSocket::new(bench.origin(Place::Host), UPLINK).unwrap();
    bench.protect(&STRICT);
    socket.send(&question(b"of AF_XDP, from before")).unwrap();
    let seen = count(&bench.frames(Place::Host), b"of AF_XDP, from before");
    assert_eq!(seen, 1, "what is known to be open");
    let status = bench.agent().status_json().unwrap();
    let [listed] = open_sockets(&status).as_slice() else {
        unreachable!("{status}");
    };
    assert_eq!(listed["kind"], "af_xdp");
    assert_eq!(listed["inode"], inode(&socket));
    assert_eq!(listed["processes"][0]["pid"], std::process::id());
}

#[test]
fn sockets_from_before_are_named_in_the_log_and_in_the_status() {
    let mut bench = Bench::new();
    let origin = bench.origin(Place::Host);
    let bypassing = PacketSocket::raw(origin, UPLINK);
    bypassing.bypass(true).unwrap();
    let ordinary = PacketSocket::raw(origin, UPLINK);
    let elsewhere = PacketSocket::raw(bench.origin(Place::Client), "eth0");
    elsewhere.bypass(true).unwrap();
    let agent = bench.protect(&[]);
    let status = agent.status_json().unwrap();
    let [listed] = open_sockets(&status).as_slice() else {
        unreachable!("{status}");
    };
    assert_eq!(listed["kind"], "qdisc_bypass");
    assert_eq!(listed["inode"], inode(&bypassing));
    let processes = listed["processes"].as_array().unwrap();
    let own = std::process::id();
    assert_eq!(processes.len(), 1, "{status}");
    assert_eq!(processes[0]["pid"], own);
    let name = fs::read_to_string("/proc/self/comm").unwrap();
    assert_eq!(processes[0]["name"], name.trim_end());
    assert_eq!(status["hardening"]["unknown"], 0, "{status}");
    let warning = format!(
        "inode {}, held by {}[{own}]",
        inode(&bypassing),
        name.trim_end()
    );
    assert!(agent.stderr().contains(&warning), "{}", agent.stderr());
    let other = format!("inode {}", inode(&ordinary));
    assert!(!agent.stderr().contains(&other), "{}", agent.stderr());
    let text = agent.output(&["status"]).unwrap();
    assert!(
        String::from_utf8_lossy(&text.stdout).contains(&warning),
        "{text:?}"
    );
    drop(bypassing);
    let status = bench.agent().status_json().unwrap();
    assert_eq!(open_sockets(&status).len(), 0, "{status}");
}
