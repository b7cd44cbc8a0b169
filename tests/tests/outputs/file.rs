//! The file of events: rotation, a full disk, a directory that goes.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use leakguard::lab::{AgentConfig, wait_until};
use leakguard_tests::{Bench, agent_binary};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;

use super::{Desk, LIMIT, json_lines};

#[test]
fn a_rotated_file_loses_no_event() {
    let mut desk = Desk::new();
    let (path, rotated) = (desk.path("events.ndjson"), desk.path("events.1"));
    desk.start(&format!("file = {path:?}"), "");
    desk.leak(300);
    wait_until("it is written to", LIMIT, || {
        Ok(fs::metadata(&path).is_ok_and(|found| found.len() > 0))
    })
    .unwrap();
    fs::rename(&path, &rotated).unwrap();
    desk.hang_up();
    desk.leak(300);
    wait_until("the file is there again", LIMIT, || Ok(path.exists())).unwrap();
    desk.leak(300);
    let counted = desk.settle("file", 900);
    assert_eq!((counted.lagged, counted.failed), (0, 0));
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    let (before, after) = (json_lines(&rotated), json_lines(&path));
    assert!(
        !before.is_empty() && after.len() >= 300,
        "{} {}",
        before.len(),
        after.len()
    );
    let written: Vec<u64> = before
        .iter()
        .chain(&after)
        .map(|event| event["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(written.len() as u64, counted.delivered);
    let numbers: BTreeSet<u64> = written.iter().copied().collect();
    let all: BTreeSet<u64> = (1..=*numbers.last().unwrap()).collect();
    assert_eq!(numbers, all, "every number once");
    assert!(written.is_sorted());
    println!(
        "{} lines before the rotation, {} after it, none missing",
        before.len(),
        after.len()
    );
}

/// A small file system in memory.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(path: &Path) -> Self {
        fs::create_dir(path).unwrap();
        let disk = Self(path.to_owned());
        disk.mount("64k", MsFlags::empty());
        disk
    }

    fn mount(&self, size: &str, flags: MsFlags) {
        let options = format!("size={size},mode=0700");
        mount(
            Some("tmpfs"),
            &self.0,
            Some("tmpfs"),
            flags,
            Some(options.as_str()),
        )
        .unwrap();
    }

    fn enlarge(&self) {
        self.mount("64m", MsFlags::MS_REMOUNT);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn a_full_disk_is_counted_exactly_and_gets_no_half_line() {
    let mut desk = Desk::new();
    let disk = SmallDisk::new(&desk.path("disk"));
    let path = desk.path("disk/events.ndjson");
    desk.start(&format!("file = {path:?}"), "");
    desk.leak(400);
    desk.await_log("events are not written to file");
    json_lines(&path);
    // More than what is kept for when it works again; slowly enough for standard output.
    for _ in 0..12 {
        desk.leak(500);
        let seen = desk.counted("stdout").total();
        assert!(seen > 0, "the agent goes on");
    }
    assert!(desk.bench.agent().is_enforcing().unwrap());
    disk.enlarge();
    desk.await_log("events are written again");
    let counted = desk.settle("file", 6400);
    let lines = json_lines(&path);
    assert_eq!(lines.len() as u64, counted.delivered, "{counted:?}");
    assert!(counted.failed > 0, "control: some were lost: {counted:?}");
    assert_eq!(counted.lagged, 0);
    let notice = lines
        .iter()
        .find(|line| {
            line["kind"] == "output" && line["message"].as_str().unwrap().contains("again")
        })
        .expect("the file says itself how many it misses");
    assert_eq!(
        notice["message"],
        format!("events are written again; {} were lost", counted.failed)
    );
    let log = desk.bench.agent().stderr();
    assert_eq!(log.matches("events are not written").count(), 1, "{log}");
    // What is missing in the numbers is what was counted.
    let numbers: BTreeSet<u64> = lines
        .iter()
        .map(|line| line["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(
        numbers.last().unwrap() - numbers.len() as u64,
        counted.failed
    );
    println!("full disk: {counted:?}");
}

#[test]
fn a_directory_that_is_removed_is_made_again() {
    let mut desk = Desk::new();
    let path = desk.path("logs/events.ndjson");
    desk.start(&format!("file = {path:?}"), "");
    desk.leak(10);
    let first = desk.settle("file", 10);
    assert_eq!(json_lines(&path).len() as u64, first.delivered);
    fs::remove_dir_all(desk.path("logs")).unwrap();
    desk.leak(10);
    let counted = desk.settle("file", 20);
    assert_eq!(
        json_lines(&path).len() as u64,
        counted.delivered - first.delivered
    );
    assert_eq!((counted.lagged, counted.failed), (0, 0));
}

#[test]
fn a_standard_output_that_nobody_reads_holds_up_nothing() {
    let mut desk = Desk::new();
    let (pipe, path, script) = (
        desk.path("pipe"),
        desk.path("events.ndjson"),
        desk.path("leakguard-into-pipe"),
    );
    nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    // Open, so that there is a reader; it never reads.
    let _reader = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&pipe)
        .unwrap();
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = run ] && exec '{agent}' \"$@\" >'{}'\nexec '{agent}' \"$@\"\n",
        pipe.display(),
        agent = agent_binary().display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o700)).unwrap();
    let config = desk.configure(&format!("file = {path:?}"), "");
    desk.bench.protect_with(script, &["--config", &config]);
    // More than the pipe and the queue before it hold; slowly enough for the file.
    for round in 1..=12 {
        desk.leak(500);
        wait_until("the file has them", LIMIT, || {
            Ok(desk.counted("file").delivered >= round * 500)
        })
        .unwrap();
    }
    let stdout = desk.counted("stdout");
    assert!(stdout.lagged > 0, "control: it is full: {stdout:?}");
    let file = desk.counted("file");
    assert_eq!((file.lagged, file.failed), (0, 0));
    assert!(desk.bench.agent().terminate().unwrap().success());
    assert_eq!(json_lines(&path).len() as u64, file.delivered);
}

#[test]
fn a_file_that_somebody_else_could_have_chosen_is_refused_before_anything_is_enforced() {
    let mut desk = Desk::new();
    let (link, target) = (desk.path("link"), desk.path("target"));
    fs::write(&target, "").unwrap();
    symlink(&target, &link).unwrap();
    let config = AgentConfig {
        binary: agent_binary(),
        netns: desk.bench.topology.host(),
        cgroup: &desk.bench.cgroup,
        bpffs: &desk.bench.bpffs,
        tunnels: vec![Bench::TUNNEL.to_owned()],
        arguments: vec!["--events".into(), link.into()],
    };
    let mut agent = leakguard::lab::Agent::spawn(&config).unwrap();
    wait_until("it ends", LIMIT, || Ok(agent.exit_status()?.is_some())).unwrap();
    assert_eq!(agent.exit_status().unwrap().unwrap().code(), Some(2));
    assert!(
        agent.stderr().contains("is a symbolic link; name the file"),
        "{}",
        agent.stderr()
    );
    assert_eq!(agent.status_json().unwrap()["level"], "none");
    // Control: the file itself is taken.
    desk.bench.protect(&["--events", target.to_str().unwrap()]);
}
