//! Sockets of the current namespace whose packets pass no TC program, with the processes that hold them.
//!
//! The kernel lists packet sockets, but neither /proc/net/packet nor `sock_diag` says whether one bypasses the queueing
//! layer (`pdiag_put_info` in `net/packet/diag.c`, 6.18). The socket itself does (`getsockopt`), to whoever has it, and a
//! process with `CAP_SYS_PTRACE` can take a copy of another's descriptor (`pidfd_getfd`, 5.6). `AF_XDP` sockets are only
//! counted, unless the kernel was built with `CONFIG_XDP_SOCKETS_DIAG`; they are found in the same way.

mod holders;
mod probe;

use std::collections::{BTreeMap, BTreeSet};
use std::{fmt, fs};

use serde::Serialize;

pub(crate) use self::holders::inode;
use self::holders::{Holder, holders};
use self::probe::Probed;
use crate::error::escape_control;

/// A kind of socket that can send past TC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A packet socket with `PACKET_QDISC_BYPASS`.
    QdiscBypass,
    /// An `AF_XDP` socket.
    AfXdp,
}

/// A socket that one or more processes hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OpenSocket {
    /// How it gets past TC.
    pub kind: Kind,
    /// Its inode, as in `ls -l /proc/PID/fd`.
    pub inode: u64,
    /// Who holds it.
    pub processes: Vec<Holder>,
}

/// All that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Inventory {
    /// Those that pass no TC program.
    pub sockets: Vec<OpenSocket>,
    /// Packet and `AF_XDP` sockets that could not be asked: nobody in this process namespace holds them, or they are not
    /// this process's to ask.
    pub unknown: u64,
}

/// Looks at every packet and `AF_XDP` socket of the current namespace. Cheap where there is none.
pub fn inventory() -> Inventory {
    let mut packet = packet_sockets(&table("packet"));
    let mut xdp = in_use(&table("protocols"), "XDP");
    if packet.is_empty() && xdp == 0 {
        return Inventory::default();
    }
    let mut found: BTreeMap<u64, OpenSocket> = BTreeMap::new();
    // Whose inodes are not known can be any.
    let candidates = (xdp == 0).then(|| packet.clone());
    for (inode, holder, descriptor) in holders(candidates) {
        let Some(probed) = probe::ask(&descriptor) else {
            continue;
        };
        packet.remove(&inode);
        let kind = match probed {
            Probed::Ordinary => continue,
            Probed::Bypass => Kind::QdiscBypass,
            Probed::AfXdp => {
                xdp = xdp.saturating_sub(u64::from(!found.contains_key(&inode)));
                Kind::AfXdp
            }
        };
        let socket = found.entry(inode).or_insert_with(|| OpenSocket {
            kind,
            inode,
            processes: Vec::new(),
        });
        if !socket.processes.contains(&holder) {
            socket.processes.push(holder);
        }
    }
    let unasked = u64::try_from(packet.len()).unwrap_or(u64::MAX);
    Inventory {
        sockets: found.into_values().collect(),
        unknown: unasked.saturating_add(xdp),
    }
}

/// A table of the calling thread's network namespace; nothing where the kernel has none.
fn table(name: &str) -> String {
    let path = format!("/proc/thread-self/net/{name}");
    fs::read_to_string(&path)
        .inspect_err(|error| log::debug!("cannot read {path}: {error}"))
        .unwrap_or_default()
}

/// The inodes in the last column of /proc/net/packet.
fn packet_sockets(table: &str) -> BTreeSet<u64> {
    let lines = table.lines().skip(1);
    lines
        .filter_map(|line| line.split_whitespace().next_back()?.parse().ok())
        .collect()
}

/// How many sockets of a protocol /proc/net/protocols has: the third column.
fn in_use(table: &str, protocol: &str) -> u64 {
    let mut columns = table.lines().map(str::split_whitespace);
    let of_protocol =
        columns.find_map(|mut columns| (columns.next() == Some(protocol)).then_some(columns));
    of_protocol
        .and_then(|mut columns| columns.nth(1)?.parse().ok())
        .unwrap_or(0)
}

impl Inventory {
    /// One sentence for each socket that was found, for people.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        let unknown = (self.unknown > 0).then(|| {
            format!(
                "{} packet or AF_XDP sockets cannot be asked whether their packets pass TC: nobody that can be seen from \
                 here holds them",
                self.unknown
            )
        });
        self.sockets.iter().map(ToString::to_string).chain(unknown)
    }
}

impl fmt::Display for OpenSocket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            Kind::QdiscBypass => "a packet socket with PACKET_QDISC_BYPASS",
            Kind::AfXdp => "an AF_XDP socket",
        };
        let holders: Vec<String> = self
            .processes
            .iter()
            .map(|Holder { pid, name }| format!("{}[{pid}]", escape_control(name)))
            .collect();
        write!(
            formatter,
            "{what} sends past TC: inode {}, held by {}",
            self.inode,
            holders.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_understood() {
        let protocols = "protocol  size sockets  memory press maxhdr  slab module\n\
                         XDP       1088      2      -1   NI       0   no   kernel\n\
                         UDP       1344      x     189   NI       0   yes  kernel\n";
        assert_eq!(in_use(protocols, "XDP"), 2);
        assert_eq!(in_use(protocols, "UDP"), 0);
        assert_eq!(in_use(protocols, "TCP"), 0);
        let packet = "sk       RefCnt Type Proto  Iface R Rmem   User   Inode\n\
                      0000000000000000 3      3    0003   2     1 0      0      4711\n\
                      0000000000000000 3      10   0003   0     1 0      0      4712\n";
        assert_eq!(packet_sockets(packet), BTreeSet::from([4711, 4712]));
        assert_eq!(packet_sockets(""), BTreeSet::new());
    }

    #[test]
    fn a_socket_is_described_with_its_holders() {
        let socket = OpenSocket {
            kind: Kind::QdiscBypass,
            inode: 77,
            processes: vec![Holder {
                pid: 42,
                name: "traf\ngen".into(),
            }],
        };
        assert_eq!(
            socket.to_string(),
            "a packet socket with PACKET_QDISC_BYPASS sends past TC: inode 77, held by traf\\ngen[42]"
        );
        let inventory = Inventory {
            sockets: vec![socket],
            unknown: 2,
        };
        assert_eq!(inventory.warnings().count(), 2);
        let json = serde_json::to_value(&inventory).unwrap();
        assert_eq!(json["sockets"][0]["kind"], "qdisc_bypass");
        assert_eq!(json["sockets"][0]["processes"][0]["pid"], 42);
    }
}
