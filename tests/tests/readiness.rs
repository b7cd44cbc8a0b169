//! What systemd is told of the agent, what `status` says of a host where nothing is dropped, and what boot does with a
//! bad configuration.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod device;

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use device::{Device, PATIENCE, RunningAgent, TUNNEL};
use leakguard_tests::agent_binary;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The service manager's time-out; the agent has to answer in half of it.
const WATCHDOG: Duration = Duration::from_secs(1);

/// The service manager's end, for one agent.
struct Manager {
    socket: UnixDatagram,
    agent: RunningAgent,
}

impl Manager {
    fn start(device: &Device, program: &Path, arguments: &[&str]) -> Self {
        let path = device.directory().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let arguments = [&["run", "--tunnel", TUNNEL], arguments].concat();
        let mut command = device.command_of(program, &arguments);
        command
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
        Self {
            socket,
            agent: RunningAgent::spawn(command, device.directory()),
        }
    }

    /// What the agent says next; nothing, if it is silent for so long.
    fn hear(&self, limit: Duration) -> Option<String> {
        let mut buffer = [0; 4096];
        self.socket.set_read_timeout(Some(limit)).unwrap();
        let received = self.socket.recv(&mut buffer);
        if received
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
        {
            return None;
        }
        Some(String::from_utf8(buffer[..received.unwrap()].to_vec()).unwrap())
    }

    /// Everything up to and including the first message with a word in it.
    fn await_word(&self, word: &str) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut heard = Vec::new();
        while Instant::now() < deadline {
            if let Some(message) = self.hear(WATCHDOG) {
                let found = message.contains(word);
                heard.push(message);
                if found {
                    return heard;
                }
            }
        }
        unreachable!(
            "{word} was not heard, but {heard:?}; {}",
            self.agent.stderr()
        );
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.agent.pid().try_into().unwrap()), signal).unwrap();
    }
}

fn mentions(messages: &[String], word: &str) -> bool {
    messages.iter().any(|message| message.contains(word))
}

#[test]
fn systemd_is_told_that_the_agent_is_ready_alive_and_stopping() {
    let device = Device::new();
    let mut manager = Manager::start(&device, &agent_binary(), &[]);
    let ready = manager.await_word("READY=1").pop().unwrap();
    assert!(
        ready.contains("STATUS=level full, mode enforce\n"),
        "{ready}"
    );
    assert_eq!(device.status()["level"], "full");
    for _ in 0..3 {
        manager.await_word("WATCHDOG=1");
    }

    // An owner that hangs is silent, so that systemd restarts it.
    manager.signal(Signal::SIGSTOP);
    while manager.hear(2 * WATCHDOG).is_some() {}
    manager.signal(Signal::SIGCONT);
    manager.await_word("WATCHDOG=1");

    assert!(manager.agent.signal(Signal::SIGTERM).success());
    manager.await_word("STOPPING=1");
    assert_eq!(device.leakguard(&["release"]).ok(), "released");
}

#[test]
fn systemd_is_told_ready_below_the_wanted_level_only_after_half_a_minute() {
    let device = Device::new();
    let program = device.without_nft();
    let mut manager = Manager::start(&device, &program, &[]);
    let mut heard = manager.await_word("STATUS=level reduced, mode enforce: ");
    assert!(mentions(&heard, "second net"), "{heard:?}");
    for _ in 0..3 {
        heard.extend(manager.await_word("WATCHDOG=1"));
    }
    assert!(!mentions(&heard, "READY"), "{heard:?}");
    let stderr = manager.agent.stderr();
    assert!(
        stderr.contains("not reported as ready: the level is reduced, and --min-level wants full"),
        "{stderr}"
    );
    // systemd would end it when its time is over, and start it again, for ever.
    let began = Instant::now();
    while !mentions(&heard, "READY=1") {
        assert!(began.elapsed() < 2 * PATIENCE, "{heard:?}");
        heard.extend(manager.hear(WATCHDOG));
    }
    let ready = heard.pop().unwrap();
    assert!(ready.contains("STATUS=level reduced"), "{ready}");
    assert!(manager.agent.signal(Signal::SIGTERM).success());
    drop(manager);
    std::fs::remove_file(device.directory().join("notify")).unwrap();

    let manager = Manager::start(&device, &program, &["--min-level", "reduced"]);
    let ready = manager.await_word("READY=1").pop().unwrap();
    assert!(ready.contains("STATUS=level reduced"), "{ready}");
    drop(manager);
    assert_eq!(device.leakguard(&["release"]).ok(), "released");
}

#[test]
fn a_host_where_nothing_is_dropped_is_not_called_protected() {
    let device = Device::new();
    let mut manager = Manager::start(&device, &agent_binary(), &["--mode", "observe"]);
    // It does what it was asked for.
    let ready = manager.await_word("READY=1").pop().unwrap();
    let why = "nothing is dropped: the mode is observe";
    assert!(ready.contains(why), "{ready}");
    let status = device.leakguard(&["status"]);
    assert_eq!(status.code, Some(3), "{status:?}");
    assert!(status.stdout.contains(why), "{status:?}");
    assert!(status.stdout.contains("level      full"), "{status:?}");
    let reduced = device.leakguard(&["status", "--min-level", "reduced"]);
    assert_eq!(reduced.code, Some(3), "{reduced:?}");
    device.leakguard(&["status", "--min-level", "none"]).ok();
    assert!(manager.agent.signal(Signal::SIGTERM).success());

    // The same parts, and now they drop.
    let agent = device.agent(&[]);
    device.leakguard(&["status"]).ok();
    drop(agent);
    assert_eq!(device.leakguard(&["release"]).ok(), "released");
}

#[test]
fn a_bad_configuration_at_boot_blocks_everything_and_says_so() {
    const PROBES: usize = 20;

    let mut device = Device::new();
    assert_eq!(device.seen(PROBES), (PROBES, PROBES), "control");
    let file = device.directory().join("leakguard.toml");
    let apply = |device: &Device| {
        device.leakguard(&["apply", "--config", file.to_str().unwrap(), "--fail-closed"])
    };
    // A word that is none, and no tunnel at all.
    for (text, cause) in [
        ("mod = 'enforce'", "unknown field"),
        ("", "no tunnel is named"),
    ] {
        std::fs::write(&file, text).unwrap();
        let refused = apply(&device);
        refused.refused(2, &["DNS is blocked on every interface"]);
        assert!(refused.stderr.contains(cause), "{refused:?}");
        assert_eq!(device.seen(PROBES), (0, 0), "{text:?}");
        device.leakguard(&["status"]).ok();
        assert_eq!(device.leakguard(&["release"]).ok(), "released");
        assert_eq!(device.seen(PROBES), (PROBES, PROBES), "control");
    }
    std::fs::write(&file, format!("interfaces.tunnel = ['{TUNNEL}']")).unwrap();
    assert_eq!(apply(&device).ok(), "applied");
    assert_eq!(device.leakguard(&["release"]).ok(), "released");
}
