//! What one run of a kernel program takes, by `BPF_PROG_TEST_RUN`, beside an empty program of the same type.
//!
//! The programs are those that a running agent has attached, with what it has written into their maps.

mod packets;
pub(crate) mod test_run;

use std::os::fd::{AsFd, OwnedFd};

use anyhow::Result;
use leakguard::kernel::pins::Pins;
use leakguard::lab::{Netns, Topology};
use leakguard_tests::Bench;
use nix::net::if_::if_nametoindex;

use crate::report::{Report, Table};
use crate::rounds::{Contender, interleave};

use packets::{Kind, kinds, on_a_wire};
use test_run::{Type, empty, program_of, test_run};

/// A program, and what it is compared with.
struct Hook {
    name: &'static str,
    program: OwnedFd,
    empty: OwnedFd,
    passes: i32,
    drops: i32,
    /// `bpf_prog_test_run_skb` strips the Ethernet header for this type, and for the other it does not.
    kinds: Vec<Kind>,
}

/// Measures every kind of packet at both hooks.
pub(crate) fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    let mut bench = Bench::with_bare_tunnel();
    bench.protect(&[]);
    let pins = Pins::at(bench.bpffs.path());
    let host = bench.topology.host();
    let [uplink, tunnel] = [Topology::UPLINK, Bench::TUNNEL].map(|name| index(host, name));
    let (uplink, tunnel) = (uplink?, tunnel?);
    let mut wire = kinds()?;
    wire.push(on_a_wire()?);
    let hooks = [
        Hook {
            name: "a local packet (cgroup_skb)",
            program: program_of(&pins.cgroup_link()),
            empty: empty(Type::CgroupSkb, 1),
            passes: 1,
            drops: 0,
            kinds: kinds()?,
        },
        Hook {
            name: "a packet at an uplink (TCX)",
            program: program_of(&pins.tcx_link(uplink)),
            empty: empty(Type::SchedCls, -1),
            passes: -1,
            drops: 2,
            kinds: wire,
        },
    ];
    for hook in &hooks {
        let table = host.run_in(|| table(hook, uplink, rounds))??;
        report.add(&table)?;
    }
    let table = host.run_in(|| allowed(&hooks[0], tunnel, rounds))??;
    report.add(&table)
}

fn index(netns: &Netns, name: &str) -> Result<u32> {
    Ok(netns.run_in(|| if_nametoindex(name))??)
}

/// One hook, and every kind of packet.
fn table(hook: &Hook, uplink: u32, rounds: usize) -> Result<Table> {
    let first = &hook.kinds[0];
    let mut contenders = vec![Contender::new("an empty program", || {
        test_run(hook.empty.as_fd(), &first.frame, uplink, hook.passes)
    })];
    for kind in &hook.kinds {
        let expected = if kind.dropped {
            hook.drops
        } else {
            hook.passes
        };
        contenders.push(Contender::new(kind.name, move || {
            test_run(hook.program.as_fd(), &kind.frame, uplink, expected)
        }));
    }
    Ok(Table {
        title: format!("One run of the program for {}", hook.name),
        unit: "ns",
        rows: interleave(rounds, &mut contenders)?,
        baseline: Some(0),
        note: "Most of an empty program's time is the loop of BPF_PROG_TEST_RUN.".into(),
    })
}

/// DNS that leaves by the tunnel.
fn allowed(hook: &Hook, tunnel: u32, rounds: usize) -> Result<Table> {
    let dns = hook.kinds.iter().filter(|kind| kind.dropped);
    let mut contenders = Vec::new();
    for kind in dns {
        contenders.push(Contender::new(
            kind.name.replace("dropped", "into the tunnel"),
            || test_run(hook.program.as_fd(), &kind.frame, tunnel, hook.passes),
        ));
    }
    Ok(Table {
        title: "One run of the program for a local packet into the tunnel".into(),
        unit: "ns",
        rows: interleave(rounds, &mut contenders)?,
        baseline: None,
        note: String::new(),
    })
}
