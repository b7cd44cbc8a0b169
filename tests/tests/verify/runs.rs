//! Runs of `leakguard verify`, and what the ISP saw meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use leakguard::lab::{Frame, address, output_within};
use leakguard_tests::{Bench, Place, agent_binary, with_resolver, write_config};
use serde_json::Value;

/// How long a run may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);

/// A run and its result.
#[derive(Debug)]
pub(crate) struct Run {
    /// How it ended.
    pub(crate) code: i32,
    /// What it said.
    pub(crate) report: Value,
    /// What all of its labels begin with.
    labels: String,
    /// What the ISP saw of it: labels, and of connections the ports.
    pub(crate) seen: BTreeSet<String>,
}

/// A configuration for a resolver without signed zones.
pub(crate) const UNSIGNED: &str = "[interfaces]\ntunnel = ['wg0']\n[verify]\nsigned_name = ''\nbogus_name = ''\nlatency_max = '900ms'\n";

/// Runs it on the device under test, where `/etc/resolv.conf` names the tunnel's resolver.
pub(crate) fn verify(bench: &mut Bench, config: &str, arguments: &[&str]) -> Run {
    let resolver = address::TUNNEL_RESOLVER_V4.to_string();
    verify_where(bench, &resolver, &[], config, arguments)
}

/// Runs it where `/etc/resolv.conf` names another resolver, by another program such as `env`.
pub(crate) fn verify_where(
    bench: &mut Bench,
    resolver: &str,
    by: &[&str],
    config: &str,
    arguments: &[&str],
) -> Run {
    bench.frames(Place::Host);
    let file = write_config(config);
    let binary = agent_binary();
    let bpffs = bench.bpffs.path().to_str().unwrap().to_owned();
    let mut program = by.to_vec();
    program.extend([
        binary.to_str().unwrap(),
        "verify",
        "--json",
        "--bpffs",
        &bpffs,
        "--config",
        file.path().to_str().unwrap(),
    ]);
    program.extend(arguments);
    let command = with_resolver(
        bench,
        bench.topology.host(),
        resolver,
        Duration::from_secs(1),
        &program,
    );
    let output = output_within(command, LIMIT).unwrap();
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let run = report["run"].as_str().unwrap().to_owned();
    let mut run = Run {
        code: output.status.code().unwrap(),
        report,
        labels: run,
        seen: BTreeSet::new(),
    };
    run.note(&bench.frames(Place::Host));
    run
}

/// What identifies a packet of a run: its label, or of a connection's first packet its ports.
fn mark(frame: &[u8], run: &str) -> Option<String> {
    let length = run.len() + 5;
    let label = frame
        .windows(length)
        .find(|window| window.starts_with(run.as_bytes()));
    if let Some(label) = label {
        let label = str::from_utf8(label).unwrap().to_owned();
        // The harmless ones go to port 9.
        return (!Frame::parse(frame)?.has_port(9)).then_some(label);
    }
    let parsed = Frame::parse(frame)?;
    let ports = [53, 853, 5355, 443];
    let canary = parsed.is_tcp() && ports.contains(&parsed.destination.port());
    canary.then(|| format!("{} > {}", parsed.source.port(), parsed.destination))
}

impl Run {
    /// Adds what was seen outside.
    pub(crate) fn note(&mut self, frames: &[Vec<u8>]) {
        let marks = frames.iter().filter_map(|frame| mark(frame, &self.labels));
        self.seen.extend(marks);
    }

    /// The checks that failed: name, interface and result.
    pub(crate) fn failures(&self) -> BTreeSet<(String, String, String)> {
        let checks = self.report["checks"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        checks
            .filter(|check| check["result"] == "fail" || check["result"] == "inconclusive")
            .map(|check| {
                (
                    text(&check["name"]),
                    text(&check["interface"]),
                    text(&check["result"]),
                )
            })
            .collect()
    }

    /// The result and the reason of a check.
    #[track_caller]
    pub(crate) fn check(&self, name: &str) -> (&str, &str) {
        let mut checks = self.report["checks"].as_array().unwrap().iter();
        let check = checks
            .find(|check| check["name"] == name)
            .unwrap_or_else(|| panic!("no check {name}: {:#}", self.report));
        (
            check["result"].as_str().unwrap(),
            check["reason"].as_str().unwrap(),
        )
    }

    /// What leaked, each with these properties.
    pub(crate) fn leaked(&self, properties: [&str; 3]) -> BTreeSet<[String; 3]> {
        let leaks = self.report["leaks"].as_array().unwrap().iter();
        leaks
            .map(|leak| properties.map(|property| leak[property].as_str().unwrap().to_owned()))
            .collect()
    }

    /// What it says has left, in the form that the ISP's capture is read in.
    pub(crate) fn counted(&self) -> BTreeSet<String> {
        let leaks = self.report["leaks"].as_array().unwrap().iter();
        leaks
            .map(|leak| {
                let bare = leak["transport"] == "tcp"
                    && (leak["way"] == "tcp" || leak["way"] == "bound-device");
                if bare {
                    let destination = leak["destination"].as_str().unwrap();
                    format!("{} > {destination}", leak["source_port"])
                } else {
                    leak["label"].as_str().unwrap().to_owned()
                }
            })
            .collect()
    }

    /// Asserts that the ISP saw what the run counted, and nothing else.
    #[track_caller]
    pub(crate) fn assert_agreement(&self) {
        assert_eq!(self.counted(), self.seen, "counted, and seen by the ISP");
    }
}
