//! A real Prometheus with the configuration and the rules of `deploy/`, which reads a real agent and a real
//! resolver cluster.

use std::fs;

use leakguard::lab::{Daemon, output_within, wait_until};
use leakguard_tests::{Bench, Cluster, Place, SignedZones, isp};
use serde_json::Value;
use tempfile::TempDir;

use super::{LIMIT, read};

const PROMETHEUS: &str = "127.0.0.1:9099";
/// Where `prometheus.yml` has the agent.
pub(super) const AGENT: &str = "127.0.0.1:9853";

/// A device under test that is looked at.
pub(super) struct Watch<'lab> {
    prometheus: Daemon,
    exporter: Daemon,
    cluster: Cluster<'lab>,
    bench: &'lab Bench,
    _directory: TempDir,
}

impl<'lab> Watch<'lab> {
    /// Starts everything, beside an agent that shows its metrics at [`AGENT`].
    pub(super) fn start(bench: &'lab Bench) -> Self {
        let cluster = Cluster::new(bench.topology.vpn(), 2, 0);
        let exporter = cluster.export(bench.topology.host());
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);

        let text = read("deploy/prometheus/prometheus.yml");
        let often = text.replace("interval: 15s", "interval: 500ms");
        assert_ne!(text, often);
        fs::write(path("prometheus.yml"), often).unwrap();
        let rules = read("deploy/prometheus/leakguard.rules.yml");
        fs::write(path("leakguard.rules.yml"), rules).unwrap();
        let mut command = bench.topology.host().command("prometheus");
        command
            .arg(format!(
                "--config.file={}",
                path("prometheus.yml").display()
            ))
            .arg(format!("--storage.tsdb.path={}", path("tsdb").display()))
            .arg(format!("--web.listen-address={PROMETHEUS}"));
        let own = path("prometheus");
        fs::create_dir(&own).unwrap();
        Self {
            prometheus: Daemon::start(command, &own).unwrap(),
            exporter,
            cluster,
            bench,
            _directory: directory,
        }
    }

    /// Asks Prometheus over its API; what it answers, with an error or without.
    pub(super) fn ask(&mut self, path: &str, query: Option<&str>) -> Value {
        self.prometheus.check_running().unwrap();
        self.exporter.check_running().unwrap();
        self.cluster.check_dnsdist();
        let mut command = self.bench.topology.host().command("curl");
        command.args(["--silent", "--max-time", "20", "--get"]);
        if let Some(query) = query {
            command
                .arg("--data-urlencode")
                .arg(format!("query={query}"));
        }
        command.arg(format!("http://{PROMETHEUS}/api/v1/{path}"));
        let output = output_within(command, LIMIT).unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// How many series an expression has now; the error if it is none.
    pub(super) fn series(&mut self, expression: &str) -> Result<usize, String> {
        let answer = self.ask("query", Some(expression));
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"]["result"].as_array().map_or(0, Vec::len)),
            _ => Err(answer["error"].as_str().unwrap_or("no answer").to_owned()),
        }
    }

    /// Waits until an expression has series.
    pub(super) fn await_series(&mut self, expression: &str) {
        let mut last = Ok(0);
        let waited = wait_until(expression, LIMIT, || {
            last = self.series(expression);
            Ok(last.as_ref().is_ok_and(|series| *series > 0))
        });
        assert!(waited.is_ok(), "{expression}: {last:?}");
    }

    /// Asks the cluster for a name.
    pub(super) fn resolve(&self) {
        let host = self.bench.topology.host();
        let answer = self.cluster.ask(host, None, SignedZones::SIGNED, 5);
        assert_eq!(answer.status().as_deref(), Some("NOERROR"), "{answer:?}");
    }

    /// Sends a question off the tunnel, which is dropped.
    pub(super) fn leak(&self) {
        let target = isp(0, 53);
        let socket = self.bench.origin(Place::Host).udp(target.ip());
        assert!(socket.send_to(b"question", target).is_err());
    }
}
