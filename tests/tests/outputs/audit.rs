//! The audit log: what it proves across restarts, and what verify says of each kind of change.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use serde_json::Value;

use super::{Desk, json_lines, leakguard};

/// What `audit verify` says, and its exit code.
fn verified(path: &Path, more: &[&str]) -> (Option<i32>, Value) {
    let arguments = [&["audit", "verify", path.to_str().unwrap(), "--json"], more].concat();
    let output = leakguard(&arguments);
    let report = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code(), report)
}

/// The first problem, as its line and kind.
fn first_problem(report: &Value) -> (u64, String) {
    let problem = &report["problems"][0];
    (
        problem["at"].as_u64().unwrap(),
        problem["kind"].as_str().unwrap().to_owned(),
    )
}

#[test]
fn an_audit_log_goes_on_across_restarts_and_every_change_of_it_is_found() {
    let mut desk = Desk::new();
    let path = desk.path("audit.ndjson");
    let begin = |desk: &mut Desk| desk.start(&format!("audit_log = {path:?}"), "");
    begin(&mut desk);
    desk.leak(20);
    let counted = desk.settle("audit_log", 20);
    assert_eq!((counted.lagged, counted.failed), (0, 0));
    assert!(desk.bench.agent().terminate().unwrap().success());
    let (code, report) = verified(&path, &[]);
    assert_eq!(code, Some(0), "{report}");
    // Opened, the events, closed.
    assert_eq!(report["lines"], counted.delivered + 2);
    let first_end = report["last"]["hash"].as_str().unwrap().to_owned();

    desk.bench.agent().restart().unwrap();
    desk.leak(10);
    let counted = desk.settle("audit_log", 10);
    assert!(counted.delivered >= 10);
    desk.bench.agent().kill9().unwrap();
    let (code, report) = verified(&path, &[]);
    assert_eq!(code, Some(0), "after SIGKILL: {report}");
    // What a crash of the machine leaves.
    let torn = b"{\"line\":99,\"previous\":\"00";
    OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap()
        .write_all(torn)
        .unwrap();
    let (code, report) = verified(&path, &[]);
    assert_eq!(code, Some(3));
    assert_eq!(first_problem(&report).1, "unfinished");

    desk.bench.agent().restart().unwrap();
    desk.leak(10);
    desk.settle("audit_log", 10);
    assert!(desk.bench.agent().terminate().unwrap().success());
    let (code, report) = verified(&path, &[]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(report["torn"], 1);
    let last = report["last"]["hash"].as_str().unwrap().to_owned();
    let log = desk.bench.agent().stderr();
    assert!(
        log.contains(&last),
        "the end of the log is in the agent's log: {log}"
    );
    assert_eq!(verified(&path, &["--expect-last", &last]).0, Some(0));
    let (code, report) = verified(&path, &["--expect-last", &first_end]);
    assert_eq!(code, Some(3));
    assert!(
        report["problems"][0]["message"]
            .as_str()
            .unwrap()
            .contains("were written since")
    );

    tampered(&path, &last);
}

/// Changes a whole log in every way, and has each looked for.
fn tampered(path: &Path, last: &str) {
    let original = fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = original.lines().collect();
    let write = |lines: &[&str]| fs::write(path, lines.join("\n") + "\n").unwrap();

    let edited = lines[4].replacen("192.168.77.10", "192.168.77.11", 1);
    assert_ne!(edited, lines[4]);
    let mut changed = lines.clone();
    changed[4] = &edited;
    write(&changed);
    let (code, report) = verified(path, &[]);
    assert_eq!(
        (code, first_problem(&report)),
        (Some(3), (5, "changed".to_owned()))
    );

    let mut removed = lines.clone();
    removed.remove(6);
    write(&removed);
    let (code, report) = verified(path, &[]);
    assert_eq!(
        (code, first_problem(&report)),
        (Some(3), (7, "missing".to_owned()))
    );

    let mut swapped = lines.clone();
    swapped.swap(2, 3);
    write(&swapped);
    let (code, report) = verified(path, &[]);
    assert_eq!(code, Some(3));
    assert_eq!(first_problem(&report).0, 3);

    let mut repeated = lines.clone();
    repeated.insert(8, lines[7]);
    write(&repeated);
    let (code, report) = verified(path, &[]);
    assert_eq!(
        (code, first_problem(&report)),
        (Some(3), (9, "out_of_place".to_owned()))
    );

    // The end that is cut off is seen only by who knows the last hash.
    write(&lines[..lines.len() - 3]);
    assert_eq!(verified(path, &[]).0, Some(0));
    let (code, report) = verified(path, &["--expect-last", last]);
    assert_eq!(code, Some(3));
    assert_eq!(first_problem(&report).1, "other_end");

    fs::write(path, "not a log\n").unwrap();
    assert_eq!(verified(path, &[]).0, Some(2));
    fs::write(path, "").unwrap();
    assert_eq!(verified(path, &[]).0, Some(2));
    assert_eq!(verified(&path.with_extension("absent"), &[]).0, Some(2));
    assert_eq!(verified(path, &["--expect-last", "12"]).0, Some(2));
}

#[test]
fn a_rotated_audit_log_goes_on_in_the_new_file() {
    let mut desk = Desk::new();
    let (path, old) = (desk.path("audit.ndjson"), desk.path("audit.1"));
    desk.start(&format!("audit_log = {path:?}"), "");
    desk.leak(5);
    desk.settle("audit_log", 5);
    fs::rename(&path, &old).unwrap();
    desk.hang_up();
    leakguard::lab::wait_until(
        "the file is there again",
        super::LIMIT,
        || Ok(path.exists()),
    )
    .unwrap();
    desk.leak(5);
    let counted = desk.settle("audit_log", 10);
    assert_eq!((counted.lagged, counted.failed), (0, 0));
    assert!(desk.bench.agent().terminate().unwrap().success());
    let (code, before) = verified(&old, &[]);
    assert_eq!(code, Some(0), "{before}");
    let (code, after) = verified(&path, &[]);
    assert_eq!(code, Some(0), "{after}");
    assert_eq!(after["continues"], before["last"]["hash"]);
    let packets = |path: &Path| {
        let lines = json_lines(path);
        lines
            .iter()
            .filter(|line| line["entry"]["kind"] == "packet")
            .count()
    };
    assert_eq!((packets(&old), packets(&path)), (5, 5));
}
