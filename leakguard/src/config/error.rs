//! What can be wrong with a configuration.

use std::{
    error::Error as _,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use leakguard_common::abi::{Class, MAX_ENDPOINTS, MAX_EXTRA_PORTS, MAX_LAN, MAX_SPARED, Role};

use super::{FileError, NetlinkBuffer};
use crate::interfaces::PatternError;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read or must not be trusted.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file's text is wrong.
    #[error("{}:{position}: {problem}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Where in it.
        position: Position,
        /// What is wrong and what is allowed.
        problem: Problem,
    },
    /// The file and the command line together break a rule.
    #[error(transparent)]
    Rule(#[from] RuleError),
}

/// What is wrong at a place in the file.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It is not TOML, or a key or a type is not what it must be; says what is expected.
    #[error("{0}")]
    Syntax(String),
    /// A text is no interface pattern.
    // With its cause, because a problem is one line and stands inside another message.
    #[error("{0}{cause}", cause = cause_after_colon(.0))]
    Pattern(PatternError),
    /// A value breaks a rule.
    #[error(transparent)]
    Rule(#[from] RuleError),
}

fn cause_after_colon(error: &PatternError) -> String {
    error
        .source()
        .map(|cause| format!(": {cause}"))
        .unwrap_or_default()
}

impl From<PatternError> for Problem {
    fn from(error: PatternError) -> Self {
        Self::Pattern(error)
    }
}

/// A rule on values that is broken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// A name that is not among those that are allowed.
    #[error("unknown {kind} `{name}`; allowed: {allowed}")]
    Unknown {
        /// What was to be named.
        kind: &'static str,
        /// What was given.
        name: String,
        /// The names that are allowed, as a list for people.
        allowed: String,
    },
    /// The list of blocked classes is empty.
    #[error(
        "`block` is empty, so nothing would be blocked; leave the key out to block every class, or use mode = \"observe\""
    )]
    NothingBlocked,
    /// A number that is no port.
    #[error("{number} is not a port; allowed: 1 to 65535")]
    PortOutOfRange {
        /// What was given.
        number: i64,
    },
    /// A port that is judged already.
    #[error("port {port} is judged as `{class}` already; leave it out of `ports`")]
    PortOfClass {
        /// The port.
        port: u16,
        /// Its class.
        class: Class,
    },
    /// A port is given more than once.
    #[error("port {port} is given twice; name it once")]
    PortTwice {
        /// The port.
        port: u16,
    },
    /// More ports than the kernel programs hold.
    #[error("too many extra ports; allowed: {MAX_EXTRA_PORTS}")]
    TooManyPorts,
    /// A text that names no list of resolvers.
    #[error(
        "`{text}` names no list of resolvers; write \"builtin\", or the path of a file from / on"
    )]
    DohResolvers {
        /// What was given.
        text: String,
    },
    /// An address that no resolver behind a tunnel can have.
    #[error("{address} cannot be a resolver behind the tunnel; name its address in the tunnel")]
    RedirectTarget {
        /// What was given.
        address: IpAddr,
    },
    /// Two resolvers of a family.
    #[error("{address} is the second resolver of its family in `redirect`; name one for each")]
    RedirectTwice {
        /// The second.
        address: IpAddr,
    },
    /// An address at which no resolver can be.
    #[error(
        "{address} cannot be a resolver's; name its address in the tunnel, or that of one on this host"
    )]
    Server {
        /// What was given.
        address: IpAddr,
    },
    /// A resolver twice.
    #[error("{address} is named twice in `servers`; once is enough")]
    ServerTwice {
        /// Which one.
        address: IpAddr,
    },
    /// Questions that are let out are not redirected.
    #[error("`redirect` needs `dns` in `block`; add it, or leave `redirect` out")]
    RedirectUnblocked,
    /// Exceptions of nothing.
    #[error("`redirect_except` has no use without `redirect`; name the tunnel's resolver there")]
    SparedWithoutRedirect,
    /// A text that names no process.
    #[error(
        "`{text}` names nobody; write the path of a cgroup from the root of the hierarchy on, such as \
         /system.slice/unbound.service, or a process by its name, such as unbound (up to 15 bytes)"
    )]
    Spared {
        /// What was given.
        text: String,
    },
    /// More exceptions than the kernel programs hold.
    #[error("too many entries in `redirect_except`; allowed: {MAX_SPARED}")]
    TooManySpared,
    /// A number that no socket mark can be.
    #[error("{number} is not a mark; allowed: 1 to 0xffffffff")]
    MarkOutOfRange {
        /// What was given.
        number: i64,
    },
    /// An endpoint that every process could send to.
    #[error(
        "the endpoint is open to every process; say by what the VPN's packets are known: `mark` (wg set … fwmark) or \
         `cgroup`"
    )]
    OpenEndpoint,
    /// A cgroup that cannot be the VPN's own.
    #[error(
        "`{cgroup}` is no cgroup of its own; write its path from the root of the hierarchy on, such as \
         /system.slice/openvpn.service"
    )]
    EndpointCgroup {
        /// What was given.
        cgroup: String,
    },
    /// An endpoint whose packets look like DNS.
    #[error(
        "an endpoint on port {port} stays blocked, because it is judged as `{class}`; let the VPN use another port, or \
         leave the class out of `block`"
    )]
    EndpointOfClass {
        /// The port.
        port: u16,
        /// The class.
        class: Class,
    },
    /// An endpoint is given more than once.
    #[error("the endpoint {address} port {port} is given twice; name it once")]
    EndpointTwice {
        /// The address.
        address: IpAddr,
        /// The port.
        port: u16,
    },
    /// A text that is no address.
    #[error(
        "`{text}` is not an IP address; names cannot be used here, because resolving them is what is blocked"
    )]
    Address {
        /// What was given.
        text: String,
    },
    /// More endpoints than the kernel programs hold.
    #[error("too many endpoints; allowed: {MAX_ENDPOINTS}")]
    TooManyEndpoints,
    /// A text that is no prefix.
    #[error("`{text}` is not a prefix of a network, such as 192.168.1.0/24 or fd00::/8")]
    Prefix {
        /// What was given.
        text: String,
    },
    /// More prefixes than the kernel programs hold.
    #[error("too many prefixes; allowed: {MAX_LAN}")]
    TooManyPrefixes,
    /// A text that is no time.
    #[error("`{text}` is not a time, such as 3m or 180s")]
    Duration {
        /// What was given.
        text: String,
    },
    /// An interval that is shorter than a run should be apart from the next.
    #[error("an interval of `{text}` is too short; write 0s for never, or 60s and more")]
    VerifyInterval {
        /// What was given.
        text: String,
    },
    /// Not the least and the greatest MTU.
    #[error(
        "`mtu` wants the least and the greatest that is right, such as [1280, 1500]; allowed: 576 to 65535"
    )]
    Mtu,
    /// A text that is no domain name.
    #[error("`{text}` is not a domain name; leave it empty not to ask for one")]
    DomainName {
        /// What was given.
        text: String,
    },
    /// A receive buffer that is too small to work with, or larger than the kernel makes one.
    #[error(
        "a netlink_buffer of {bytes} bytes is not allowed; set it from {} to {}, or leave it out for {}",
        NetlinkBuffer::BOUNDS.start(), NetlinkBuffer::BOUNDS.end(), NetlinkBuffer::default().bytes()
    )]
    NetlinkBuffer {
        /// What was given.
        bytes: i64,
    },
    /// A text that is no path of a file.
    #[error("`{text}` is not the whole path of a file, such as /var/log/leakguard/events.ndjson")]
    OutputPath {
        /// What was given.
        text: String,
    },
    /// The same file for two outputs.
    #[error("{} cannot be the file of events and the audit log; name two files", path.display())]
    OneFileForTwo {
        /// The file.
        path: PathBuf,
    },
    /// A number that no rate can be.
    #[error("{number} is not a number of events per second; allowed: 0 (no limit) to {max}")]
    Rate {
        /// What was given.
        number: i64,
        /// The greatest that can be.
        max: i64,
    },
    /// A text that names no receiver of OpenTelemetry logs.
    #[error(
        "`{text}` is not the address of an OTLP receiver, such as http://127.0.0.1:4318; only http is spoken: for https, \
         let a collector on this host pass it on"
    )]
    Otlp {
        /// What was given.
        text: String,
    },
    /// A text that is no address to listen at.
    #[error("`{text}` is not an address and a port, such as 127.0.0.1:9853 or [::1]:9853")]
    Listen {
        /// What was given.
        text: String,
    },
    /// Metrics that other hosts could read.
    #[error(
        "other hosts could read the metrics at {address}; use a loopback address such as 127.0.0.1:9853, or set \
         public = true in [metrics] of the configuration file"
    )]
    PublicMetrics {
        /// The address.
        address: SocketAddr,
    },
    /// A text that cannot be the name of a label.
    #[error(
        "`{name}` is not the name of a label; write letters, digits and _, and neither a digit nor __ in front"
    )]
    LabelName {
        /// What was given.
        name: String,
    },
    /// A label that leakguard's own metrics have.
    #[error("leakguard's own metrics have a label `{name}`; choose another name")]
    OwnLabel {
        /// The name.
        name: String,
    },
    /// A text that cannot be the value of a label.
    #[error("the label `{name}` needs a value of 1 to {max} bytes without control characters")]
    LabelValue {
        /// The label.
        name: String,
        /// The greatest length.
        max: usize,
    },
    /// More labels than every series should have.
    #[error("too many labels; allowed: {max}")]
    TooManyLabels {
        /// How many may be.
        max: usize,
    },
    /// A text that cannot be a word in resolv.conf or the like.
    #[error("`{text}` is not a name; write letters, digits, and . - _ :")]
    Word {
        /// What was given.
        text: String,
    },
    /// A number that no backlog can be.
    #[error("{number} is not a number of packets; allowed: 1 to {max}")]
    Backlog {
        /// What was given.
        number: i64,
        /// The greatest that can be.
        max: i64,
    },
    /// More than a resolver library reads.
    #[error("too many entries in `{key}` of [resolver]; allowed: {max}")]
    TooManyWords {
        /// The list.
        key: &'static str,
        /// How many may be.
        max: usize,
    },
    /// TLS where nobody speaks it.
    #[error(
        "`upstream_tls` needs somebody who speaks it: cache = \"unbound\", or strategy = \"resolved-strict\" without a cache"
    )]
    UpstreamTls,
    /// A key to trust where nobody validates.
    #[error("`trust_anchor` needs cache = \"unbound\", which validates")]
    TrustAnchor,
    /// `auto` outside of the tunnel list.
    #[error("`auto` stands for tunnels and cannot be in `{role}`; name the interfaces")]
    AutoNotTunnel {
        /// The list it is in.
        role: Role,
    },
    /// The same pattern is in the tunnel list and in another.
    #[error("`{pattern}` is named as tunnel and as {role}; keep it in one of the two")]
    TwoRoles {
        /// The pattern.
        pattern: String,
        /// The other list.
        role: Role,
    },
}

/// A place in a text: line and column, both from 1, the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl Position {
    /// The place after the given text.
    pub(super) fn after(text: &str) -> Self {
        let last_line = text.rsplit('\n').next().unwrap_or_default();
        Self {
            line: text.matches('\n').count() + 1,
            column: last_line.chars().count() + 1,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.line, self.column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_from_one_and_in_characters() {
        for (text, line, column) in [
            ("", 1, 1),
            ("ab", 1, 3),
            ("ab\n", 2, 1),
            ("ä\nöü", 2, 3),
            ("\n\n x", 3, 3),
        ] {
            assert_eq!(Position::after(text), Position { line, column }, "{text:?}");
        }
    }
}
