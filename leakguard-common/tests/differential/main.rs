//! The parser and the verdict against etherparse, on generated and damaged packets.
//!
//! Every case follows from its number alone. The numbers start at `LEAKGUARD_DIFFERENTIAL_SEED`, 0 by default,
//! and there are `LEAKGUARD_DIFFERENTIAL_CASES` of them; a failure names the variables that repeat it.

#![expect(
    clippy::panic,
    clippy::print_stdout,
    reason = "everything here is a test, helpers too"
)]

#[path = "../builder/mod.rs"]
mod builder;
#[path = "../facts/mod.rs"]
mod facts;
mod generate;
mod oracle;

use std::env;
use std::num::NonZero;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, available_parallelism};

use leakguard_common::packet::{Fragment, Packet, has_ports, parse};

use self::generate::{Generated, Truth, generate};
use self::oracle::Reading;

const CASES: &str = "LEAKGUARD_DIFFERENTIAL_CASES";
const SEED: &str = "LEAKGUARD_DIFFERENTIAL_SEED";
const DEFAULT_CASES: u64 = 200_000;

/// The number in an environment variable, or a default; what is no number must not pass for the default.
fn variable(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| {
        u64::from_str(&text).unwrap_or_else(|error| panic!("{name}={text}: {error}"))
    })
}

/// Runs `check` on every case, on all processors; counts the cases for which it says yes.
fn count_cases(check: impl Fn(&Generated) -> Result<bool, String> + Sync) -> Counts {
    let (first, cases) = (variable(SEED, 0), variable(CASES, DEFAULT_CASES));
    let threads = available_parallelism().map_or(1, NonZero::get);
    let confirmed = AtomicU64::new(0);
    let run = &|thread: u64| {
        for case in (thread..cases).step_by(threads) {
            let seed = first.wrapping_add(case);
            let generated = generate(seed);
            match check(&generated) {
                Ok(yes) => confirmed.fetch_add(u64::from(yes), Ordering::Relaxed),
                Err(wrong) => {
                    panic!("{wrong}\n{generated:02x?}\nrepeat with {SEED}={seed} {CASES}=1")
                }
            };
        }
    };
    thread::scope(|scope| {
        for thread in 0..threads as u64 {
            scope.spawn(move || run(thread));
        }
    });
    let confirmed = confirmed.into_inner();
    println!("{cases} cases from seed {first}, {confirmed} of them say something");
    Counts { cases, confirmed }
}

struct Counts {
    cases: u64,
    confirmed: u64,
}

impl Counts {
    /// Guards against packets that are so broken, or an oracle so blind, that nothing is compared.
    fn assert_some(&self, percent: u64) {
        let Self { cases, confirmed } = *self;
        let is_sample = cases >= 1000;
        assert!(
            !is_sample || confirmed * 100 >= cases * percent,
            "only {confirmed} of {cases} cases say something"
        );
    }
}

fn found(generated: &Generated) -> Truth {
    let mut packet = Packet::UNKNOWN;
    match parse(&generated.bytes[..], generated.link, &mut packet) {
        Err(error) => Truth::Error(error),
        Ok(()) if packet.fragment == Fragment::Later => Truth::Later,
        Ok(()) if has_ports(packet.protocol) => Truth::Ports {
            protocol: packet.protocol,
            source: packet.source_port,
            destination: packet.destination_port,
        },
        Ok(()) => Truth::NoPorts {
            protocol: packet.protocol,
        },
    }
}

#[test]
fn no_port_that_etherparse_finds_is_missed() {
    let counts = count_cases(|generated| {
        let reading = oracle::check(&generated.bytes, generated.link)?;
        Ok(matches!(reading, Reading::Port { .. }))
    });
    counts.assert_some(40);
}

#[test]
fn undamaged_packets_are_read_as_they_were_made() {
    let counts = count_cases(|generated| match generated.truth {
        Some(truth) if found(generated) != truth => {
            Err(format!("made as {truth:?}, read as {:?}", found(generated)))
        }
        truth => Ok(matches!(truth, Some(Truth::Ports { .. }))),
    });
    counts.assert_some(20);
}
