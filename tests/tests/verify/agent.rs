//! The agent's own leak test.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use leakguard::lab::{Netns, address, wait_until};
use leakguard_common::abi::Class;
use leakguard_tests::{Bench, agent_binary, write_config};
use tempfile::TempDir;

use super::runs::UNSIGNED;

/// How long the first run may take to come and to end.
const LIMIT: Duration = Duration::from_secs(40);

const PAGE: &str = "127.0.0.1:9853";

/// The agent as a program in the guarded cgroup, for which `/etc/resolv.conf` names the tunnel's resolver.
fn program(bench: &Bench, directory: &TempDir) -> PathBuf {
    let path = directory.path().join("leakguard");
    let resolv = directory.path().join("resolv.conf");
    fs::write(
        &resolv,
        format!("nameserver {}\n", address::TUNNEL_RESOLVER_V4),
    )
    .unwrap();
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = run ] || exec {agent} \"$@\"\necho $$ >{}/cgroup.procs\nexec unshare --mount sh -ec 'mount --bind {} \"$(readlink -m \
         /etc/resolv.conf)\"; exec \"$@\"' sh {agent} \"$@\"\n",
        bench.cgroup.path().display(),
        resolv.display(),
        agent = agent_binary().display(),
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn page(host: &Netns) -> String {
    let get = || {
        let mut stream = TcpStream::connect(PAGE)?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        Ok::<_, std::io::Error>(page)
    };
    host.run_in(get).unwrap().unwrap()
}

/// The value of a series.
#[track_caller]
fn value(page: &str, series: &str) -> f64 {
    let line = page.lines().find(|line| line.starts_with(series));
    let line = line.unwrap_or_else(|| panic!("no {series} in {page}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Starts the agent with its own leak test, and waits for the end of the first run; hands out the page before and after.
fn first_run(bench: &mut Bench, directory: &TempDir, arguments: &[&str]) -> (String, String) {
    let config = UNSIGNED.replace("[verify]", "[verify]\ninterval = '1h'");
    let config = write_config(&config);
    let mut all = vec![
        "--config",
        config.path().to_str().unwrap(),
        "--metrics",
        PAGE,
    ];
    all.extend(arguments);
    let program = program(bench, directory);
    bench.protect_with(program, &all);
    let before = page(bench.topology.host());
    let mut after = String::new();
    wait_until("the first run has ended", LIMIT, || {
        after = page(bench.topology.host());
        let runs = ["pass", "fail", "error"].map(|result| {
            value(
                &after,
                &format!("leakguard_verify_runs_total{{result=\"{result}\"}}"),
            )
        });
        Ok(runs.iter().sum::<f64>() > 0.0)
    })
    .unwrap();
    (before, after)
}

fn escaped(page: &str) -> Vec<f64> {
    let series = |class: &Class| {
        format!(
            "leakguard_probe_escaped_total{{class=\"{}\"}}",
            class.name()
        )
    };
    Class::ALL
        .iter()
        .map(|class| value(page, &series(class)))
        .collect()
}

#[test]
fn the_agent_tests_a_sound_host_and_counts_nothing_but_answers() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Bench::with_tunnel();
    let (before, after) = first_run(&mut bench, &directory, &[]);
    for page in [&before, &after] {
        assert_eq!(escaped(page), vec![0.0; Class::ALL.len()]);
    }
    assert!(value(&before, "leakguard_resolver_latency_seconds_count") < 0.5);
    let answers = value(&after, "leakguard_resolver_latency_seconds_count");
    assert!((157.0..161.0).contains(&answers), "{after}");
    let passed = value(&after, "leakguard_verify_runs_total{result=\"pass\"}");
    assert!(
        (passed - 1.0).abs() < 0.1,
        "{after}\n{}",
        bench.agent().stderr()
    );
    // It ends as fast as without.
    assert!(bench.agent().terminate().unwrap().success());
}

#[test]
fn the_agent_counts_and_reports_what_leaks() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Bench::with_tunnel();
    let (before, after) = first_run(&mut bench, &directory, &["--mode", "observe"]);
    assert_eq!(escaped(&before), vec![0.0; Class::ALL.len()]);
    assert!(escaped(&after).iter().all(|&count| count > 0.0), "{after}");
    let events = bench.agent().events_json().unwrap();
    let told = |event: &&serde_json::Value| event["kind"] == "verify" && event["part"] == "leak";
    assert!(events.iter().any(|event| told(&event)), "{events:#?}");
}
