//! A device under test with a tunnel, an uplink and a container, who sends from it, and who watches outside.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper that fails has to fail its test"
)]
#![allow(dead_code, reason = "every test binary uses its own part of it")]

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use leakguard::lab::{
    Bpffs, Cgroup, Directions, Netns, Observer, Topology, address, output_within, wait_until,
};
use leakguard_tests::agent_binary;
use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// How long anything that should happen may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The tunnel: a TUN device that nobody reads, for what is tested here is what does not go there.
pub(crate) const TUNNEL: &str = "tun0";

const LOCAL: &[u8] = b"probe of a local socket";
const FORWARDED: &[u8] = b"probe of the container";
/// Pause between two packets of a [`Flood`]: well over 1 kHz.
const FLOOD_INTERVAL: Duration = Duration::from_micros(150);

/// What a command of leakguard left behind.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn of(command: Command) -> Self {
        let output = output_within(command, PATIENCE).unwrap();
        let run = Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        };
        for word in ["panicked", "backtrace", "src/"] {
            assert!(!run.stderr.contains(word), "{}", run.stderr);
        }
        run
    }

    /// Asserts success and returns what it printed.
    #[track_caller]
    pub(crate) fn ok(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout.trim_end()
    }

    /// Asserts a refusal: the exit code, one line `error: …` before its causes, and words of that line.
    #[track_caller]
    pub(crate) fn refused(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        let errors: Vec<&str> = self
            .stderr
            .lines()
            .filter(|line| line.starts_with("error: "))
            .collect();
        assert_eq!(errors.len(), 1, "{self:?}");
        for line in self
            .stderr
            .lines()
            .skip_while(|line| *line != errors[0])
            .skip(1)
        {
            assert!(line.starts_with("  caused by: "), "{self:?}");
        }
        for word in words {
            assert!(errors[0].contains(word), "{word:?}: {self:?}");
        }
    }

    /// Asserts that the command line itself was refused.
    #[track_caller]
    pub(crate) fn bad_usage(&self, word: &str) {
        assert_eq!(self.code, Some(2), "{self:?}");
        assert!(self.stderr.starts_with("error: "), "{self:?}");
        assert!(self.stderr.contains(word), "{self:?}");
    }
}

/// The device under test; dropping it lifts enforcement and takes everything down.
#[derive(Debug)]
pub(crate) struct Device {
    observer: Observer,
    local: UdpSocket,
    forwarded: UdpSocket,
    directory: TempDir,
    pub(crate) bpffs: Bpffs,
    pub(crate) cgroup: Cgroup,
    pub(crate) topology: Topology,
}

impl Device {
    pub(crate) fn new() -> Self {
        let topology = Topology::with_client().unwrap();
        topology
            .host()
            .ip_batch(&format!(
                "tuntap add {TUNNEL} mode tun\n\
                 link set {TUNNEL} up\n\
                 addr add 10.8.0.2/24 dev {TUNNEL}\n"
            ))
            .unwrap();
        let cgroup = Cgroup::new("device").unwrap();
        let local = socket_in(topology.host(), &cgroup);
        let forwarded = topology
            .client()
            .unwrap()
            .run_in(|| UdpSocket::bind("0.0.0.0:0").unwrap())
            .unwrap();
        Self {
            observer: Observer::new(topology.isp(), Topology::OBSERVED, Directions::Incoming)
                .unwrap(),
            local,
            forwarded,
            directory: tempfile::tempdir().unwrap(),
            bpffs: Bpffs::new().unwrap(),
            cgroup,
            topology,
        }
    }

    pub(crate) fn host(&self) -> &Netns {
        self.topology.host()
    }

    /// A directory for files of the test.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.directory().join("run/control.sock")
    }

    /// A command of leakguard on this device.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(agent_binary(), arguments)
    }

    /// The same with another program in leakguard's place.
    pub(crate) fn command_of(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
        let mut command = self.host().command(program);
        command.args(arguments);
        let named = |option: &str| arguments.contains(&option);
        let verb = arguments.first().copied().unwrap_or_default();
        if !matches!(verb, "events" | "confirm") && !named("--bpffs") {
            command.arg("--bpffs").arg(self.bpffs.path());
        }
        if matches!(verb, "run" | "apply") && !named("--cgroup") {
            command.arg("--cgroup").arg(self.cgroup.path());
        }
        let asks = arguments.get(1) != Some(&"list");
        if asks && !named("--control") {
            command.arg("--control").arg(self.control());
        }
        command
    }

    pub(crate) fn leakguard(&self, arguments: &[&str]) -> Run {
        Run::of(self.command(arguments))
    }

    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.leakguard(&["status", "--json"]).stdout).unwrap()
    }

    /// leakguard where every user may execute it.
    pub(crate) fn public_binary(&self) -> PathBuf {
        let directory = self.directory();
        fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
        let binary = directory.join("leakguard");
        let mut install = Command::new("install");
        install.args(["-m", "755"]).arg(agent_binary()).arg(&binary);
        Run::of(install).ok();
        binary
    }

    /// A shell script under this name.
    ///
    /// Written by a child, as the binary above: a descriptor of this process would be inherited by the children of
    /// other tests, and what is open for writing cannot be executed.
    pub(crate) fn script(&self, name: &str, text: &str) -> PathBuf {
        let script = self.directory().join(name);
        let mut write = Command::new("sh");
        write
            .args([
                "-ec",
                "printf '%s\\n' '#!/bin/sh' \"$1\" > \"$2\"; chmod 755 \"$2\"",
                "sh",
            ])
            .arg(text)
            .arg(&script);
        Run::of(write).ok();
        script
    }

    /// The agent's binary, in a mount namespace where nft cannot be run.
    pub(crate) fn without_nft(&self) -> PathBuf {
        self.with_nft(Path::new("/dev/null"))
    }

    /// The agent's binary, in a mount namespace where another program stands for nft.
    pub(crate) fn with_nft(&self, stand_in: &Path) -> PathBuf {
        let nft = leakguard::host::find_program("nft").unwrap();
        let script = format!(
            "exec unshare --mount sh -c 'mount --bind {} {} && exec {} \"$@\"' sh \"$@\"",
            stand_in.display(),
            nft.display(),
            agent_binary().display()
        );
        self.script("with-nft", &script)
    }

    /// Starts `leakguard run` for the tunnel and waits until it answers.
    pub(crate) fn agent(&self, arguments: &[&str]) -> RunningAgent {
        let arguments = [&["run", "--tunnel", TUNNEL], arguments].concat();
        let agent = RunningAgent::spawn(self.command(&arguments), self.directory());
        self.await_agent(agent)
    }

    /// Waits until the agent answers.
    pub(crate) fn await_agent(&self, mut agent: RunningAgent) -> RunningAgent {
        let pid = agent.pid();
        let waited = wait_until("the agent answers", PATIENCE, || {
            assert!(agent.ended().is_none(), "{}", agent.stderr());
            Ok(self.status()["agent"] == pid)
        });
        if let Err(error) = waited {
            panic!("{error}: {}", agent.stderr());
        }
        agent
    }

    /// Sends `count` DNS probes each from a local socket and from the container; says how many of each were seen
    /// outside.
    pub(crate) fn seen(&mut self, count: usize) -> (usize, usize) {
        for _ in 0..count {
            send(&self.local, LOCAL);
            send(&self.forwarded, FORWARDED);
        }
        self.seen_since()
    }

    /// How many probes were seen outside since the last look.
    pub(crate) fn seen_since(&mut self) -> (usize, usize) {
        // One fence behind each sender, for they come different ways.
        let client = self.topology.client().unwrap();
        let mut frames = self.observer.drain_past_fence(client).unwrap();
        frames.extend(
            self.observer
                .drain_past_fence(self.topology.host())
                .unwrap(),
        );
        assert_eq!(self.observer.lost().unwrap(), 0);
        let seen = |payload| {
            frames
                .iter()
                .filter(|frame| frame.ends_with(payload))
                .count()
        };
        (seen(LOCAL), seen(FORWARDED))
    }

    /// Sends DNS from both until stopped.
    pub(crate) fn flood(&self) -> [Flood; 2] {
        [
            Flood::start(self.local.try_clone().unwrap(), LOCAL),
            Flood::start(self.forwarded.try_clone().unwrap(), FORWARDED),
        ]
    }

    /// Asserts that nothing enforces and nothing is left.
    #[track_caller]
    pub(crate) fn assert_untouched(&mut self) {
        // The kernel puts files of its own into every bpffs.
        let pinned: Vec<_> = fs::read_dir(self.bpffs.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| Path::new(name).extension() != Some(OsStr::new("debug")))
            .collect();
        assert!(pinned.is_empty(), "{pinned:?}");
        self.assert_nothing_attached();
    }

    /// Asserts that nothing enforces, whatever is pinned.
    #[track_caller]
    pub(crate) fn assert_nothing_attached(&mut self) {
        assert_eq!(self.tool("nft", &["list", "ruleset"]), "");
        let qdiscs = self.tool("tc", &["qdisc", "show"]);
        assert!(!qdiscs.contains("clsact"), "{qdiscs}");
        assert_eq!(self.seen(10), (10, 10), "DNS must work as before");
    }

    fn tool(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = self.host().command(program);
        command.args(arguments);
        Run::of(command).ok().to_owned()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        drop(output_within(self.command(&["release"]), PATIENCE));
    }
}

fn send(socket: &UdpSocket, payload: &[u8]) -> bool {
    match socket.send_to(payload, (address::ISP_RESOLVER_V4, 53)) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => false,
        Err(error) => panic!("{error}"),
    }
}

/// DNS packets from one socket, more than 1000 a second, until it is stopped.
#[derive(Debug)]
pub(crate) struct Flood {
    counts: Arc<Counts>,
    started: Instant,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    stop: AtomicBool,
    sent: AtomicU64,
    refused: AtomicU64,
}

/// What a [`Flood`] did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flooded {
    pub(crate) sent: u64,
    /// Those of them that failed at once with EPERM.
    pub(crate) refused: u64,
    pub(crate) rate: u64,
}

impl Flood {
    fn start(socket: UdpSocket, payload: &'static [u8]) -> Self {
        let counts = Arc::new(Counts::default());
        let thread = thread::spawn({
            let counts = Arc::clone(&counts);
            move || {
                while !counts.stop.load(Ordering::Relaxed) {
                    if !send(&socket, payload) {
                        counts.refused.fetch_add(1, Ordering::Relaxed);
                    }
                    counts.sent.fetch_add(1, Ordering::Relaxed);
                    // The pace of the load, not a wait for anything.
                    thread::sleep(FLOOD_INTERVAL);
                }
            }
        });
        Self {
            counts,
            started: Instant::now(),
            thread,
        }
    }

    /// Waits until that many more were sent.
    pub(crate) fn go_on(&self, packets: u64) {
        let target = self.counts.sent.load(Ordering::Relaxed) + packets;
        wait_until("the flood goes on", PATIENCE, || {
            Ok(self.counts.sent.load(Ordering::Relaxed) >= target)
        })
        .unwrap();
    }

    pub(crate) fn stop(self) -> Flooded {
        self.counts.stop.store(true, Ordering::Relaxed);
        let elapsed = self.started.elapsed();
        self.thread.join().unwrap();
        let sent = self.counts.sent.load(Ordering::Relaxed);
        Flooded {
            sent,
            refused: self.counts.refused.load(Ordering::Relaxed),
            rate: sent * 1000 / u64::try_from(elapsed.as_millis()).unwrap().max(1),
        }
    }
}

/// A `leakguard run`; killed when dropped, which lifts nothing.
#[derive(Debug)]
pub(crate) struct RunningAgent {
    child: Child,
    stderr: PathBuf,
    status: Option<ExitStatus>,
}

impl RunningAgent {
    pub(crate) fn spawn(mut command: Command, directory: &Path) -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let stderr = directory.join(format!("agent-{serial}.stderr"));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&stderr).unwrap());
        // SAFETY: prctl is async-signal-safe, and the closure does not allocate.
        unsafe {
            // The test's thread outlives the guard, so the agent cannot outlive the test.
            command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?));
        }
        Self {
            child: command.spawn().unwrap(),
            stderr,
            status: None,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }

    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.status = self.status.or(self.child.try_wait().unwrap());
        self.status
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> ExitStatus {
        wait_until("the agent ends", PATIENCE, || Ok(self.ended().is_some())).unwrap();
        self.status.unwrap()
    }

    pub(crate) fn signal(&mut self, signal: Signal) -> ExitStatus {
        assert_eq!(self.ended(), None, "{}", self.stderr());
        kill(Pid::from_raw(self.pid().cast_signed()), signal).unwrap();
        self.end()
    }

    /// Kills it without a chance to react.
    pub(crate) fn kill9(&mut self) {
        assert_eq!(self.signal(Signal::SIGKILL).signal(), Some(9));
    }
}

impl Drop for RunningAgent {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.child.kill().unwrap();
            self.end();
        }
    }
}

/// A UDP socket that belongs to a namespace and a cgroup: the kernel notes both when a socket is made, so it is made
/// by a child that is in them, and taken from it.
fn socket_in(netns: &Netns, cgroup: &Cgroup) -> UdpSocket {
    /// A number that the child has no other use for.
    const NUMBER: libc::c_int = 100;
    /// Descriptors of other tests' children must not keep this child's standard input open.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut command = netns.command("cat");
    cgroup.attach(&mut command);
    // SAFETY: socket and dup2 are async-signal-safe, and the closure does not allocate.
    unsafe {
        command.pre_exec(|| {
            let made = Errno::result(libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0))?;
            Errno::result(libc::dup2(made, NUMBER))?;
            Ok(())
        });
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // SAFETY: these calls take integers only; the child has not been reaped, so its number is its own.
    let socket = unsafe {
        let pidfd = libc::syscall(libc::SYS_pidfd_open, child.id(), 0);
        let pidfd = OwnedFd::from_raw_fd(i32::try_from(Errno::result(pidfd).unwrap()).unwrap());
        let taken = libc::syscall(
            libc::SYS_pidfd_getfd,
            std::os::fd::AsRawFd::as_raw_fd(&pidfd),
            NUMBER,
            0,
        );
        OwnedFd::from_raw_fd(i32::try_from(Errno::result(taken).unwrap()).unwrap())
    };
    child.kill().unwrap();
    child.wait().unwrap();
    socket.into()
}
