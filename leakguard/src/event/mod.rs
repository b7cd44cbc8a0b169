//! What the kernel reports, decoded and named: one record per sampled packet.

mod decode;
mod notice;
mod process;
mod query;
mod text;

use serde::{Deserialize, Serialize};

pub use decode::{Decoder, Sequence, Undecodable};
pub(crate) use decode::{endpoint, protocol_name, read};
pub use notice::{Notice, NoticeKind};
pub(crate) use query::first_question;

/// The version of the record's form.
pub const VERSION: u32 = 1;

/// One line of the stream of events.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Entry {
    /// A packet.
    Packet(Box<Event>),
    /// Something else that the agent tells.
    Notice(Notice),
}

/// What tells a packet from a notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PacketKind {
    /// The only value.
    #[default]
    Packet,
}

/// One sampled packet, or a socket option that was refused; its JSON form is a contract, to which fields may be added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// [`VERSION`].
    pub v: u32,
    /// Counts this agent's events from 1; a gap is an event that did not get here.
    pub seq: u64,
    /// When the packet was judged: RFC 3339, UTC, nanoseconds.
    pub time: String,
    /// `packet`.
    #[serde(default)]
    pub kind: PacketKind,
    /// `drop`, `would_drop`, or `pass` of what is only reported.
    pub verdict: String,
    /// The class, or what else spoke against the packet.
    pub reason: String,
    /// Where it was judged.
    pub hook: String,
    /// The exit interface.
    pub interface: InterfaceRef,
    /// `host`: the managed namespace.
    pub netns: String,
    /// The IP version.
    pub family: String,
    /// The transport by name, or its number.
    pub protocol: String,
    /// Address, and port where there is one.
    pub source: String,
    /// Address, and port where there is one.
    pub destination: String,
    /// What the packet was found in (`ip`, `gre`, `vxlan`, `geneve`); absent of the outermost.
    #[serde(default)]
    pub encapsulation: Option<String>,
    /// Bytes of the packet, or of what it was found in.
    pub length: u32,
    /// The first question, where the packet holds one that can be read.
    pub query: Option<Query>,
    /// The socket option that was set, at the hook `setsockopt`.
    #[serde(default)]
    pub option: Option<String>,
    /// The sending process, where it is known.
    pub process: Option<Process>,
    /// The sender's cgroup.
    pub cgroup: Option<String>,
    /// The sender's systemd unit.
    pub unit: Option<String>,
    /// The sender's container; not attributed yet.
    pub container: Option<String>,
    /// Events of the same kind that were left out before this one.
    pub suppressed: u64,
}

/// An interface as an event names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceRef {
    /// Its number.
    pub index: u32,
    /// Its name, if it still exists.
    pub name: Option<String>,
    /// Its role when the packet was judged.
    pub role: String,
}

/// The first question of a DNS message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// The name as it was sent, fully qualified: ASCII, what is no letter or digit behind a backslash or as three octal
    /// digits; punycode is not decoded.
    pub name: String,
    /// The record type.
    #[serde(rename = "type")]
    pub kind: String,
}

/// A sending process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number; absent where only the socket's owner is known.
    pub pid: Option<u32>,
    /// Its command name.
    pub name: Option<String>,
    /// Its executable, if it still runs.
    pub exe: Option<String>,
    /// The user who owns the socket.
    pub uid: u32,
    /// That user's name.
    pub user: Option<String>,
}
