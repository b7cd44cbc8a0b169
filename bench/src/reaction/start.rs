//! From `exec` to enforced.

use std::time::{Duration, Instant};

use anyhow::Result;
use leakguard::lab::output_within;
use leakguard_tests::write_config;

use crate::host::{Host, elapsed_until, settle};
use crate::report::{Report, Table};
use crate::rounds::Samples;

const LIMIT: Duration = Duration::from_secs(10);

/// What else refuses DNS: one rule.
const RULE: &str = "add table inet bench\n\
                    add chain inet bench output { type filter hook output priority 0; }\n\
                    add rule inet bench output udp dport 53 oifname != \"tun0\" drop\n";

pub(super) fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    let host = Host::new()?;
    let rows = [
        "leakguard: local DNS is refused",
        "leakguard: the uplink has its program too",
        "leakguard: everything is in place",
        "nft: one rule is in place",
    ];
    let mut values = rows.map(|_| Vec::new());
    for round in 0..=rounds {
        let found = agent(&host)?;
        let rule = nft(&host)?;
        if round > 0 {
            let [refused, attached, enforcing] = found;
            for (values, value) in values.iter_mut().zip([refused, attached, enforcing, rule]) {
                values.push(value);
            }
        }
    }
    let rows = rows.into_iter().zip(values);
    report.add(&Table {
        title: "From exec to enforced".into(),
        unit: "ms",
        rows: rows.map(|(name, values)| Samples::new(name, values)).collect(),
        baseline: None,
        note: "On a warm cache, with one uplink. The kernel verifies each program when it is loaded, which is most of it."
            .into(),
    })
}

fn agent(host: &Host) -> Result<[f64; 3]> {
    let probe = host.probe(53);
    let start = Instant::now();
    let agent = host.spawn(&[])?;
    let refused = elapsed_until("local DNS is refused", start, || probe.is_refused())?;
    let attached = elapsed_until("the uplink is covered", start, || host.attached() > 0)?;
    let enforcing = elapsed_until("the agent enforces", start, || {
        agent.stderr().contains("enforcing;")
    })?;
    agent.release()?;
    drop(agent);
    settle("DNS passes again", || !probe.is_refused())?;
    Ok([refused, attached, enforcing])
}

fn nft(host: &Host) -> Result<f64> {
    let probe = host.probe(53);
    let file = write_config(RULE);
    let mut load = host.netns.command("nft");
    load.arg("-f").arg(file.path());
    let start = Instant::now();
    let mut child = load.spawn()?;
    let refused = elapsed_until("the rule is in place", start, || probe.is_refused())?;
    child.wait()?;
    let mut delete = host.netns.command("nft");
    delete.args(["delete", "table", "inet", "bench"]);
    output_within(delete, LIMIT)?;
    Ok(refused)
}
