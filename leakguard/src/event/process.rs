//! What /proc and the user database add to a process number.

use std::fs;

use nix::unistd::{Uid, User};

use super::Process;

/// A process and where it runs.
#[derive(Debug, Default)]
pub(super) struct Sender {
    pub(super) process: Option<Process>,
    pub(super) cgroup: Option<String>,
    pub(super) unit: Option<String>,
}

/// Names the sender; what /proc says is used only while the number still belongs to the same command.
pub(super) fn sender(pid: Option<u32>, comm: Option<String>, uid: u32) -> Sender {
    let alive = pid.filter(|&pid| comm.is_some() && read_comm(pid) == comm);
    let cgroup = alive.and_then(cgroup);
    Sender {
        unit: cgroup.as_deref().and_then(unit).map(str::to_owned),
        cgroup,
        process: Some(Process {
            exe: alive.and_then(|pid| {
                Some(fs::read_link(format!("/proc/{pid}/exe")).ok()?.to_string_lossy().into_owned())
            }),
            pid,
            name: comm,
            uid,
            user: User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name),
        }),
    }
}

fn read_comm(pid: u32) -> Option<String> {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(comm.trim_end().to_owned())
}

/// The process's cgroup2 path.
fn cgroup(pid: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    cgroup2(&text).map(str::to_owned)
}

fn cgroup2(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// The innermost systemd unit in a cgroup's path.
fn unit(cgroup: &str) -> Option<&str> {
    cgroup.rsplit('/').find(|part| {
        [".service", ".scope", ".socket", ".mount"].iter().any(|kind| part.ends_with(kind))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_hierarchies_have_a_cgroup2_line() {
        let text = "9:name=systemd:/x\n1:cpu:/\n0::/system.slice/app.service\n";
        assert_eq!(cgroup2(text), Some("/system.slice/app.service"));
        assert_eq!(cgroup2("1:cpu:/\n"), None);
    }

    #[test]
    fn the_innermost_unit_is_named() {
        assert_eq!(unit("/system.slice/app.service"), Some("app.service"));
        assert_eq!(unit("/user.slice/session-1.scope/child"), Some("session-1.scope"));
        assert_eq!(unit("/"), None);
    }

    #[test]
    fn a_number_that_another_command_has_now_adds_nothing() {
        let own = std::process::id();
        let found = sender(Some(own), Some("surely-not-me".into()), 0);
        let process = found.process.unwrap();
        assert_eq!(process.pid, Some(own));
        assert_eq!(process.exe, None);
        assert_eq!(found.cgroup, None);
    }

    #[test]
    fn a_live_process_is_named() {
        let own = std::process::id();
        let found = sender(Some(own), read_comm(own), nix::unistd::geteuid().as_raw());
        let process = found.process.unwrap();
        assert!(process.exe.is_some());
    }
}
