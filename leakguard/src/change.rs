//! What was brought in line: one part of the enforcement that was not as it should be.

use std::fmt;

use serde::Serialize;

/// The parts of the enforcement that are read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The program at the cgroup that judges local sockets.
    Cgroup,
    /// The program at the cgroup that judges socket options.
    Setsockopt,
    /// The programs at the cgroup that record who uses a socket.
    Owners,
    /// The programs at the cgroup that redirect calls.
    Redirect,
    /// The program at an interface's TC egress, and its place in the chain.
    Tc,
    /// The pins of the links, and the directory they are in.
    Pins,
    /// The pins of the maps.
    Maps,
    /// What the programs are told.
    Settings,
    /// Which interfaces may carry DNS.
    Permissions,
    /// The nftables tables.
    Netfilter,
}

impl Part {
    /// Every part.
    pub const ALL: [Self; 10] = [
        Self::Cgroup,
        Self::Setsockopt,
        Self::Owners,
        Self::Redirect,
        Self::Tc,
        Self::Pins,
        Self::Maps,
        Self::Settings,
        Self::Permissions,
        Self::Netfilter,
    ];

    /// The name in events, status and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::Setsockopt => "setsockopt",
            Self::Owners => "owners",
            Self::Redirect => "redirect",
            Self::Tc => "tc",
            Self::Pins => "pins",
            Self::Maps => "maps",
            Self::Settings => "settings",
            Self::Permissions => "permissions",
            Self::Netfilter => "netfilter",
        }
    }
}

/// One thing that was changed, and what had been wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The part.
    pub part: Part,
    /// The interface, the pin, the table: which one of them.
    pub subject: String,
    /// What was done, and why.
    pub message: String,
}

impl Change {
    /// A change of a part.
    pub fn new(part: Part, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            part,
            subject: subject.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            part,
            subject,
            message,
        } = self;
        write!(formatter, "{} {subject}: {message}", part.name())
    }
}
