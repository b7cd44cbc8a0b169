//! What the agent takes when there is nothing to do, and what it holds on to.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use leakguard::lab::Agent;

use crate::host::{Host, binary, milliseconds, resident, settle};
use crate::report::{Report, Table};
use crate::rounds::Samples;

/// How long nothing happens: twelve times the interval of the watchdog.
const QUIET: Duration = Duration::from_mins(1);

/// How many interfaces come and go, and how many at once.
const CHURN: usize = 3000;
const AT_ONCE: usize = 100;

/// How many packets are dropped meanwhile.
const DROPS: usize = 500_000;

pub(super) fn measure(report: &mut Report) -> Result<()> {
    let host = Host::new()?;
    let agent = host.protect(&["--local", "v*", "--local", "peer-*"])?;
    let after_start = resident(agent.pid())?;
    let before = (host.cpu()?, Instant::now());
    // Nothing is awaited: this is how long is measured.
    sleep(QUIET);
    let share = 100.0 * (host.cpu()? - before.0) / milliseconds(before.1.elapsed());
    report.add(&Table {
        title: "Nothing to do".into(),
        unit: "% of a core",
        rows: vec![Samples::new("leakguard and what it starts", vec![share])],
        baseline: None,
        note: format!("Over {} s, once.", QUIET.as_secs()),
    })?;
    churn(&host, &agent)?;
    report.add(&Table {
        title: "Resident memory".into(),
        unit: "MiB",
        rows: vec![
            Samples::new("after the start", vec![after_start]),
            Samples::new("after the load", vec![resident(agent.pid())?]),
        ],
        baseline: Some(0),
        note: format!(
            "The load is {CHURN} interfaces that come and go, and {DROPS} packets that are dropped."
        ),
    })?;
    let size = fs::metadata(binary())?.len() as f64 / f64::from(1 << 20);
    report.add(&Table {
        title: "The binary".into(),
        unit: "MiB",
        rows: vec![Samples::new("leakguard", vec![size])],
        baseline: None,
        note: "As it is built for a release, with the kernel programs in it.".into(),
    })
}

fn churn(host: &Host, agent: &Agent) -> Result<()> {
    let probe = host.probe(53);
    let rounds = CHURN / AT_ONCE;
    for _ in 0..rounds {
        host.add_pairs("v", AT_ONCE / 2)?;
        for _ in 0..DROPS / rounds {
            probe.is_refused();
        }
        let lines = (0..AT_ONCE / 2).map(|number| format!("link del v{number}\n"));
        host.netns.ip_batch(&lines.collect::<String>())?;
    }
    settle("the agent has seen the last of them go", || {
        agent.status_json().is_ok_and(|status| {
            let interfaces = status["interfaces"].as_array();
            interfaces.is_some_and(|interfaces| interfaces.len() == 3)
        })
    })
}
