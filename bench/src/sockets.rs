//! What the calls of sockets take: making one, connecting it, sending without being connected.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::time::Instant;

use anyhow::{Context as _, Result};
use leakguard::lab::{Cgroup, Netns, address};
use leakguard_tests::{Bench, isp};

use crate::report::{Report, Table};
use crate::rounds::{Contender, interleave};

/// How many calls make one value.
const CALLS: u32 = 2000;
/// A port that is none of leakguard's business.
const PORT: u16 = 4000;

/// A thing that sockets do.
struct Call {
    title: &'static str,
    run: fn(SocketAddr) -> Result<f64>,
}

const CALLS_OF_SOCKETS: [Call; 3] = [
    Call {
        title: "Making and closing a UDP socket",
        run: make,
    },
    Call {
        title: "Connecting a UDP socket",
        run: connect,
    },
    Call {
        title: "Sending a datagram from a socket that is not connected",
        run: send,
    },
];

/// Measures every call in three cgroups: of nobody, guarded, and guarded with redirection.
pub(crate) fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    let mut guarded = Bench::with_bare_tunnel();
    guarded.protect(&[]);
    let mut redirected = Bench::with_bare_tunnel();
    let resolver = address::TUNNEL_RESOLVER_V4.to_string();
    redirected.protect(&["--redirect", &resolver]);
    let free = Cgroup::new("free")?;
    let places = [
        ("nothing", &free, &guarded),
        ("leakguard", &guarded.cgroup, &guarded),
        (
            "leakguard with redirection",
            &redirected.cgroup,
            &redirected,
        ),
    ];
    for Call { title, run } in &CALLS_OF_SOCKETS {
        let mut contenders = Vec::new();
        for (name, cgroup, bench) in places {
            contenders.push(Contender::new(name, move || {
                within(cgroup, bench.topology.host(), *run)
            }));
        }
        let rows = interleave(rounds, &mut contenders);
        // Whatever comes next is not to be guarded.
        enter(&free)?;
        report.add(&Table {
            title: (*title).into(),
            unit: "ns",
            rows: rows?,
            baseline: Some(0),
            note: String::new(),
        })?;
    }
    Ok(())
}

/// Moves this process into a cgroup, which is the one of all sockets that it makes from then on.
fn enter(cgroup: &Cgroup) -> Result<()> {
    let members = cgroup.path().join("cgroup.procs");
    fs::write(&members, "0").with_context(|| format!("cannot write {}", members.display()))
}

fn within(cgroup: &Cgroup, netns: &Netns, run: fn(SocketAddr) -> Result<f64>) -> Result<f64> {
    enter(cgroup)?;
    netns.run_in(|| run(isp(0, PORT)))?
}

/// Does something again and again; returns nanoseconds for one time.
fn timed(mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let started = Instant::now();
    for _ in 0..CALLS {
        call()?;
    }
    Ok(started.elapsed().as_nanos() as f64 / f64::from(CALLS))
}

fn unbound() -> Result<UdpSocket> {
    Ok(UdpSocket::bind("0.0.0.0:0")?)
}

fn make(_target: SocketAddr) -> Result<f64> {
    timed(|| unbound().map(drop))
}

fn connect(target: SocketAddr) -> Result<f64> {
    let socket = unbound()?;
    timed(|| Ok(socket.connect(target)?))
}

fn send(target: SocketAddr) -> Result<f64> {
    let socket = unbound()?;
    timed(|| {
        socket.send_to(&[0x55; 64], target)?;
        Ok(())
    })
}
