use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::{Duration, Instant};

use super::netns::NetnsHandle;
use super::process::{Daemon, command_line};
use super::scratch::Scratch;
use super::{Bpffs, Cgroup, LabError, Netns, output_within, wait_until};

/// The control socket's name in the agent's directory.
const CONTROL: &str = "control.sock";
/// How long a command of the agent's binary may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);
/// How long the agent may take to enforce.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long the agent may take to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Where and how an agent runs.
#[derive(Debug)]
pub struct AgentConfig<'a> {
    /// The `leakguard` binary.
    pub binary: PathBuf,
    /// The namespace to manage.
    pub netns: &'a Netns,
    /// The cgroup whose sockets are judged.
    pub cgroup: &'a Cgroup,
    /// Where the state is pinned.
    pub bpffs: &'a Bpffs,
    /// The interfaces or patterns that may carry DNS.
    pub tunnels: Vec<String>,
    /// More arguments of `leakguard run`.
    pub arguments: Vec<OsString>,
}

/// A running `leakguard run`; dropping it lifts enforcement, ends it and reaps it.
///
/// Its commands work as long as the pinned state exists, also after [`kill9`](Self::kill9).
#[derive(Debug)]
pub struct Agent {
    daemon: Daemon,
    binary: PathBuf,
    /// Those of `leakguard run`.
    arguments: Vec<OsString>,
    netns: NetnsHandle,
    bpffs: PathBuf,
    directory: Scratch,
}

impl Agent {
    /// Starts the agent and waits until it enforces.
    pub fn start(config: &AgentConfig<'_>) -> Result<Self, LabError> {
        let mut agent = Self::spawn(config)?;
        agent.await_enforcing(START_LIMIT)?;
        Ok(agent)
    }

    /// Starts the agent without waiting for anything.
    pub fn spawn(config: &AgentConfig<'_>) -> Result<Self, LabError> {
        let AgentConfig {
            binary,
            netns,
            cgroup,
            bpffs,
            tunnels,
            arguments,
        } = config;
        let directory = Scratch::new("agent")?;
        let mut options: Vec<OsString> = vec!["run".into()];
        for tunnel in tunnels {
            options.extend(["--tunnel".into(), tunnel.into()]);
        }
        options.extend(["--control".into(), directory.path().join(CONTROL).into()]);
        options.extend(["--cgroup".into(), cgroup.path().into()]);
        options.extend(["--bpffs".into(), bpffs.path().into()]);
        options.extend(arguments.iter().cloned());
        let netns = netns.handle().clone();
        let daemon = launch(&netns, binary, &options, &directory)?;
        Ok(Self {
            daemon,
            binary: binary.clone(),
            arguments: options,
            netns,
            bpffs: bpffs.path().to_owned(),
            directory,
        })
    }

    /// Starts the agent again as it was started before, in place of one that has ended, and waits until it answers.
    ///
    /// What the one before it has written is gone.
    pub fn restart(&mut self) -> Result<(), LabError> {
        self.daemon = launch(&self.netns, &self.binary, &self.arguments, &self.directory)?;
        wait_until("the agent answers", START_LIMIT, || {
            self.daemon.check_running()?;
            Ok(self.status_json()?["agent"] == self.pid())
        })
    }

    /// Waits until `leakguard status` says that every part is in place.
    pub fn await_enforcing(&mut self, limit: Duration) -> Result<(), LabError> {
        let started = Instant::now();
        let waited = wait_until("leakguard enforces", limit, || self.is_enforcing());
        let Err(LabError::Timeout { what, limit }) = waited else {
            return waited;
        };
        let status = self.output(&["status", "--json"])?;
        Err(LabError::Timeout {
            what: format!(
                "{what} (waited {:?}; status: {}{}; stderr: {})",
                started.elapsed(),
                String::from_utf8_lossy(&status.stdout).trim(),
                String::from_utf8_lossy(&status.stderr).trim(),
                self.stderr().trim(),
            ),
            limit,
        })
    }

    /// Whether `leakguard status` says so now; an error if the agent has ended.
    ///
    /// The level is what counts, not the exit status: in observe mode that says that nothing is dropped.
    pub fn is_enforcing(&mut self) -> Result<bool, LabError> {
        self.daemon.check_running()?;
        let output = self.output(&["status", "--json"])?;
        let status = serde_json::from_slice(&output.stdout);
        Ok(status.is_ok_and(|status: serde_json::Value| status["level"] == "full"))
    }

    /// The agent's process number.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// A command of the agent's binary, in its namespace and about its state.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.netns.command(&self.binary);
        command.args(arguments).arg("--control").arg(self.control());
        if arguments.first() != Some(&"events") {
            command.arg("--bpffs").arg(&self.bpffs);
        }
        command
    }

    /// Runs such a command to its end, whatever its exit status.
    pub fn output(&self, arguments: &[&str]) -> Result<Output, LabError> {
        output_within(self.command(arguments), COMMAND_LIMIT)
    }

    /// What `leakguard status --json` says; its exit status is not judged.
    pub fn status_json(&self) -> Result<serde_json::Value, LabError> {
        let mut values = self.json_lines("status")?;
        match values.pop() {
            Some(value) if values.is_empty() => Ok(value),
            _ => Err(LabError::Io {
                action: "read the status: it is not one JSON value".to_owned(),
                source: std::io::ErrorKind::InvalidData.into(),
            }),
        }
    }

    /// What `leakguard events --json` says, oldest first.
    pub fn events_json(&self) -> Result<Vec<serde_json::Value>, LabError> {
        self.json_lines("events")
    }

    /// Lifts enforcement with `leakguard release`.
    pub fn release(&self) -> Result<(), LabError> {
        let line = command_line(&self.command(&["release"]));
        let output = self.output(&["release"])?;
        if output.status.success() {
            return Ok(());
        }
        Err(LabError::Command {
            command: line,
            status: output.status,
            output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    /// Ends the agent with SIGKILL: it cannot react. An error if it had ended before.
    pub fn kill9(&mut self) -> Result<ExitStatus, LabError> {
        self.daemon.check_running()?;
        self.daemon.kill()
    }

    /// Ends the agent with SIGTERM and waits for it.
    pub fn terminate(&mut self) -> Result<ExitStatus, LabError> {
        self.daemon.terminate(STOP_LIMIT)
    }

    /// How the agent ended, if it has.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>, LabError> {
        self.daemon.exit_status()
    }

    /// What the agent has written to standard output so far.
    pub fn stdout(&self) -> String {
        self.daemon.stdout()
    }

    /// What the agent has written to standard error so far.
    pub fn stderr(&self) -> String {
        self.daemon.stderr()
    }

    /// The path of the control socket.
    pub fn control(&self) -> PathBuf {
        self.directory.path().join(CONTROL)
    }

    fn json_lines(&self, subcommand: &str) -> Result<Vec<serde_json::Value>, LabError> {
        let output = self.output(&[subcommand, "--json"])?;
        serde_json::Deserializer::from_slice(&output.stdout)
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(|source| LabError::Json {
                command: format!("leakguard {subcommand} --json"),
                output: String::from_utf8_lossy(&output.stdout).into_owned(),
                source,
            })
    }
}

fn launch(
    netns: &NetnsHandle,
    binary: &Path,
    arguments: &[OsString],
    directory: &Scratch,
) -> Result<Daemon, LabError> {
    let mut run = netns.command(binary);
    run.args(arguments);
    Daemon::start(run, directory.path())
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Without effect if a test has done it already; the pins also go with the bpffs.
        if let Err(error) = self.release() {
            log::debug!("{error}");
        }
    }
}
