//! Child processes that cannot outlive the lab.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

use super::LabError;

/// How long a configuration command such as `ip` or `wg` may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);
/// The longest pause between two looks at a condition that the kernel cannot announce.
const POLL_INTERVAL_MAX: Duration = Duration::from_millis(20);

/// Says how many times longer than usual everything may take; emulated machines are slow.
const PATIENCE: &str = "LEAKGUARD_LAB_PATIENCE";

type Job = (Command, Sender<io::Result<Child>>);

/// The thread that forks every child.
///
/// The parent-death signal is sent when the *thread* that forked ends, not its process. A fixture
/// that several tests share would lose its daemons with the test that happened to build it.
static SPAWNER: LazyLock<io::Result<Sender<Job>>> = LazyLock::new(|| {
    let (jobs, queue) = mpsc::channel::<Job>();
    thread::Builder::new()
        .name("lab-spawner".to_owned())
        .spawn(move || {
            for (mut command, reply) in queue {
                if let Err(mpsc::SendError(Ok(mut orphan))) = reply.send(command.spawn()) {
                    // The requester is gone; nobody else could reap it.
                    if orphan.kill().is_ok() {
                        drop(orphan.wait());
                    }
                }
            }
        })?;
    Ok(jobs)
});

/// Starts `command` in a process group of its own, to be killed by the kernel when this process
/// dies.
///
/// Its own group keeps Ctrl-C from the children: the guards end them in the right order.
pub(super) fn spawn(mut command: Command) -> Result<Child, LabError> {
    let program = program_name(&command);
    let parent = Pid::this();
    command.process_group(0);
    // SAFETY: prctl and getppid are async-signal-safe, and the closure does not allocate.
    unsafe {
        command.pre_exec(move || {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The parent may have died before the line above took effect.
            if getppid() == parent {
                Ok(())
            } else {
                Err(Errno::ESRCH.into())
            }
        });
    }
    let jobs = SPAWNER
        .as_ref()
        .map_err(|error| LabError::Thread(error.kind().into()))?;
    let (reply, result) = mpsc::channel();
    let ended = || LabError::Thread(io::ErrorKind::BrokenPipe.into());
    jobs.send((command, reply)).ok().ok_or_else(ended)?;
    result
        .recv()
        .ok()
        .ok_or_else(ended)?
        .map_err(|source| LabError::Spawn { program, source })
}

/// Runs `command` to its end, and kills it after `limit`.
///
/// A failing exit status is not an error here; a command that had to be killed is.
pub fn output_within(mut command: Command, limit: Duration) -> Result<Output, LabError> {
    command.stdin(Stdio::null());
    collect(command, None, limit)
}

/// Runs a command that has to succeed.
pub(super) fn run(mut command: Command) -> Result<String, LabError> {
    command.stdin(Stdio::null());
    succeed(command, None)
}

/// Runs a command that has to succeed, with `input` on its standard input.
pub(super) fn run_with_input(mut command: Command, input: &str) -> Result<String, LabError> {
    command.stdin(Stdio::piped());
    succeed(command, Some(input))
}

fn succeed(command: Command, input: Option<&str>) -> Result<String, LabError> {
    let line = command_line(&command);
    let output = collect(command, input, COMMAND_LIMIT)?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(LabError::Command {
            command: line,
            status: output.status,
            output: output_text(&output),
        })
    }
}

fn collect(mut command: Command, input: Option<&str>, limit: Duration) -> Result<Output, LabError> {
    let line = command_line(&command);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(command)?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        // A program that does not read its input says why on stderr and in its status.
        if let Err(error) = stdin.write_all(input.as_bytes()) {
            log::debug!("{line}: standard input: {error}");
        }
    }
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        let stdout = scope.spawn(|| drain(stdout));
        let stderr = scope.spawn(|| drain(stderr));
        let status = wait_for_exit(&mut child, limit)?;
        let timed_out = status.is_none();
        let status = match status {
            Some(status) => status,
            None => kill(&mut child)?,
        };
        let output = Output {
            status,
            stdout: stdout.join().unwrap_or_default(),
            stderr: stderr.join().unwrap_or_default(),
        };
        if timed_out {
            let what = format!("{line} ends (so far: {})", output_text(&output));
            return Err(LabError::Timeout { what, limit });
        }
        Ok(output)
    })
}

fn drain(pipe: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe
        && let Err(error) = pipe.read_to_end(&mut bytes)
    {
        log::debug!("reading a child's output: {error}");
    }
    bytes
}

/// What a program wrote, errors first, on one line.
fn output_text(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = stderr.lines().chain(stdout.lines()).collect();
    lines.join("; ")
}

fn program_name(command: &Command) -> String {
    Path::new(command.get_program())
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The command as a user would type it.
pub(super) fn command_line(command: &Command) -> String {
    let arguments = command.get_args().map(OsStr::to_string_lossy);
    let words: Vec<_> = std::iter::once(program_name(command).into())
        .chain(arguments)
        .collect();
    words.join(" ")
}

/// A limit as it is on this machine.
pub(super) fn patient(limit: Duration) -> Duration {
    static FACTOR: LazyLock<u32> = LazyLock::new(|| {
        let named = std::env::var(PATIENCE).ok();
        named.and_then(|factor| factor.parse().ok()).unwrap_or(1)
    });
    limit.saturating_mul(*FACTOR)
}

/// Waits for the end of a child; `None` if it is still running after `limit`.
fn wait_for_exit(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>, LabError> {
    let deadline = Instant::now() + patient(limit);
    let pidfd = pidfd_open(child)?;
    loop {
        let status = child.try_wait().map_err(LabError::io("wait for a child"))?;
        let left = deadline.saturating_duration_since(Instant::now());
        if status.is_some() || left.is_zero() {
            return Ok(status);
        }
        let mut readable = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut readable, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(source) => return Err(LabError::syscall("poll", "pidfd")(source)),
        }
    }
}

fn pidfd_open(child: &Child) -> Result<OwnedFd, LabError> {
    // SAFETY: pidfd_open takes two integers; the child has not been reaped, so its number is still
    // its own.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
    let fd = Errno::result(result).map_err(LabError::syscall("pidfd_open", "child"))?;
    let fd = i32::try_from(fd).map_err(|error| LabError::Io {
        action: "open a pidfd".to_owned(),
        source: io::Error::other(error),
    })?;
    // SAFETY: the kernel has just returned this descriptor and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn kill(child: &mut Child) -> Result<ExitStatus, LabError> {
    child
        .kill()
        .and_then(|()| child.wait())
        .map_err(LabError::io("kill a child"))
}

/// Awaits a condition that can only be looked at.
///
/// `what` completes the sentence "… : not within 5s".
pub fn wait_until(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<bool, LabError>,
) -> Result<(), LabError> {
    let limit = patient(limit);
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    while !condition()? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let what = what.to_owned();
            return Err(LabError::Timeout { what, limit });
        }
        thread::sleep(pause.min(left));
        pause = (pause * 2).min(POLL_INTERVAL_MAX);
    }
    Ok(())
}

/// A long-running child whose output goes to files; killed and reaped when dropped.
#[derive(Debug)]
pub struct Daemon {
    program: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Daemon {
    /// Starts `command` with its output in `directory`.
    pub fn start(mut command: Command, directory: &Path) -> Result<Self, LabError> {
        let program = program_name(&command);
        let open = |stream: &str| {
            let path = directory.join(format!("{program}.{stream}"));
            fs::File::create(&path)
                .map(|file| (file, path.clone()))
                .map_err(LabError::io(format!("create {}", path.display())))
        };
        let (stdout_file, stdout) = open("stdout")?;
        let (stderr_file, stderr) = open("stderr")?;
        command
            .stdin(Stdio::null())
            .stdout(stdout_file)
            .stderr(stderr_file);
        let child = spawn(command)?;
        Ok(Self {
            program,
            child,
            stdout,
            stderr,
        })
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        read_lossy(&self.stdout)
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        read_lossy(&self.stderr)
    }

    /// How the process ended, if it has.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>, LabError> {
        self.child
            .try_wait()
            .map_err(LabError::io(format!("wait for {}", self.program)))
    }

    /// An error if the process has ended, with what it wrote.
    pub fn check_running(&mut self) -> Result<(), LabError> {
        match self.exit_status()? {
            None => Ok(()),
            Some(status) => Err(LabError::Ended {
                program: self.program.clone(),
                status,
                output: [self.stderr(), self.stdout()].concat().trim().to_owned(),
            }),
        }
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus, LabError> {
        if let Some(status) = self.exit_status()? {
            return Ok(status);
        }
        let pid = Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, Signal::SIGTERM)
            .map_err(LabError::syscall("kill", self.program.clone()))?;
        wait_for_exit(&mut self.child, limit)?.ok_or_else(|| LabError::Timeout {
            what: format!("{} ends after SIGTERM", self.program),
            limit,
        })
    }

    /// Sends SIGKILL and reaps.
    pub fn kill(&mut self) -> Result<ExitStatus, LabError> {
        kill(&mut self.child)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            log::warn!("{}: {error}", self.program);
        }
    }
}

fn read_lossy(path: &Path) -> String {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}
