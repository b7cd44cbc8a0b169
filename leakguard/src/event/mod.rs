//! What the kernel reports, decoded and named: one record per sampled packet.

mod attribution;
mod decode;
#[cfg(test)]
mod example;
mod judged;
mod notice;
mod parts;
mod query;
#[cfg(test)]
#[path = "../../../leakguard-common/tests/record/mod.rs"]
mod record;
mod suppressed;
mod text;

use serde::{Deserialize, Serialize};

pub use decode::{Decoder, Sequence, Undecodable};
pub(crate) use decode::{endpoint, protocol_name, protocol_number, read};
#[cfg(test)]
pub(crate) use example::{example, judged, process};
pub use judged::Judged;
pub use notice::{Notice, NoticeKind};
pub(crate) use query::first_question;
pub use suppressed::{Suppressed, SuppressedKind, Suppressions};

/// The version of the record's form.
pub const VERSION: u32 = 1;

/// One line of the stream of events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Entry {
    /// A packet.
    Packet(Box<Event>),
    /// Packets without an event of their own.
    Suppressed(Box<Suppressed>),
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
    /// Whom the call reaches in place of its destination, at the hook `sock_addr`.
    #[serde(default)]
    pub redirected_to: Option<String>,
    /// The socket option that was set, at the hook `setsockopt`.
    #[serde(default)]
    pub option: Option<String>,
    /// Packets that it stands for: the segments that the kernel cuts it into.
    #[serde(default = "one")]
    pub packets: u32,
    /// The sending process, where it is known.
    pub process: Option<Process>,
    /// The sender's cgroup.
    pub cgroup: Option<String>,
    /// The sender's systemd unit.
    pub unit: Option<String>,
    /// The sender's container.
    pub container: Option<Container>,
    /// Who had asked the sender, where that is a resolver on this host.
    #[serde(default)]
    pub client: Option<Client>,
    /// Packets of the same sender, destination and reason that no event was made for since the last one that was.
    pub suppressed: u64,
}

/// The address of an endpoint, without its port.
pub(crate) fn address_of(endpoint: &str) -> String {
    endpoint
        .parse::<std::net::SocketAddr>()
        .map_or_else(|_| endpoint.to_owned(), |address| address.ip().to_string())
}

fn one() -> u32 {
    1
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

/// How it is known who sent a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attribution {
    /// It was at work when the packet was sent.
    Sender,
    /// It created the socket, or connected it; what sent this packet may be another that was given the socket.
    Owner,
    /// It had asked for the same name just before, or sent the same packet in another network namespace.
    Inferred,
}

impl Attribution {
    /// The name in the record.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sender => "sender",
            Self::Owner => "owner",
            Self::Inferred => "inferred",
        }
    }
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number; absent where only the socket's owner is known.
    pub pid: Option<u32>,
    /// Its command name.
    pub name: Option<String>,
    /// Its executable, if it still ran.
    pub exe: Option<String>,
    /// Its command line, if it still ran; cut where it is very long.
    #[serde(default)]
    pub cmdline: Option<Vec<String>>,
    /// The user who owns the socket.
    pub uid: u32,
    /// That user's name.
    pub user: Option<String>,
    /// How it is known to be the one; absent where only the socket's user is known.
    #[serde(default)]
    pub attribution: Option<Attribution>,
}

/// A container, as its cgroup tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Container {
    /// Its id, or its name where the runtime gives none.
    pub id: String,
    /// `docker`, `podman`, `containerd`, `crio`, `nspawn` or `lxc`; absent where the cgroup does not say.
    pub runtime: Option<String>,
    /// Its name in its Kubernetes pod.
    pub name: Option<String>,
    /// The uid of its Kubernetes pod.
    pub pod: Option<String>,
    /// That pod's name.
    pub pod_name: Option<String>,
    /// That pod's namespace.
    pub pod_namespace: Option<String>,
}

/// Who asked a local resolver; always inferred, by name, type and time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// The process.
    pub process: Process,
    /// Its cgroup.
    pub cgroup: Option<String>,
    /// Its systemd unit.
    pub unit: Option<String>,
    /// Its container.
    pub container: Option<Container>,
}
