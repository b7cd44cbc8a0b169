//! Who sent a packet: what the kernel recorded, completed by what the host says, and joined with who had asked.

mod cgroup;
mod clients;
mod pods;
mod process;

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::CStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use leakguard_common::abi::Event as Record;
use serde::Serialize;

use self::cgroup::Paths;
use self::pods::Pods;
use self::process::{Facts, Processes};
use super::{Attribution, Client, Container, Process};

pub(super) use clients::Questions;

/// How many senders are remembered.
const REMEMBERED: usize = 4096;

/// A process and where it runs.
#[derive(Debug, Default, Serialize)]
pub(super) struct Sender {
    pub(super) process: Option<Process>,
    pub(super) cgroup: Option<String>,
    pub(super) unit: Option<String>,
    pub(super) container: Option<Container>,
    #[serde(skip)]
    members: OnceLock<Box<str>>,
}

impl Sender {
    fn new(process: Option<Process>, cgroup: Option<String>) -> Self {
        Self {
            unit: cgroup.as_deref().and_then(cgroup::unit).map(str::to_owned),
            container: cgroup.as_deref().and_then(cgroup::container),
            cgroup,
            process,
            members: OnceLock::new(),
        }
    }

    /// Whom an event names.
    #[cfg(test)]
    pub(super) fn of(event: &super::Event) -> Self {
        Self {
            process: event.process.clone(),
            cgroup: event.cgroup.clone(),
            unit: event.unit.clone(),
            container: event.container.clone(),
            members: OnceLock::new(),
        }
    }

    /// What an event says of it, as the members of a JSON object: many packets have the same sender.
    pub(super) fn members(&self) -> &str {
        self.members.get_or_init(|| {
            // Strings and numbers are written whatever they are.
            let json = serde_json::to_string(self).unwrap_or_default();
            let members = json
                .strip_prefix('{')
                .and_then(|json| json.strip_suffix('}'));
            members.unwrap_or_default().into()
        })
    }

    /// The same as the sender of another packet, by which this one's is guessed.
    pub(super) fn inferred(&self) -> Self {
        let process = self.process.clone().map(|process| Process {
            attribution: Some(Attribution::Inferred),
            ..process
        });
        Self {
            process,
            cgroup: self.cgroup.clone(),
            unit: self.unit.clone(),
            container: self.container.clone(),
            members: OnceLock::new(),
        }
    }

    /// As one who had asked the sender of a packet.
    pub(super) fn client(&self) -> Option<Client> {
        let Self {
            process,
            cgroup,
            unit,
            container,
            members: _,
        } = self.inferred();
        Some(Client {
            process: process?,
            cgroup,
            unit,
            container,
        })
    }
}

/// Names senders, and remembers what it has found out of them.
#[derive(Debug, Default)]
pub(super) struct Attributor {
    processes: Processes,
    paths: Paths,
    pods: Pods,
    named: HashMap<u32, Named>,
    nobody: Arc<Sender>,
}

/// A sender, and what it was named by.
#[derive(Debug)]
struct Named {
    facts: Arc<Facts>,
    uid: u32,
    cgroup_id: u64,
    attribution: Attribution,
    sender: Arc<Sender>,
}

/// What a record says of its sender.
struct Recorded<'a> {
    pid: u32,
    comm: Option<Cow<'a, str>>,
    uid: u32,
    /// When the process is known to have been there.
    moment: u64,
    /// The cgroup that the process or its socket was in; 0 if that is not known.
    cgroup_id: u64,
    attribution: Attribution,
}

impl Attributor {
    /// Names the sender of a recorded packet.
    pub(super) fn sender(&mut self, record: &Record) -> Arc<Sender> {
        let Some(recorded) = recorded(record) else {
            return self.of_socket(record);
        };
        let moment = Duration::from_nanos(recorded.moment);
        let found = self
            .processes
            .at(recorded.pid, recorded.comm.as_deref(), moment);
        let Some(facts) = found else {
            return Arc::new(self.name(&recorded, None));
        };
        // Named once, for as long as what was read holds.
        if let Some(named) = self.named.get(&recorded.pid)
            && Arc::ptr_eq(&named.facts, facts)
            && named.uid == recorded.uid
            && named.cgroup_id == recorded.cgroup_id
            && named.attribution == recorded.attribution
        {
            return Arc::clone(&named.sender);
        }
        let facts = Arc::clone(facts);
        let sender = Arc::new(self.name(&recorded, Some(&facts)));
        if self.named.len() >= REMEMBERED {
            self.named.clear();
        }
        self.named.insert(
            recorded.pid,
            Named {
                facts,
                uid: recorded.uid,
                cgroup_id: recorded.cgroup_id,
                attribution: recorded.attribution,
                sender: Arc::clone(&sender),
            },
        );
        sender
    }

    fn name(&mut self, recorded: &Recorded<'_>, facts: Option<&Facts>) -> Sender {
        let Recorded {
            pid,
            ref comm,
            uid,
            moment: _,
            cgroup_id,
            attribution,
        } = *recorded;
        let (name, exe, cmdline, cgroup) = match facts.cloned() {
            Some(Facts {
                name,
                exe,
                cmdline,
                cgroup,
            }) => (Some(name), exe, cmdline, cgroup),
            None => (comm.as_deref().map(str::to_owned), None, None, None),
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
        let cgroup = cgroup.or_else(|| self.paths.get(cgroup_id));
        self.in_place(Some(process), cgroup)
    }

    /// A process, and what its cgroup says.
    fn in_place(&mut self, process: Option<Process>, cgroup: Option<String>) -> Sender {
        let mut sender = Sender::new(process, cgroup);
        if let Some(container) = &mut sender.container {
            self.pods.name(container);
        }
        sender
    }

    /// Of a packet whose process is not known: its socket's user and cgroup, if it has one.
    fn of_socket(&mut self, record: &Record) -> Arc<Sender> {
        if record.uid == Record::NO_UID && record.cgroup_id == 0 {
            return Arc::clone(&self.nobody);
        }
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
        Arc::new(self.in_place(process, cgroup))
    }
}

/// What a record says of its sender; `None` if it knows no process.
fn recorded(record: &Record) -> Option<Recorded<'_>> {
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

fn comm(bytes: &[u8]) -> Option<Cow<'_, str>> {
    let comm = CStr::from_bytes_until_nul(bytes).ok()?.to_string_lossy();
    (!comm.is_empty()).then_some(comm)
}
