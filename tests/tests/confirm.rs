//! Enforcement on trial goes by itself, stays if it is confirmed, and outlives whoever asked for it.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod device;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use device::{Device, PATIENCE, Run, TUNNEL};
use leakguard::kernel::pins::Pins;
use leakguard::kernel::read_back::ReadBack;
use leakguard::lab::{Topology, wait_until};
use leakguard_common::abi::Settings;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::Value;

const PROBES: usize = 50;

/// A trial that no test waits for.
const LONG: &str = "1h";

fn apply(device: &Device, more: &[&str]) -> Run {
    let arguments = [&["apply", "--tunnel", TUNNEL, "--preflight", "off"], more].concat();
    device.leakguard(&arguments)
}

fn confirm_socket(device: &Device) -> PathBuf {
    device.control().with_file_name("control-confirm.sock")
}

/// The process that waits.
fn waiter(device: &Device) -> Pid {
    let status = device.status();
    assert_eq!(status["confirmation"]["state"], "pending", "{status}");
    let pid = status["confirmation"]["pid"].as_i64().unwrap();
    Pid::from_raw(i32::try_from(pid).unwrap())
}

fn await_end(pid: Pid) {
    let process = PathBuf::from(format!("/proc/{pid}"));
    wait_until("the process that waits ends", PATIENCE, || {
        // Orphans are reaped by whoever adopts them.
        let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
        Ok(stat.is_empty() || stat.contains(") Z "))
    })
    .unwrap();
}

fn settings(device: &Device) -> Settings {
    let state = ReadBack::open(&Pins::at(device.bpffs.path())).unwrap();
    state.unwrap().settings
}

/// The second net, without its counts.
fn second_net(device: &Device) -> String {
    let mut nft = device.host().command("nft");
    nft.args(["-s", "list", "ruleset"]);
    Run::of(nft).ok().to_owned()
}

#[test]
fn without_a_confirmation_it_is_rolled_back_to_nothing() {
    let mut device = Device::new();
    assert_eq!(device.seen(PROBES), (PROBES, PROBES), "control");
    let started = Instant::now();
    let applied = apply(&device, &["--confirm", "3s"]);
    assert!(
        applied.ok().starts_with(
            "applied; it is rolled back in 3 s unless you run: leakguard confirm --control "
        ),
        "{applied:?}"
    );
    assert_eq!(device.seen(PROBES), (0, 0));
    let status = device.leakguard(&["status"]);
    assert!(
        status.ok().contains("confirm    pending: rolled back in "),
        "{status:?}"
    );
    assert!(started.elapsed() < Duration::from_secs(3), "a slow machine");
    let pid = waiter(&device);
    await_end(pid);
    assert!(started.elapsed() >= Duration::from_secs(3));
    device.assert_untouched();
    assert!(!confirm_socket(&device).exists());
    assert_eq!(device.status()["confirmation"], Value::Null);
    device
        .leakguard(&["confirm"])
        .refused(1, &["nothing waits for a confirmation"]);
}

#[test]
fn with_a_confirmation_it_stays() {
    let mut device = Device::new();
    assert_eq!(device.seen(PROBES), (PROBES, PROBES), "control");
    let started = Instant::now();
    apply(&device, &["--confirm", "2s"]).ok();
    let pid = waiter(&device);
    assert_eq!(
        device.leakguard(&["confirm"]).ok(),
        "confirmed; what is enforced stays"
    );
    await_end(pid);
    assert_eq!(device.status()["confirmation"], Value::Null);
    wait_until("the time is over", PATIENCE, || {
        Ok(started.elapsed() > Duration::from_secs(3))
    })
    .unwrap();
    assert_eq!(device.seen(PROBES), (0, 0));
    assert_eq!(device.status()["level"], "full");
    assert!(!confirm_socket(&device).exists());
    device
        .leakguard(&["confirm"])
        .refused(1, &["nothing waits for a confirmation"]);
    assert_eq!(apply(&device, &[]).ok(), "unchanged");
    assert_eq!(device.leakguard(&["release"]).ok(), "released");
    device.assert_untouched();
}

/// As systemd does, which starts the agent again, with what was confirmed or with what was there before.
#[test]
fn whoever_has_started_it_sees_how_it_has_ended() {
    // SAFETY: with this option, the call takes a number and no pointer. Orphans of other tests come here then, too: none
    // is waited for by any other name than its own.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) }, 0);
    let mut device = Device::new();
    for (time, answer, code) in [
        (LONG, Some("confirm"), 0),
        ("5s", None, 3),
        (LONG, Some("release"), 5),
    ] {
        apply(&device, &["--confirm", time]).ok();
        let pid = waiter(&device);
        if let Some(answer) = answer {
            device.leakguard(&[answer]).ok();
        }
        assert_eq!(waitpid(pid, None), Ok(WaitStatus::Exited(pid, code)));
    }
    device.assert_untouched();
}

#[test]
fn what_was_enforced_before_comes_back() {
    let mut device = Device::new();
    assert_eq!(device.seen(PROBES), (PROBES, PROBES), "control");
    let file = device.directory().join("ports.toml");
    fs::write(&file, "[dns]\nports = [5300]\n").unwrap();
    let before_arguments = ["--config", file.to_str().unwrap()];
    assert_eq!(apply(&device, &before_arguments).ok(), "applied");
    assert_eq!(device.seen(PROBES), (0, 0));
    let before = (settings(&device), second_net(&device), roles(&device));

    // Everything at once: mode, classes, ports, tunnels.
    let uplink = format!("veth:{}", Topology::UPLINK);
    let changed = apply(
        &device,
        &[
            "--mode",
            "observe",
            "--block",
            "dns",
            "--tunnel",
            &uplink,
            "--confirm",
            "3s",
        ],
    );
    assert!(changed.ok().starts_with("applied; "), "{changed:?}");
    assert_eq!(
        device.seen(PROBES),
        (PROBES, PROBES),
        "control: it has changed"
    );
    let during = (settings(&device), second_net(&device), roles(&device));
    assert_ne!(during.0, before.0);
    assert_ne!(during.1, before.1);
    assert_ne!(during.2, before.2);
    await_end(waiter(&device));
    assert_eq!(
        (settings(&device), second_net(&device), roles(&device)),
        before
    );
    assert_eq!(device.seen(PROBES), (0, 0));
    assert_eq!(device.status()["level"], "full");
    assert_eq!(
        apply(&device, &before_arguments).ok(),
        "unchanged",
        "as it was before"
    );
}

fn roles(device: &Device) -> Vec<(Value, Value, Value)> {
    let status = device.status();
    let interfaces = status["interfaces"].as_array().unwrap().iter();
    interfaces
        .map(|found| {
            (
                found["name"].clone(),
                found["role"].clone(),
                found["tc"].clone(),
            )
        })
        .collect()
}

#[test]
fn an_interface_that_took_over_a_number_meanwhile_is_not_permitted_again() {
    let mut device = Device::new();
    device
        .host()
        .ip_batch("link add tun7 index 77 type bridge\nlink set tun7 up\n")
        .unwrap();
    apply(&device, &["--tunnel", "bridge:tun7"]).ok();
    let role = |device: &Device, name: &str| {
        let found = roles(device).into_iter().find(|found| found.0 == name);
        found.unwrap().1
    };
    assert_eq!(role(&device, "tun7"), "tunnel", "control");
    apply(&device, &["--confirm", "3s"]).ok();
    device
        .host()
        .ip_batch("link del tun7\nlink add other7 index 77 type bridge\nlink set other7 up\n")
        .unwrap();
    await_end(waiter(&device));
    assert_eq!(role(&device, "other7"), "uplink");
    assert_eq!(role(&device, TUNNEL), "tunnel");
    assert_eq!(device.seen(PROBES), (0, 0));
}

#[test]
fn while_it_is_pending_nobody_else_changes_it() {
    let mut device = Device::new();
    apply(&device, &["--confirm", LONG]).ok();
    let pid = waiter(&device);
    let reason = ["waits for a confirmation", "leakguard confirm"];
    apply(&device, &[]).refused(1, &reason);
    apply(&device, &["--confirm", LONG]).refused(1, &reason);
    device
        .leakguard(&["run", "--tunnel", TUNNEL])
        .refused(1, &reason);
    device
        .leakguard(&["allow", "add", Topology::UPLINK])
        .refused(1, &reason);
    // Who names another socket still meets the lock.
    let elsewhere = device.directory().join("elsewhere.sock");
    apply(&device, &["--control", elsewhere.to_str().unwrap()])
        .refused(1, &["another leakguard works on"]);
    assert_eq!(waiter(&device), pid);
    assert_eq!(device.seen(PROBES), (0, 0));

    assert_eq!(device.leakguard(&["release"]).ok(), "released");
    await_end(pid);
    assert!(!confirm_socket(&device).exists());
    device.assert_untouched();
}

#[test]
fn with_an_agent_it_is_refused() {
    let mut device = Device::new();
    let agent = device.agent(&[]);
    apply(&device, &["--confirm", LONG]).refused(1, &["another leakguard works on"]);
    assert!(!confirm_socket(&device).exists());
    assert_eq!(device.status()["agent"], agent.pid());
    assert_eq!(device.seen(PROBES), (0, 0));
    device
        .leakguard(&["confirm"])
        .refused(1, &["nothing waits for a confirmation"]);
}

#[test]
fn if_the_process_that_waits_is_killed_it_stays_and_status_says_so() {
    let mut device = Device::new();
    assert_eq!(device.seen(PROBES), (PROBES, PROBES), "control");
    for then in ["confirm", "apply", "release"] {
        apply(&device, &["--confirm", "2s"]).ok();
        let pid = waiter(&device);
        kill(pid, Signal::SIGKILL).unwrap();
        await_end(pid);
        let status = device.leakguard(&["status"]);
        assert!(
            status
                .ok()
                .contains("confirm    the process that waited was killed: nothing will roll back"),
            "{status:?}"
        );
        assert_eq!(device.status()["confirmation"]["state"], "abandoned");
        assert_eq!(device.seen(PROBES), (0, 0));
        match then {
            "confirm" => {
                let kept = device.leakguard(&["confirm"]);
                assert!(kept.ok().starts_with("kept; "), "{kept:?}");
            }
            "apply" => assert_eq!(apply(&device, &[]).ok(), "unchanged"),
            _ => assert_eq!(device.leakguard(&["release"]).ok(), "released"),
        }
        assert_eq!(device.status()["confirmation"], Value::Null, "after {then}");
    }
    device.assert_untouched();
}

/// A new terminal: its controlling side and the one that programs see.
fn terminal() -> [OwnedFd; 2] {
    let (mut master, mut slave) = (-1, -1);
    // SAFETY: two integers are written; null pointers stand for the name and the defaults.
    let opened = unsafe {
        libc::openpty(
            &raw mut master,
            &raw mut slave,
            std::ptr::null_mut(),
            std::ptr::null(),
            std::ptr::null(),
        )
    };
    assert_eq!(opened, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the C library has just opened both, and nothing else owns them.
    let terminal = [master, slave].map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    for end in &terminal {
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
    }
    terminal
}

#[test]
fn it_outlives_the_terminal_and_holds_nothing_of_it() {
    let mut device = Device::new();
    let [master, slave] = terminal();
    let mut command = device.command(&[
        "apply",
        "--tunnel",
        TUNNEL,
        "--preflight",
        "off",
        "--confirm",
        "3s",
    ]);
    let end = |fd: &OwnedFd| Stdio::from(fd.try_clone().unwrap());
    command
        .stdin(end(&slave))
        .stdout(end(&slave))
        .stderr(end(&slave));
    // SAFETY: two system calls that take integers.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            nix::errno::Errno::result(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
            Ok(())
        });
    }
    let mut child = command.spawn().unwrap();
    drop(command);
    assert!(child.wait().unwrap().success());
    let pid = waiter(&device);
    let process = PathBuf::from(format!("/proc/{pid}"));
    assert_eq!(
        fs::read_link(process.join("cwd")).unwrap(),
        PathBuf::from("/")
    );
    for fd in fs::read_dir(process.join("fd")).unwrap() {
        let target = fs::read_link(fd.unwrap().path()).unwrap_or_default();
        assert!(!target.starts_with("/dev/pts"), "{target:?}");
    }
    let stat = fs::read_to_string(process.join("stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!(fields[3], pid.to_string(), "a session of its own: {stat}");
    assert_eq!(fields[4], "0", "no controlling terminal: {stat}");

    // The terminal hangs up; and whoever sends that signal by hand changes nothing either.
    drop((master, slave));
    kill(pid, Signal::SIGHUP).unwrap();
    assert_eq!(device.seen(PROBES), (0, 0));
    assert_eq!(waiter(&device), pid);
    await_end(pid);
    device.assert_untouched();
}

#[test]
fn whoever_reads_its_output_does_not_wait_for_the_trial() {
    // As `ssh host leakguard apply --confirm …`: the connection lasts until the output is closed.
    let device = Device::new();
    let started = Instant::now();
    apply(&device, &["--confirm", LONG]).ok();
    assert!(started.elapsed() < Duration::from_secs(20));
    device.leakguard(&["release"]).ok();
}

#[test]
fn only_the_owner_may_confirm() {
    let mut device = Device::new();
    apply(&device, &["--confirm", LONG]).ok();
    let socket = confirm_socket(&device);
    let metadata = fs::metadata(&socket).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert_eq!(metadata.uid(), 0);
    let binary = device.public_binary();
    let stranger = |device: &Device| {
        let command = device.command_of(&binary, &["confirm"]);
        let mut stranger = device.host().command("setpriv");
        stranger.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        stranger.arg(command.get_program()).args(command.get_args());
        Run::of(stranger)
    };
    stranger(&device).refused(4, &["run leakguard as root"]);
    // Also if it could reach the socket.
    fs::set_permissions(socket.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    stranger(&device).refused(4, &["run leakguard as root"]);
    assert_eq!(device.status()["confirmation"]["state"], "pending");

    // Who says nothing, or nonsense, does not keep others from confirming.
    let silent: Vec<UnixStream> = (0..3)
        .map(|_| UnixStream::connect(&socket).unwrap())
        .collect();
    let mut nonsense = UnixStream::connect(&socket).unwrap();
    nonsense.write_all(b"nonsense\n").unwrap();
    let mut answer = String::new();
    nonsense.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("not a question"), "{answer}");
    device.leakguard(&["confirm"]).ok();
    drop(silent);
    assert_eq!(device.seen(PROBES), (0, 0));
}

#[test]
fn a_trial_that_cannot_begin_leaves_things_as_they_were() {
    let mut device = Device::new();
    for time in ["0s", "25h", "soon"] {
        apply(&device, &["--confirm", time]).bad_usage("--confirm");
    }
    // A place where no socket can be: nothing is enforced.
    let blocked = device.directory().join("blocked");
    fs::write(&blocked, "").unwrap();
    let control = blocked.join("control.sock");
    let run = apply(
        &device,
        &["--confirm", LONG, "--control", control.to_str().unwrap()],
    );
    assert_eq!(run.code, Some(1), "{run:?}");
    let refused = device.leakguard(&[
        "apply",
        "--tunnel",
        TUNNEL,
        "--confirm",
        LONG,
        "--cgroup",
        "/proc",
    ]);
    refused.refused(4, &["cgroup2 at /proc"]);
    let refused = device.leakguard(&["apply", "--confirm", LONG]);
    refused.refused(2, &["no tunnel is named"]);
    device.assert_untouched();
    assert!(!confirm_socket(&device).exists());
}

#[test]
fn what_cannot_be_gone_back_to_is_not_put_on_trial() {
    let mut device = Device::new();
    let other = device.bpffs.path().join("leakguard/v0/links");
    fs::create_dir_all(&other).unwrap();
    let refused = apply(&device, &["--confirm", LONG]);
    refused.refused(
        1,
        &[
            "another version of leakguard has left it",
            "without --confirm",
        ],
    );
    assert!(other.exists());
    assert!(!confirm_socket(&device).exists());
    fs::remove_dir_all(device.bpffs.path().join("leakguard")).unwrap();
    device.assert_untouched();

    // Half a state of this version: a link is there, what it is told was never written.
    apply(&device, &[]).ok();
    let maps = Pins::at(device.bpffs.path()).root().join("maps");
    let links = Pins::at(device.bpffs.path()).root().join("links");
    for directory in [&maps, &links] {
        for pin in fs::read_dir(directory).unwrap() {
            let path = pin.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name != "PACKETS" {
                fs::remove_file(path).unwrap();
            }
        }
    }
    apply(&device, &["--confirm", LONG]).refused(1, &["it is incomplete"]);
    assert_eq!(device.leakguard(&["release"]).ok(), "released");
    device.assert_untouched();
}

/// A `leakguard` that is stopped by its caller's death has nothing to do with these tests; a shell that goes away does.
#[test]
fn it_outlives_the_shell_that_asked_for_it() {
    let mut device = Device::new();
    let command = device.command(&[
        "apply",
        "--tunnel",
        TUNNEL,
        "--preflight",
        "off",
        "--confirm",
        "3s",
    ]);
    let mut shell = device.host().command("sh");
    shell.args(["-c", "\"$@\" & wait; kill -9 $$", "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    let output = Command::output(&mut shell).unwrap();
    assert!(!output.status.success(), "{output:?}");
    assert_eq!(device.seen(PROBES), (0, 0));
    await_end(waiter(&device));
    device.assert_untouched();
}
