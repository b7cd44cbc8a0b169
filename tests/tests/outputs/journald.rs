//! The journal: a real systemd-journald in a mount namespace of its own, read with journalctl.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use leakguard::lab::{Daemon, output_within, wait_until};
use leakguard_tests::agent_binary;
use serde_json::Value;

use super::{Desk, LIMIT};

/// journald keeps to `/run`: here that is another one, which only it and the agent see.
const JOURNALD: &str = "set -e
mount --make-rprivate /
mkdir -p /run/systemd /run/log
mount -t tmpfs tmpfs /run/systemd
mount -t tmpfs tmpfs /run/log
mkdir -p /run/systemd/journal /run/log/journal
exec sleep infinity";

/// A mount namespace in which a journal can be started and stopped.
struct Room {
    holder: Daemon,
    directory: PathBuf,
}

impl Room {
    fn new(desk: &Desk) -> Self {
        let directory = desk.path("room");
        fs::create_dir(&directory).unwrap();
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "sh", "-c", JOURNALD]);
        let mut room = Self {
            holder: Daemon::start(unshare, &directory).unwrap(),
            directory,
        };
        wait_until("the room is there", LIMIT, || {
            room.holder.check_running()?;
            let output = output_within(room.command(&["test", "-d", "/run/log/journal"]), LIMIT)?;
            let held = fs::read_to_string(format!("/proc/{}/comm", room.holder.pid()));
            Ok(output.status.success() && held.is_ok_and(|name| name.trim() == "sleep"))
        })
        .unwrap();
        room
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut nsenter = Command::new("nsenter");
        nsenter.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.pid()));
        nsenter.args(arguments);
        nsenter
    }

    fn journald(&self) -> Daemon {
        Daemon::start(
            self.command(&["/lib/systemd/systemd-journald"]),
            &self.directory,
        )
        .unwrap()
    }

    /// A program that is leakguard in this room.
    fn agent(&self, desk: &Desk) -> PathBuf {
        let path = desk.path("leakguard-in-room");
        let script = format!(
            "#!/bin/sh\nexec nsenter --mount=/proc/{}/ns/mnt '{}' \"$@\"\n",
            self.holder.pid(),
            agent_binary().display()
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        path
    }

    /// The entries with a field.
    fn entries(&self, field: &str) -> Vec<Value> {
        let journalctl = self.command(&["journalctl", "--no-pager", "--output=json", field]);
        let output = output_within(journalctl, LIMIT).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

#[test]
fn the_journal_has_a_field_for_each_part_of_an_event() {
    let mut desk = Desk::new();
    let room = Room::new(&desk);
    let config = desk.configure("journald = true", "");
    let agent = room.agent(&desk);
    desk.bench.protect_with(agent, &["--config", &config]);
    desk.leak(3);
    // Nobody is there yet: said once, and kept.
    desk.await_log("events are not written to journald");
    let journald = room.journald();
    desk.await_log("events are written again; 0 were lost");
    desk.leak(17);
    let counted = desk.settle("journald", 20);
    assert_eq!((counted.lagged, counted.failed), (0, 0), "{counted:?}");
    wait_until("the journal shows them", LIMIT, || {
        Ok(room.entries("LEAKGUARD_KIND=packet").len() == 20)
    })
    .unwrap();
    let entries = room.entries("MESSAGE_ID=ad7615f62e444880b7a501b68aabc222");
    assert_eq!(entries.len(), 20);
    for (number, entry) in entries.iter().enumerate() {
        for (field, value) in [
            ("PRIORITY", "4"),
            ("SYSLOG_IDENTIFIER", "leakguard"),
            ("LEAKGUARD_VERDICT", "drop"),
            ("LEAKGUARD_REASON", "dns"),
            ("LEAKGUARD_INTERFACE", "eth0"),
            ("LEAKGUARD_PROTOCOL", "udp"),
            ("LEAKGUARD_UID", "0"),
            ("LEAKGUARD_SUPPRESSED", "0"),
        ] {
            assert_eq!(entry[field], value, "{number}: {field}: {entry}");
        }
        let destination = entry["LEAKGUARD_DESTINATION"].as_str().unwrap();
        assert!(destination.ends_with(":53"), "{entry}");
        let message = entry["MESSAGE"].as_str().unwrap();
        assert!(message.starts_with("drop dns eth0 udp "), "{message}");
    }
    let log = desk.bench.agent().stderr();
    assert_eq!(log.matches("events are not written").count(), 1, "{log}");
    assert!(!room.entries("LEAKGUARD_KIND=output").is_empty());
    drop(journald);
}
