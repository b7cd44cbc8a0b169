//! What an ordinary packet takes through the real kernel, beside nftables and iptables.

use std::net::SocketAddr;

use anyhow::Result;

use crate::report::Report;
use crate::scene::{Contest, From, Guard, Load, Scene, hosts};

/// A port that nobody judges.
const PORT: u16 = 40_000;

const NOTE: &str = "Nanoseconds of the sender's CPU from one send to the next, with all that the kernel does with the packet. \
     All guards stand at once, each on a host of its own; what the kernel switches on for all of them alike is in every row, \
     also in \"nothing\".";

/// Local and forwarded datagrams, over both exits, and a stream.
pub(crate) fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    let hosts = hosts(vec![
        ("nothing", Guard::Nothing),
        ("leakguard", Guard::leakguard()),
        ("nftables", Guard::Nftables(Guard::rule("drop"))),
        ("iptables-legacy", Guard::iptables()),
        (
            "nftables, an empty chain",
            Guard::Nftables(Guard::chains("accept", "")),
        ),
        (
            "leakguard's hooks, empty",
            Guard::Both(Box::new([
                Guard::Programs(1),
                Guard::Nftables(Guard::chain("forward", "accept", "")),
            ])),
        ),
    ])?;
    for (title, from, target) in [
        (
            "A local datagram over the uplink",
            From::Host,
            Scene::OUTSIDE,
        ),
        (
            "A local datagram over the uplink, IPv6",
            From::Host,
            Scene::OUTSIDE_V6,
        ),
        (
            "A local datagram into the tunnel",
            From::Host,
            Scene::INSIDE,
        ),
        (
            "A forwarded datagram over the uplink",
            From::Client,
            Scene::OUTSIDE,
        ),
        (
            "A forwarded datagram into the tunnel",
            From::Client,
            Scene::INSIDE,
        ),
    ] {
        let target = SocketAddr::new(target.parse()?, PORT);
        let contest = Contest {
            title,
            unit: "ns",
            added: Some("nftables"),
            burst: 1000,
            note: |_| NOTE.into(),
        };
        let load = |scene: &Scene| Load::datagrams(scene.origin(from), target);
        contest.hold(&hosts, load, rounds, report)?;
    }
    let contest = Contest {
        title: "A MiB by TCP to port 443 over the uplink",
        unit: "µs",
        added: None,
        burst: 1,
        note: |_| {
            "Microseconds of the sender's CPU until the socket has taken it. The peer reads in the same machine.".into()
        },
    };
    contest.hold(&hosts, |scene| Load::stream(scene, 443), rounds, report)
}
