//! Rules: promtool takes them, each alert is shown to fire and to stay silent, and each says where to read on.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::{file, read, run, said};

const RULES: &str = "deploy/prometheus/leakguard.rules.yml";
const TESTS: &str = "deploy/prometheus/tests/leakguard.test.yml";
const PAGE: &str = "docs/observability.md";

/// The alerts that the rules have.
fn alerts() -> BTreeSet<String> {
    read(RULES)
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .map(str::to_owned)
        .collect()
}

#[test]
fn promtool_takes_the_rules_the_configuration_and_every_test() {
    let path = |path| file(path).into_os_string().into_string().unwrap();
    for arguments in [
        ["check", "rules", &path(RULES)],
        ["check", "config", &path("deploy/prometheus/prometheus.yml")],
        ["test", "rules", &path(TESTS)],
    ] {
        let output = run("promtool", &arguments);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    }
}

#[test]
fn each_alert_is_tested_to_fire_and_to_stay_silent() {
    let mut fires = BTreeSet::new();
    let mut silent = BTreeSet::new();
    let mut of = String::new();
    for line in read(TESTS).lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("- alertname: ") {
            name.clone_into(&mut of);
        }
        match line {
            "exp_alerts:" => fires.insert(of.clone()),
            "exp_alerts: []" => silent.insert(of.clone()),
            _ => false,
        };
    }
    assert!(alerts().len() > 20, "{:?}", alerts());
    assert_eq!(fires, alerts());
    assert_eq!(silent, alerts());
}

#[test]
fn each_alert_has_a_heading_that_says_what_to_do_and_no_heading_is_left_over() {
    let headings: BTreeSet<String> = read(PAGE)
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .map(str::to_owned)
        .collect();
    assert_eq!(headings, alerts());
    let rules = read(RULES);
    for alert in alerts() {
        let link = format!("runbook_url: {PAGE}#{}\n", alert.to_lowercase());
        assert!(rules.contains(&link), "{link}");
    }
}

/// A copy of the rules, in which something is another, and of the tests of one alert.
fn spoilt(alert: &str, from: &str, to: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let rules = read(RULES);
    assert!(rules.contains(from), "{from}");
    let write = |name: &str, text: &str| {
        fs::write(directory.path().join(name), text).unwrap();
    };
    write("leakguard.rules.yml", &rules.replacen(from, to, 1));
    fs::create_dir(directory.path().join("tests")).unwrap();
    let tests = read(TESTS);
    let mut parts = tests.split("\n- name: ");
    let head = parts.next().unwrap();
    let kept: Vec<&str> = parts
        .filter(|test| test.starts_with(&format!("'{alert}:")))
        .collect();
    assert!(!kept.is_empty(), "{alert}");
    write(
        "tests/leakguard.test.yml",
        &format!("{head}\n- name: {}\n", kept.join("\n- name: ")),
    );
    directory
}

fn passes(what: &str, directory: &Path, name: &str) -> bool {
    let path = directory.join(name);
    run("promtool", &[what, "rules", path.to_str().unwrap()])
        .status
        .success()
}

#[test]
fn rules_that_are_broken_are_refused() {
    for (from, to) in [
        ("sum by (region, le) (", "sum by (region, le ("),
        ("severity: critical", "severity critical"),
        ("for: 2m", "for: soon"),
    ] {
        let broken = spoilt("LeakguardLeaked", from, to);
        assert!(
            !passes("check", broken.path(), "leakguard.rules.yml"),
            "{to}"
        );
    }
}

#[test]
fn rules_that_say_something_else_fail_their_tests() {
    for (alert, from, to) in [
        ("LeakguardNotEnforced", "level=\"none\"", "level=\"no\""),
        ("LeakguardNotEnforced", "Nothing is enforced", "All is well"),
        (
            "LeakguardLeaked",
            "escaped_total[1h]) > 0",
            "escaped_total[1h]) > 99",
        ),
        ("LeakguardResolverSlow", "p95_2h > 0.05", "p95_2h > 0.5"),
        ("ResolverClusterDown", "for: 30s", "for: 1h"),
        (
            "ResolverClusterSlow",
            "slow_answers:ratio_rate5m > 0.05",
            "slow_answers:ratio_rate5m > 0.001",
        ),
    ] {
        const FILE: &str = "tests/leakguard.test.yml";
        let same = spoilt(alert, from, from);
        assert!(passes("test", same.path(), FILE), "control: {alert}");
        let changed = spoilt(alert, from, to);
        assert!(!passes("test", changed.path(), FILE), "{alert}: {to}");
    }
}
