//! A million drops at once: what becomes of them, and what the agent takes.

use anyhow::{Context as _, Result, ensure};
use leakguard::lab::wait_until;
use leakguard_tests::{Resident, packets};
use serde_json::Value;

use super::consumer::{Consumer, Kind};
use super::cpu::LIMIT;
use crate::report::{Report, Table};
use crate::rounds::Samples;

/// Drops of one burst.
const PACKETS: u32 = 1_000_000;

/// Shows that each of them is told of, suppressed or lost, and counted as that.
pub(super) fn measure(report: &mut Report) -> Result<()> {
    let mut bursts = Vec::new();
    for (name, rate) in [("10 events a second", 10), ("an event for each", 0)] {
        let mut agent = Consumer::leakguard(name, Kind::File, rate)?;
        bursts.push((name, Burst::of(&mut agent)?));
    }
    let of_bursts = |value: &dyn Fn(&Burst) -> u64| -> Vec<Samples> {
        let bursts = bursts.iter();
        bursts
            .map(|(name, burst)| Samples::new(*name, vec![value(burst) as f64]))
            .collect()
    };
    for (title, unit, rows) in [
        ("time to send them", "ms", of_bursts(&|burst| burst.sending)),
        ("the agent's processor", "ms", of_bursts(&|burst| burst.cpu)),
        ("events", "events", of_bursts(&|burst| burst.submitted)),
        (
            "events lost in the kernel",
            "events",
            of_bursts(&|burst| burst.lost),
        ),
        (
            "events that the file missed",
            "events",
            of_bursts(&|burst| burst.lagged),
        ),
        (
            "packets suppressed",
            "packets",
            of_bursts(&|burst| burst.suppressed),
        ),
        (
            "the agent's memory before",
            "KiB",
            of_bursts(&|burst| burst.memory_before),
        ),
        (
            "the agent's memory at most",
            "KiB",
            of_bursts(&|burst| burst.memory_peak),
        ),
        (
            "the agent's memory after",
            "KiB",
            of_bursts(&|burst| burst.memory_after),
        ),
    ] {
        report.add(&Table {
            title: format!("A burst of 1,000,000 drops: {title}"),
            unit,
            rows,
            baseline: None,
            note: "Measured once. Packets dropped = told of + suppressed + lost, to the packet."
                .into(),
        })?;
    }
    Ok(())
}

/// What became of one.
struct Burst {
    sending: u64,
    cpu: u64,
    submitted: u64,
    lost: u64,
    suppressed: u64,
    lagged: u64,
    memory_before: u64,
    memory_peak: u64,
    memory_after: u64,
}

impl Burst {
    fn of(agent: &mut Consumer) -> Result<Self> {
        let before = agent.at_rest()?;
        let memory_before = agent.memory()?.now;
        let sent = agent.flood(PACKETS)?;
        let cpu = agent.at_rest()?.saturating_sub(before);
        let mut counts = None;
        let mut failure = None;
        wait_until("all is told", LIMIT, || {
            match account(agent) {
                Ok((true, found)) => counts = Some(found),
                Ok((false, _)) => {}
                Err(error) => failure = Some(error),
            }
            Ok(counts.is_some() || failure.is_some())
        })?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        let [submitted, lost, suppressed, lagged] = counts.context("nothing was counted")?;
        let Resident {
            now: memory_after,
            most: memory_peak,
        } = agent.memory()?;
        Ok(Self {
            sending: sent.elapsed.as_millis() as u64,
            cpu: cpu.as_millis() as u64,
            submitted,
            lost,
            suppressed,
            lagged,
            memory_before,
            memory_peak,
            memory_after,
        })
    }
}

/// Whether everything is told of; and how many events there were, were lost, were suppressed, were missed by the file.
fn account(agent: &mut Consumer) -> Result<(bool, [u64; 4])> {
    let status = agent.status()?;
    let count = |value: &Value| value.as_u64().context("a count is missing");
    let events = &status["events"];
    let submitted = count(&events["submitted"])?;
    let lost = count(&events["lost"])?;
    let suppressed = count(&events["suppressed"])?;
    let lagged = count(&status["health"]["outputs"]["file"]["lagged"])?;
    let dropped = packets(&status, &[("verdict", "drop")]);
    ensure!(
        dropped == u64::from(PACKETS) && submitted + lost + suppressed == dropped,
        "{PACKETS} packets were sent: {status}"
    );
    let told = agent.told()?;
    ensure!(
        told + lagged <= submitted + suppressed,
        "{told} packets are told of: {status}"
    );
    let is_all = told + lagged == submitted + suppressed;
    Ok((is_all, [submitted, lost, suppressed, lagged]))
}
