//! What /proc and the user database say of a process, while it is certain that it is the one.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::unistd::{SysconfVar, Uid, User, sysconf};

use crate::host::{cgroup2_path, from_own_cgroup};

/// How many processes, and how many users, are remembered.
const REMEMBERED: usize = 4096;

/// How long the user database is not asked again.
const USERS_HOLD: Duration = Duration::from_mins(1);

/// How long what was read of a living process holds: it may move to another cgroup, or be replaced by a program of the
/// same name.
const FACTS_HOLD: Duration = Duration::from_secs(1);

/// The most bytes of a command line.
const MAX_CMDLINE: usize = 4096;

/// What is known of a running process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) name: String,
    pub(super) exe: Option<String>,
    pub(super) cmdline: Option<Vec<String>>,
    pub(super) cgroup: Option<String>,
}

#[derive(Debug)]
struct Remembered {
    facts: Arc<Facts>,
    /// In the kernel's ticks since boot.
    started: u64,
    /// The same, on the boot clock.
    born: Duration,
    /// When it was read, on the boot clock.
    read: Duration,
    /// When it was seen to live, on the boot clock.
    seen: Duration,
}

/// The processes that have sent, and users.
#[derive(Debug, Default)]
pub(super) struct Processes {
    known: HashMap<u32, Remembered>,
    users: HashMap<u32, (Instant, Option<String>)>,
}

impl Processes {
    /// What is known of the process that had a number, and this name, at a moment on the boot clock.
    ///
    /// `None` where it may be another: the number was given away again, or the program was replaced (`execve(2)`). What was
    /// read before it ended still holds. Nothing is read anew for a moment at which it is known to have lived.
    pub(super) fn at(
        &mut self,
        pid: u32,
        comm: Option<&str>,
        moment: Duration,
    ) -> Option<&Arc<Facts>> {
        let is_known = |known: &Remembered| (known.born..=known.seen).contains(&moment);
        if !self.known.get(&pid).is_some_and(is_known) {
            self.look(pid, moment)?;
        }
        let known = self.known.get(&pid)?;
        let is_it = known.born <= moment && comm.is_none_or(|comm| known.facts.name == comm);
        is_it.then_some(&known.facts)
    }

    /// Reads what is not known yet, or not known to hold at this moment.
    fn look(&mut self, pid: u32, moment: Duration) -> Option<()> {
        let now = crate::host::since_boot().ok()?;
        let started = started(pid)?;
        if let Some(known) = self.known.get_mut(&pid)
            && known.started == started
            && now.saturating_sub(known.read) < FACTS_HOLD
            && read_comm(pid).as_ref() == Some(&known.facts.name)
        {
            known.seen = now;
            return Some(());
        }
        let born = since_boot_of(started);
        if born > moment {
            return None;
        }
        let facts = read(pid)?;
        // All of it was read of one process if that is still there.
        if self::started(pid) != Some(started) {
            return None;
        }
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(
            pid,
            Remembered {
                facts: Arc::new(facts),
                started,
                born,
                read: now,
                seen: now,
            },
        );
        Some(())
    }

    /// The name of a user.
    pub(super) fn user(&mut self, uid: u32) -> Option<String> {
        if self.users.len() >= REMEMBERED {
            self.users.clear();
        }
        let now = Instant::now();
        let (read, name) = self
            .users
            .entry(uid)
            .or_insert_with(|| (now, user_name(uid)));
        if now.duration_since(*read) > USERS_HOLD {
            (*read, *name) = (now, user_name(uid));
        }
        name.clone()
    }
}

fn user_name(uid: u32) -> Option<String> {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map(|user| user.name)
}

fn read(pid: u32) -> Option<Facts> {
    let path = |name: &str| format!("/proc/{pid}/{name}");
    let exe = fs::read_link(path("exe"));
    let cgroup = fs::read_to_string(path("cgroup")).ok();
    Some(Facts {
        name: read_comm(pid)?,
        exe: exe.ok().map(|exe| exe.to_string_lossy().into_owned()),
        cmdline: fs::read(path("cmdline")).ok().and_then(|raw| words(&raw)),
        cgroup: cgroup
            .as_deref()
            .and_then(cgroup2_path)
            .and_then(from_own_cgroup),
    })
}

/// The words of a command line, cut where it is very long; `None` of a process that has none.
fn words(raw: &[u8]) -> Option<Vec<String>> {
    let raw = raw.get(..MAX_CMDLINE).unwrap_or(raw);
    let raw = raw.strip_suffix(b"\0").unwrap_or(raw);
    (!raw.is_empty()).then(|| {
        raw.split(|&byte| byte == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect()
    })
}

/// When a process started, in the kernel's ticks since boot; `None` if there is none.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; the 22nd field is the 20th behind it (proc_pid_stat(5)).
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn since_boot_of(ticks: u64) -> Duration {
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten();
    let per_second = per_second
        .and_then(|ticks| u64::try_from(ticks).ok())
        .filter(|&ticks| ticks > 0)
        .unwrap_or(100);
    Duration::from_millis(ticks.saturating_mul(1000) / per_second)
}

fn read_comm(pid: u32) -> Option<String> {
    let comm = fs::read(format!("/proc/{pid}/comm")).ok()?;
    let comm = comm.strip_suffix(b"\n").unwrap_or(&comm);
    Some(String::from_utf8_lossy(comm).into_owned())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::host::since_boot;

    fn facts(
        processes: &mut Processes,
        pid: u32,
        comm: Option<&str>,
        moment: Duration,
    ) -> Option<Arc<Facts>> {
        let found = processes.at(pid, comm, moment);
        found.map(Arc::clone)
    }

    #[test]
    fn hybrid_hierarchies_have_a_cgroup2_line() {
        let text = "9:name=systemd:/x\n1:cpu:/\n0::/system.slice/app.service\n";
        assert_eq!(cgroup2_path(text), Some("/system.slice/app.service"));
        assert_eq!(cgroup2_path("1:cpu:/\n"), None);
    }

    #[test]
    fn command_lines_are_split_and_cut() {
        assert_eq!(
            words(b"dig\0@8.8.8.8\0a b\0"),
            Some(vec!["dig".into(), "@8.8.8.8".into(), "a b".into()])
        );
        assert_eq!(words(b""), None, "a kernel thread");
        assert_eq!(words(b"x\0\0y\0").unwrap().len(), 3);
        let long = words(&[b'x'; 3 * MAX_CMDLINE]).unwrap();
        assert_eq!(long.concat().len(), MAX_CMDLINE);
    }

    #[test]
    fn a_number_that_another_command_has_now_says_nothing() {
        let own = std::process::id();
        let now = since_boot().unwrap();
        let mut processes = Processes::default();
        assert_eq!(processes.at(own, Some("surely-not-me"), now), None);
    }

    #[test]
    fn a_process_that_is_younger_than_the_packet_is_another() {
        let own = std::process::id();
        let mut processes = Processes::default();
        assert_eq!(processes.at(own, None, Duration::from_secs(1)), None);
    }

    #[test]
    fn a_live_process_is_named() {
        let own = std::process::id();
        let mut processes = Processes::default();
        let now = since_boot().unwrap();
        let facts = facts(&mut processes, own, None, now).unwrap();
        assert!(facts.exe.is_some());
        assert!(facts.cmdline.is_some());
        assert_eq!(Some(&facts.name), read_comm(own).as_ref());
        let again = self::facts(&mut processes, own, Some(&facts.name), now);
        assert_eq!(again, Some(facts));
    }

    #[test]
    fn what_was_read_before_a_process_ended_holds_for_what_it_did_before() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id();
        let mut processes = Processes::default();
        let facts = loop {
            // Until it has been replaced by the program.
            let sent = since_boot().unwrap();
            if let Some(facts) = facts(&mut processes, pid, Some("sleep"), sent) {
                break facts;
            }
        };
        assert_eq!(facts.name, "sleep");
        let before = processes.known[&pid].seen;
        child.kill().unwrap();
        child.wait().unwrap();
        let same = self::facts(&mut processes, pid, Some("sleep"), before);
        assert_eq!(same, Some(facts));
        let after = before + Duration::from_nanos(1);
        assert_eq!(processes.at(pid, Some("sleep"), after), None);
        assert_eq!(processes.at(pid, Some("other"), before), None);
    }
}
