//! Where events go: files, the audit log, the journal, OpenTelemetry, Prometheus; each with a real reader, and what is not
//! written is counted.

#![expect(
    clippy::unwrap_used,
    reason = "a step that fails is a test that fails, and what was counted is for people to read"
)]

mod audit;
mod file;
mod journald;
mod metrics;
mod otlp;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use leakguard::lab::{output_within, wait_until};
use leakguard_tests::{Bench, Place, agent_binary, isp};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// How long anything that has to happen may take.
const LIMIT: Duration = Duration::from_secs(30);

/// A device under test whose agent has a configuration file of its own.
struct Desk {
    bench: Bench,
    directory: TempDir,
}

impl Desk {
    /// Starts nothing yet.
    fn new() -> Self {
        Self {
            bench: Bench::new(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// A path for a file of this test.
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes the configuration; without a limit of events, because they are counted.
    fn configure(&self, events: &str, metrics: &str) -> String {
        let path = self.path("leakguard.toml");
        let text = format!("[events]\nrate_per_key = 0\n{events}\n[metrics]\n{metrics}\n");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Starts the agent with these lines of `[events]` and `[metrics]`.
    fn start(&mut self, events: &str, metrics: &str) {
        let config = self.configure(events, metrics);
        self.bench.protect(&["--config", &config]);
    }

    /// Sends that many questions off the tunnel, each of which is an event.
    fn leak(&self, questions: usize) {
        let target = isp(0, 53);
        let socket = self.bench.origin(Place::Host).udp(target.ip());
        for _ in 0..questions {
            // Refused, by EPERM; that is the point.
            assert!(socket.send_to(b"question", target).is_err());
        }
    }

    /// What an output has counted.
    fn counted(&mut self, output: &str) -> Counted {
        let status = self.bench.agent().status_json().unwrap();
        let report = &status["health"]["outputs"][output];
        let number = |name: &str| report[name].as_u64();
        Counted {
            delivered: number("delivered").unwrap(),
            lagged: number("lagged").unwrap(),
            failed: number("failed").unwrap(),
        }
    }

    /// Waits until every event that there is has been counted by an output: standard output has seen them all.
    fn settle(&mut self, output: &str, at_least: u64) -> Counted {
        let mut found = None;
        let waited = wait_until("every event is counted", LIMIT, || {
            let all = self.counted("stdout");
            let counted = self.counted(output);
            found = Some((all, counted));
            Ok(all.total() >= at_least && all.total() == counted.total())
        });
        assert!(waited.is_ok(), "{found:?}: {}", self.bench.agent().stderr());
        found.unwrap().1
    }

    /// Waits for a line of the agent's log.
    fn await_log(&mut self, text: &str) {
        let agent = self.bench.agent();
        let waited = wait_until(text, LIMIT, || {
            assert_eq!(agent.exit_status()?, None, "{}", agent.stderr());
            Ok(agent.stderr().contains(text))
        });
        assert!(waited.is_ok(), "{waited:?}: {}", agent.stderr());
    }

    fn hang_up(&mut self) {
        let pid = self.bench.agent().pid().cast_signed();
        kill(Pid::from_raw(pid), Signal::SIGHUP).unwrap();
    }
}

/// The counters of one output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counted {
    delivered: u64,
    lagged: u64,
    failed: u64,
}

impl Counted {
    fn total(self) -> u64 {
        self.delivered + self.lagged + self.failed
    }
}

/// Each line of a file, which has to be a JSON object.
fn json_lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(
        text.is_empty() || text.ends_with('\n'),
        "a half line in {}",
        path.display()
    );
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Runs the binary without an agent.
fn leakguard(arguments: &[&str]) -> Output {
    let mut command = Command::new(agent_binary());
    command.args(arguments);
    output_within(command, LIMIT).unwrap()
}
