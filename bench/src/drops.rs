//! What a packet takes that is dropped, with and without telling anybody.

use std::net::SocketAddr;

use anyhow::Result;

use crate::report::Report;
use crate::scene::{Contest, From, Guard, Host, Load, Scene, hosts};

/// Local and forwarded DNS.
pub(crate) fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    let target = SocketAddr::new(Scene::OUTSIDE.parse()?, 53);
    let log = format!("log group {} drop", Guard::LOG_GROUP);
    let hosts = hosts(vec![
        ("nftables, drop", Guard::Nftables(Guard::rule("drop"))),
        ("nftables, log and drop", Guard::Logging(Guard::rule(&log))),
        ("iptables-legacy, drop", Guard::iptables()),
        ("leakguard", Guard::leakguard()),
        (
            "leakguard, every packet an event",
            Guard::Leakguard("[events]\nrate_per_key = 0\n".into()),
        ),
        ("a program that drops", Guard::Programs(0)),
    ])?;
    let contest = |title| Contest {
        title,
        unit: "ns",
        added: None,
        // What the ring and the reader's socket have room for.
        burst: 500,
        note,
    };
    contest("A local question, dropped").hold(
        &hosts,
        |scene| Load::refused(scene.origin(From::Host), target),
        rounds,
        report,
    )?;
    contest("A forwarded question, dropped").hold(
        &hosts,
        |scene| Load::datagrams(scene.origin(From::Client), target),
        rounds,
        report,
    )
}

fn note(hosts: &[Host]) -> String {
    let told: Vec<_> = hosts
        .iter()
        .filter_map(|(name, scene)| Some(format!("{name}: {}", scene.told()?)))
        .collect();
    format!(
        "Nanoseconds of the sender's CPU for one datagram to port 53 that is not let out; what readers of logs and events take \
         is not in it. \"A program that drops\" is the least that the place of leakguard's takes: it comes after netfilter's.\n\n\
         Told by then: {}.",
        told.join("; ")
    )
}
