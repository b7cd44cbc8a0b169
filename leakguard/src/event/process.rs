//! What /proc and the user database add to a process number.

use std::fs;

use nix::unistd::{Uid, User};

use super::{Attribution, Process};

/// A process and where it runs.
#[derive(Debug, Default)]
pub(super) struct Sender {
    pub(super) process: Option<Process>,
    pub(super) cgroup: Option<String>,
    pub(super) unit: Option<String>,
}

/// Names the sender; what /proc says is used only while the number still belongs to a process with such a thread.
///
/// `comm` is the name of the thread that sent, which is not always the process's.
pub(super) fn sender(pid: Option<u32>, comm: Option<String>, uid: u32) -> Sender {
    let alive = pid.filter(|&pid| comm.as_deref().is_some_and(|comm| has_thread(pid, comm)));
    let cgroup = alive.and_then(cgroup);
    Sender {
        unit: cgroup.as_deref().and_then(unit).map(str::to_owned),
        cgroup,
        process: Some(Process {
            exe: alive.and_then(|pid| {
                Some(
                    fs::read_link(format!("/proc/{pid}/exe"))
                        .ok()?
                        .to_string_lossy()
                        .into_owned(),
                )
            }),
            pid,
            name: alive
                .and_then(|pid| read_comm(&format!("/proc/{pid}")))
                .or(comm),
            uid,
            user: User::from_uid(Uid::from_raw(uid))
                .ok()
                .flatten()
                .map(|user| user.name),
            cmdline: None,
            attribution: pid.map(|_| Attribution::Sender),
        }),
    }
}

fn has_thread(pid: u32, comm: &str) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    threads
        .filter_map(|thread| read_comm(thread.path().to_str()?))
        .any(|name| name == comm)
}

/// The name of a process or thread, by its directory in /proc.
fn read_comm(directory: &str) -> Option<String> {
    let comm = fs::read_to_string(format!("{directory}/comm")).ok()?;
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
        [".service", ".scope", ".socket", ".mount"]
            .iter()
            .any(|kind| part.ends_with(kind))
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
        assert_eq!(
            unit("/user.slice/session-1.scope/child"),
            Some("session-1.scope")
        );
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
        // The test runs in a thread with a name of its own.
        let thread = read_comm("/proc/thread-self");
        let found = sender(Some(own), thread, nix::unistd::geteuid().as_raw());
        let process = found.process.unwrap();
        assert!(process.exe.is_some());
        assert_eq!(process.name, read_comm("/proc/self"));
    }
}
