//! From a new uplink to its program, one and many at once.

use std::time::Instant;

use anyhow::Result;
use leakguard_tests::{Foreign, Tun};
use nix::net::if_::if_nametoindex;

use crate::host::{Host, elapsed_until, settle};
use crate::report::{Report, Table};
use crate::rounds::{Contender, Samples, interleave};

/// How many come at once.
const BURST: usize = 32;

pub(super) fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    let host = Host::new()?;
    let agent = host.protect(&["--uplink", "up*"])?;
    let rows = interleave(
        rounds,
        &mut [
            Contender::new("the kernel: one attachment of an empty program", || {
                bare(&host)
            }),
            Contender::new("leakguard: from the interface to its program", || {
                one(&host)
            }),
        ],
    )?;
    report.add(&Table {
        title: "A new uplink".into(),
        unit: "ms",
        rows,
        baseline: Some(0),
        note: "Attaching waits for an RCU grace period. Until then, the nftables table holds back what is forwarded, and \
               local packets are judged at their socket."
            .into(),
    })?;
    drop(agent);
    let rows = many(rounds)?;
    report.add(&Table {
        title: format!("{BURST} uplinks are covered, at start"),
        unit: "ms",
        rows,
        baseline: Some(0),
        note: "From the first attachment to the last.".into(),
    })?;
    report.add(&Table {
        title: format!("{BURST} uplinks that come in a burst"),
        unit: "ms",
        rows: vec![burst(rounds)?],
        baseline: None,
        note: "From the end of the command that makes them to the last attachment.".into(),
    })
}

fn attach(name: &str) -> Result<Foreign> {
    Ok(Foreign::at_head(if_nametoindex(name)?)?)
}

fn bare(host: &Host) -> Result<f64> {
    let _tun = Tun::new(&host.netns, "bare0");
    host.netns.run_in(|| {
        let start = Instant::now();
        let _program = attach("bare0")?;
        Ok(crate::host::milliseconds(start.elapsed()))
    })?
}

fn one(host: &Host) -> Result<f64> {
    settle("nothing else is attached", || host.attached() == 1)?;
    let _tun = Tun::new(&host.netns, "up0");
    elapsed_until("the new uplink is covered", Instant::now(), || {
        host.attached() > 1
    })
}

/// What the agent takes for many uplinks beside what the kernel takes for as many attachments.
fn many(rounds: usize) -> Result<Vec<Samples>> {
    let (plain, guarded) = (Host::new()?, Host::new()?);
    for host in [&plain, &guarded] {
        host.add_pairs("up", BURST)?;
    }
    interleave(
        rounds,
        &mut [
            Contender::new("the kernel: empty programs, one after the other", || {
                plain.netns.run_in(|| {
                    let first = attach("up0")?;
                    let start = Instant::now();
                    let rest = (1..BURST).map(|number| attach(&format!("up{number}")));
                    let rest: Vec<Foreign> = rest.collect::<Result<_>>()?;
                    let time = crate::host::milliseconds(start.elapsed());
                    drop((first, rest));
                    Ok(time)
                })?
            }),
            Contender::new("leakguard", || {
                let arguments = ["--uplink", "up*", "--local", "peer-*"];
                let agent = guarded.spawn(&arguments)?;
                elapsed_until("the first is covered", Instant::now(), || {
                    guarded.attached() > 0
                })?;
                let start = Instant::now();
                // The gateway's uplink comes with them.
                let time =
                    elapsed_until("all are covered", start, || guarded.attached() > BURST - 1)?;
                settle("it is ready", || agent.stderr().contains("enforcing;"))?;
                agent.release()?;
                Ok(time)
            }),
        ],
    )
}

fn burst(rounds: usize) -> Result<Samples> {
    let host = Host::new()?;
    let _agent = host.protect(&["--uplink", "up*", "--local", "peer-*"])?;
    let mut rows = interleave(
        rounds,
        &mut [Contender::new("leakguard", || {
            settle("those before are gone", || host.attached() == 1)?;
            host.add_pairs("up", BURST)?;
            let time = elapsed_until("all are covered", Instant::now(), || {
                host.attached() > BURST
            });
            let lines = (0..BURST).map(|number| format!("link del up{number}\n"));
            host.netns.ip_batch(&lines.collect::<String>())?;
            time
        })],
    )?;
    Ok(rows.remove(0))
}
