//! A host without a leak.

use std::time::Instant;

use leakguard_tests::Bench;

use super::runs::{UNSIGNED, verify};

#[test]
fn a_sound_host_has_no_finding() {
    let mut bench = Bench::with_tunnel();
    bench.protect(&["--packet-sockets", "strict"]);
    let run = verify(&mut bench, UNSIGNED, &[]);
    assert_eq!(run.failures(), [].into(), "{:#}", run.report);
    assert_eq!(run.code, 0, "{:#}", run.report);
    assert_eq!(run.report["result"], "pass");
    assert_eq!(run.seen, [].into());
    assert_eq!(run.report["control_seen"], run.report["control_sent"]);
}

#[test]
fn a_quick_run_takes_less_than_three_seconds() {
    let mut bench = Bench::with_tunnel();
    bench.protect(&[]);
    let started = Instant::now();
    let run = verify(&mut bench, UNSIGNED, &["--quick"]);
    println!(
        "quick, with its start: {} ms",
        started.elapsed().as_millis()
    );
    assert_eq!(run.failures(), [].into(), "{:#}", run.report);
    assert_eq!(run.code, 0);
}
