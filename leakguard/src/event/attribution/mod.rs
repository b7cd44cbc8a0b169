//! Who sent a packet: what the kernel recorded, completed by what the host says, and joined with who had asked.

mod cgroup;
mod clients;
mod process;

use std::ffi::CStr;
use std::time::Duration;

use leakguard_common::abi::Event as Record;

use self::cgroup::Paths;
use self::process::Processes;
use super::{Attribution, Container, Process};

pub(super) use clients::Questions;

/// A process and where it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sender {
    pub(super) process: Option<Process>,
    pub(super) cgroup: Option<String>,
    pub(super) unit: Option<String>,
    pub(super) container: Option<Container>,
}

/// Names senders, and remembers what it has found out of them.
#[derive(Debug, Default)]
pub(super) struct Attributor {
    processes: Processes,
    paths: Paths,
}

/// What a record says of its sender.
struct Recorded {
    pid: u32,
    comm: Option<String>,
    uid: u32,
    /// When the process is known to have been there.
    moment: u64,
    /// The cgroup that the process or its socket was in; 0 if that is not known.
    cgroup_id: u64,
    attribution: Attribution,
}

impl Attributor {
    /// Names the sender of a recorded packet.
    pub(super) fn sender(&mut self, record: &Record) -> Sender {
        let Some(recorded) = recorded(record) else {
            return self.of_socket(record);
        };
        let Recorded {
            pid,
            comm,
            uid,
            moment,
            cgroup_id,
            attribution,
        } = recorded;
        let facts = self
            .processes
            .at(pid, comm.as_deref(), Duration::from_nanos(moment));
        let (name, exe, cmdline, cgroup) = match facts {
            Some(facts) => (Some(facts.name), facts.exe, facts.cmdline, facts.cgroup),
            None => (comm, None, None, None),
        };
        let process = Process {
            pid: Some(pid),
            name,
            exe,
            cmdline,
            uid,
            user: self.processes.user(uid),
            attribution: Some(attribution),
        };
        placed(Some(process), cgroup.or_else(|| self.paths.get(cgroup_id)))
    }

    /// Of a packet whose process is not known: its socket's user and cgroup, if it has one.
    fn of_socket(&mut self, record: &Record) -> Sender {
        let process = (record.uid != Record::NO_UID).then(|| Process {
            pid: None,
            name: None,
            exe: None,
            cmdline: None,
            uid: record.uid,
            user: self.processes.user(record.uid),
            attribution: None,
        });
        let cgroup = self.paths.get(record.cgroup_id);
        placed(process, cgroup)
    }
}

fn placed(process: Option<Process>, cgroup: Option<String>) -> Sender {
    Sender {
        unit: cgroup.as_deref().and_then(cgroup::unit).map(str::to_owned),
        container: cgroup.as_deref().and_then(cgroup::container),
        cgroup,
        process,
    }
}

/// What a record says of its sender; `None` if it knows no process.
fn recorded(record: &Record) -> Option<Recorded> {
    let owner = &record.owner;
    // The socket's user, where there is one, is who may send on it.
    let uid = |otherwise| match record.uid {
        Record::NO_UID => otherwise,
        uid => uid,
    };
    if record.pid != 0 {
        let is_owner = owner.pid == record.pid;
        let own = comm(&record.comm);
        return Some(Recorded {
            pid: record.pid,
            comm: own.or_else(|| comm(&owner.comm).filter(|_| is_owner)),
            uid: uid(owner.uid),
            moment: record.boot_time,
            cgroup_id: if is_owner {
                owner.cgroup_id
            } else {
                record.cgroup_id
            },
            attribution: Attribution::Sender,
        });
    }
    (owner.pid != 0).then(|| Recorded {
        pid: owner.pid,
        comm: comm(&owner.comm),
        uid: uid(owner.uid),
        moment: owner.boot_time,
        cgroup_id: owner.cgroup_id,
        attribution: Attribution::Owner,
    })
}

fn comm(bytes: &[u8]) -> Option<String> {
    let comm = CStr::from_bytes_until_nul(bytes).ok()?.to_string_lossy();
    (!comm.is_empty()).then(|| comm.into_owned())
}
