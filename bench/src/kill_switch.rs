//! What a packet takes while everything but the tunnel is shut, beside what a firewall does for it.

use std::net::SocketAddr;

use anyhow::Result;

use crate::report::Report;
use crate::scene::{Contest, From, Guard, Load, Scene, hosts};

/// A port that nobody judges.
const PORT: u16 = 40_000;
/// That of the tunnel's server.
const CARRIER: u16 = 51_820;
/// What the tunnel's own packets are marked with.
const MARK: u32 = 0xca6c;

/// Packets into the tunnel, the tunnel's own, and what is dropped.
pub(crate) fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    let hosts = hosts(vec![
        ("nothing", Guard::Nothing),
        (
            "leakguard",
            Guard::Leakguard(format!(
                "[kill_switch]\nmode = \"always\"\n[[kill_switch.endpoints]]\naddress = \"{}\"\nport = {CARRIER}\n\
                 mark = {MARK}\n",
                Scene::OUTSIDE
            )),
        ),
        (
            "nftables",
            Guard::Nftables(Guard::chains(
                "drop",
                &format!(
                    "oifname {{ \"lo\", \"{}\" }} accept\n\
                     ip daddr {} udp dport {CARRIER} meta mark {MARK} accept\n",
                    Scene::TUNNEL,
                    Scene::OUTSIDE
                ),
            )),
        ),
    ])?;
    let address = |text: &str, port| Ok::<_, anyhow::Error>(SocketAddr::new(text.parse()?, port));
    let (inside, outside) = (
        address(Scene::INSIDE, PORT)?,
        address(Scene::OUTSIDE, PORT)?,
    );
    let carrier = address(Scene::OUTSIDE, CARRIER)?;
    let contest = |title, added| Contest {
        title,
        unit: "ns",
        added,
        burst: 1000,
        note: |_| {
            "The kill switch is in force in leakguard, and nftables drops whatever it is not told to let out.".into()
        },
    };
    contest("Shut: a local datagram into the tunnel", Some("nftables")).hold(
        &hosts,
        |scene| Load::datagrams(scene.origin(From::Host), inside),
        rounds,
        report,
    )?;
    contest(
        "Shut: a forwarded datagram into the tunnel",
        Some("nftables"),
    )
    .hold(
        &hosts,
        |scene| Load::datagrams(scene.origin(From::Client), inside),
        rounds,
        report,
    )?;
    contest(
        "Shut: a packet of the tunnel over the uplink",
        Some("nftables"),
    )
    .hold(
        &hosts,
        |scene| Load::datagrams(scene.origin(From::Host), carrier)?.marked(MARK),
        rounds,
        report,
    )?;
    // The first lets it out.
    let shut = &hosts[1..];
    contest("Shut: a local datagram, dropped", None).hold(
        shut,
        |scene| Load::refused(scene.origin(From::Host), outside),
        rounds,
        report,
    )?;
    contest("Shut: a forwarded datagram, dropped", None).hold(
        shut,
        |scene| Load::datagrams(scene.origin(From::Client), outside),
        rounds,
        report,
    )
}
