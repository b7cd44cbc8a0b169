//! A real Prometheus with the configuration and the rules of `deploy/`, which reads a real agent and a real dnsdist.

use std::fs;
use std::net::Ipv4Addr;

use leakguard::lab::{Daemon, Query, WHO_NAME, output_within, wait_until};
use leakguard_tests::{Bench, Place, isp, write_config};
use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};

use super::{LIMIT, read};

const PROMETHEUS: &str = "127.0.0.1:9099";
/// As `prometheus.yml` has it.
const AGENT: &str = "127.0.0.1:9853";
/// Where dnsdist takes questions.
const CLUSTER: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 5300);

/// A device under test that is looked at.
pub(super) struct Watch {
    prometheus: Daemon,
    dnsdist: Daemon,
    bench: Bench,
    _config: NamedTempFile,
    _directory: TempDir,
}

impl Watch {
    /// Starts everything, with a tunnel that is up.
    pub(super) fn start() -> Self {
        let mut bench = Bench::with_tunnel();
        let config = write_config(&format!("[metrics]\nlisten = {AGENT:?}\n"));
        bench.protect(&["--config", config.path().to_str().unwrap()]);
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
        let start = |command, name| {
            fs::create_dir(path(name)).unwrap();
            Daemon::start(command, &path(name)).unwrap()
        };
        let prometheus = start(command, "prometheus");

        fs::write(path("dnsdist.conf"), DNSDIST).unwrap();
        let mut command = bench.topology.host().command("dnsdist");
        command
            .args(["--supervised", "--disable-syslog", "-C"])
            .arg(path("dnsdist.conf"));
        let dnsdist = start(command, "dnsdist");
        Self {
            prometheus,
            dnsdist,
            bench,
            _config: config,
            _directory: directory,
        }
    }

    /// Asks Prometheus over its API; what it answers, with an error or without.
    pub(super) fn ask(&mut self, path: &str, query: Option<&str>) -> Value {
        self.prometheus.check_running().unwrap();
        self.dnsdist.check_running().unwrap();
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

    /// Waits until dnsdist answers: it has no answer times before.
    pub(super) fn await_cluster(&self) {
        let (address, port) = CLUSTER;
        let question = Query::new(address, WHO_NAME, "TXT").port(port);
        wait_until("dnsdist answers", LIMIT, || {
            let lookup = question.run(self.bench.topology.host(), None)?;
            Ok(lookup.is("vpn"))
        })
        .unwrap();
    }

    /// Sends a question off the tunnel, which is dropped.
    pub(super) fn leak(&self) {
        let target = isp(0, 53);
        let socket = self.bench.origin(Place::Host).udp(target.ip());
        assert!(socket.send_to(b"question", target).is_err());
    }
}

/// Its only node is the tunnel's resolver.
const DNSDIST: &str = r#"
setLocal("127.0.0.1:5300")
newServer({ address = "10.8.0.1:53", name = "eu-west/a" })
webserver("127.0.0.1:8083")
setWebserverConfig({ acl = "127.0.0.0/8", statsRequireAuthentication = false })
setSecurityPollSuffix("")
"#;
