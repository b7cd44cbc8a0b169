//! What telling of a packet costs, beside nftables' log with a reader and beside tcpdump.

mod burst;
mod consumer;
mod cpu;
mod flood;

use std::cell::RefCell;

use anyhow::Result;

use crate::report::{Report, Table};
use crate::rounds::{Contender, Samples, interleave};

use consumer::{Consumer, Kind, Turn};

/// Packets of one turn.
const PACKETS: u32 = 200_000;

/// Measures the consumers of events, and what a flood costs.
pub(crate) fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    consumers(rounds, report)?;
    senders(rounds, report)?;
    burst::measure(report)
}

/// What telling costs who tells.
fn consumers(rounds: usize, report: &mut Report) -> Result<()> {
    let consumers = [
        Consumer::tcpdump("tcpdump, text", &[])?,
        Consumer::tcpdump("tcpdump -w", &["-w", "-"])?,
        Consumer::nflog("nftables log group, ulogd JSON", "JSON")?,
        Consumer::nflog("nftables log group, ulogd text", "LOGEMU")?,
        Consumer::leakguard("leakguard, JSON on standard output", Kind::Stdout, 0)?,
        Consumer::leakguard(
            "leakguard, JSON in a file, text on standard output",
            Kind::File,
            0,
        )?,
        Consumer::leakguard(
            "leakguard, events --json, text on standard output",
            Kind::Follower,
            0,
        )?,
    ];
    let consumers = consumers.map(RefCell::new);
    let turns: Vec<RefCell<Vec<Turn>>> = consumers.iter().map(|_| RefCell::default()).collect();
    let mut contenders = Vec::new();
    for (consumer, turns) in consumers.iter().zip(&turns) {
        contenders.push(Contender::new(consumer.borrow().name, move || {
            let turn = consumer.borrow_mut().turn(PACKETS)?;
            turns.borrow_mut().push(turn);
            Ok(turn.delivered as f64 / turn.cpu.as_secs_f64())
        }));
    }
    let rates = interleave(rounds, &mut contenders)?;
    drop(contenders);
    let of_turns = |value: &dyn Fn(&Turn) -> f64| -> Vec<Samples> {
        let pairs = rates.iter().zip(&turns);
        pairs
            .map(|(row, turns)| {
                // The first was to warm up.
                let values = turns.borrow().iter().skip(1).map(value).collect();
                Samples::new(row.name.clone(), values)
            })
            .collect()
    };
    let each = f64::from(PACKETS);
    for (title, unit, rows) in [
        (
            "Events in a second of the consumer's processor",
            "1/s",
            rates.clone(),
        ),
        (
            "The consumer's processor for one event",
            "ns",
            of_turns(&|turn| turn.cpu.as_nanos() as f64 / turn.delivered as f64),
        ),
        (
            "Events that were lost in a flood",
            "%",
            of_turns(&|turn| 100.0 * (1.0 - turn.delivered as f64 / each)),
        ),
    ] {
        report.add(&Table {
            title: title.into(),
            unit,
            rows,
            baseline: Some(0),
            note: String::new(),
        })?;
    }
    Ok(())
}

/// What a flood of drops costs who sends it.
fn senders(rounds: usize, report: &mut Report) -> Result<()> {
    let consumers = [
        Consumer::silent("nftables, drop")?,
        Consumer::nflog("nftables, log group and drop", "LOGEMU")?,
        Consumer::leakguard("leakguard, 10 events a second", Kind::File, 10)?,
        Consumer::leakguard("leakguard, an event for each", Kind::Stdout, 0)?,
    ];
    let mut contenders = Vec::new();
    for consumer in &consumers {
        contenders.push(Contender::new(consumer.name, || {
            let sent = consumer.flood(PACKETS)?;
            consumer.at_rest()?;
            Ok(sent.cpu.as_nanos() as f64 / f64::from(PACKETS))
        }));
    }
    report.add(&Table {
        title: "The sender's processor for one packet of a flood that is dropped".into(),
        unit: "ns",
        rows: interleave(rounds, &mut contenders)?,
        baseline: Some(0),
        note: "With the sender's system call. Who reads the log, or the events, has the other processor.".into(),
    })
}
