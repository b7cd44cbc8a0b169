//! The live view in a real terminal: tmux shows what a person would see.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod device;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use device::{Device, Run};
use leakguard::lab::{Query, address, wait_until};
use leakguard_tests::agent_binary;

const PATIENCE: Duration = Duration::from_secs(30);

/// A terminal of its own, with a shell that says when the view has ended; ends with the test.
struct Screen {
    socket: PathBuf,
}

impl Screen {
    /// Starts `leakguard top` in a terminal of 80 columns and 24 rows.
    fn start(device: &Device, arguments: &[&str]) -> Self {
        Self::start_of(device, &agent_binary(), arguments)
    }

    /// The same with another build of it.
    fn start_of(device: &Device, program: &Path, arguments: &[&str]) -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let screen = Self {
            socket: device.directory().join(format!("tmux-{serial}")),
        };
        let mut command = device.command_of(program, &[&["top"], arguments].concat());
        // As `command` runs it, in words for a shell.
        let words: Vec<String> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| format!("'{}'", word.to_str().unwrap()))
            .collect();
        command = screen.tmux_in(device);
        command.args([
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            "80",
            "-y",
            "24",
        ]);
        command.arg(format!(
            "sh -c 'echo before; RUST_BACKTRACE=0 {}; echo \"ended: $?\"; stty -a | tr \" \" \"\\n\" | grep -x -e icanon -e echo; exec cat'",
            words.join(" ").replace('\'', "")
        ));
        Run::of(command).ok();
        screen
    }

    fn tmux(&self) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(&self.socket);
        command
    }

    /// In the namespace of the device, as what runs in the terminal has to be.
    fn tmux_in(&self, device: &Device) -> Command {
        let mut command = device.host().command("tmux");
        command.arg("-S").arg(&self.socket);
        command
    }

    fn keys(&self, keys: &str) {
        let mut command = self.tmux();
        command.args(["send-keys", keys]);
        Run::of(command).ok();
    }

    fn resize(&self, width: &str, height: &str) {
        let mut command = self.tmux();
        command.args(["resize-window", "-x", width, "-y", height]);
        Run::of(command).ok();
    }

    fn text(&self) -> String {
        let mut command = self.tmux();
        command.args(["capture-pane", "-p"]);
        Run::of(command).ok().to_owned()
    }

    #[track_caller]
    fn await_words(&self, words: &[&str]) -> String {
        let waited = wait_until("the words are on the screen", PATIENCE, || {
            let text = self.text();
            Ok(words.iter().all(|word| text.contains(word)))
        });
        let text = self.text();
        assert!(waited.is_ok(), "{words:?}:\n{text}");
        text
    }

    /// The view has ended, and the terminal is as it was before.
    #[track_caller]
    fn await_end(&self, status: &str) {
        let text = self.await_words(&["before", status, "icanon", "echo"]);
        assert!(!text.contains("Classes"), "{text}");
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut command = self.tmux();
        command.arg("kill-server");
        drop(command.output());
    }
}

#[test]
fn it_shows_who_sends_what_and_gives_the_terminal_back() {
    let mut device = Device::new();
    let mut agent = device.agent(&[]);
    let screen = Screen::start(&device, &["--interval", "250ms"]);
    screen.await_words(&[
        "level full",
        "Classes",
        "Interfaces",
        "eth0",
        "uplink",
        "none yet",
    ]);

    assert_eq!(device.seen(5), (0, 0));
    for number in 0..3 {
        let name = format!("tracker{number}.example.com");
        Query::new(address::ISP_RESOLVER_V4, &name, "A")
            .timeout(Duration::from_secs(1))
            .run(device.host(), Some(&device.cgroup))
            .unwrap();
    }
    let text = screen.await_words(&["tracker2.example.com", "dig[", "dropped 1"]);
    println!("{text}");
    assert!(text.contains(&format!("agent {}", agent.pid())), "{text}");

    // What comes while the picture is stopped is shown when it goes on.
    screen.keys("p");
    screen.await_words(&["PAUSED"]);
    Query::new(address::ISP_RESOLVER_V4, "later.example.com", "A")
        .timeout(Duration::from_secs(1))
        .run(device.host(), Some(&device.cgroup))
        .unwrap();
    assert!(!screen.text().contains("later.example.com"));
    screen.keys("p");
    screen.await_words(&["later.example.com"]);

    // It fits into any window.
    screen.resize("120", "40");
    screen.await_words(&["class      │", "later.example.com"]);
    screen.resize("40", "10");
    screen.await_words(&["stopped/s", "quit"]);
    screen.resize("80", "24");
    screen.await_words(&["Interfaces"]);

    // With the agent goes what it tells, and nothing else.
    agent.kill9();
    let text = screen.await_words(&["no agent", "level full", "dropped 1"]);
    println!("{text}");
    screen.keys("q");
    screen.await_end("ended: 0");
}

#[test]
fn without_an_agent_it_shows_what_the_kernel_knows() {
    let mut device = Device::new();
    device
        .leakguard(&["apply", "--tunnel", device::TUNNEL])
        .ok();
    assert_eq!(device.seen(5), (0, 0));
    for (key, signal) in [("Escape", None), ("C-c", None), ("", Some("TERM"))] {
        let screen = Screen::start(&device, &[]);
        let text = screen.await_words(&[
            "no agent",
            "read-only",
            "level full",
            "dropped 5",
            "+5 by nftables",
        ]);
        assert!(text.contains("q  quit"), "{text}");
        match signal {
            None => screen.keys(key),
            Some(signal) => {
                let mut found = screen.tmux();
                found.args(["display-message", "-p", "#{pane_pid}"]);
                let shell = Run::of(found).ok().to_owned();
                let mut kill = Command::new("pkill");
                // Only the child of this terminal's shell.
                kill.args(["-P", &shell, &format!("-{signal}")]);
                Run::of(kill).ok();
            }
        }
        screen.await_end("ended: 0");
    }
}

/// crossterm reads without end from a terminal that is gone: two views were left so, each on a processor of its own.
#[test]
fn a_view_whose_terminal_is_gone_ends() {
    let device = Device::new();
    device
        .leakguard(&["apply", "--tunnel", device::TUNNEL])
        .ok();
    let screen = Screen::start(&device, &[]);
    screen.await_words(&["no agent", "level full"]);
    let asked = |what: &str| {
        let mut command = screen.tmux();
        command.args(["display-message", "-p", what]);
        Run::of(command).ok().to_owned()
    };
    let (terminal, shell) = (asked("#{pid}"), asked("#{pane_pid}"));
    let mut children = Command::new("pgrep");
    children.args(["-P", &shell]);
    let view = Run::of(children).ok().to_owned();
    let process = PathBuf::from(format!("/proc/{view}"));
    assert!(process.exists(), "control: {view}");
    let mut kill = Command::new("kill");
    kill.args(["-KILL", &terminal]);
    Run::of(kill).ok();
    wait_until("the view ends", PATIENCE, || Ok(!process.exists())).unwrap();
}

#[test]
fn a_panic_gives_the_terminal_back_before_it_is_reported() {
    let device = Device::new();
    device
        .leakguard(&["apply", "--tunnel", device::TUNNEL])
        .ok();
    // The panic can be had of debug builds only.
    let program = Path::new(env!("CARGO_BIN_EXE_leakguard-debug"));
    let screen = Screen::start_of(&device, program, &[]);
    screen.await_words(&["level full", "Classes"]);
    screen.keys("F12");
    screen.await_words(&["panicked at"]);
    screen.await_end("ended: 101");
}

#[test]
fn what_cannot_be_shown_is_refused_in_one_line() {
    let device = Device::new();
    device.leakguard(&["top"]).refused(
        2,
        &["needs a terminal", "leakguard status", "leakguard events"],
    );
    for interval in ["0s", "2h", "soon"] {
        device
            .leakguard(&["top", "--interval", interval])
            .bad_usage("--interval");
    }
}
