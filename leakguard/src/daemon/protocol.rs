//! What the agent and its clients say to each other: one JSON object per line.

use super::health::HealthReport;
use crate::event::Entry;
use serde::{Deserialize, Serialize};

/// What a client asks; each connection asks once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
pub enum Ask {
    /// Who is there?
    Hello {},
    /// Does whoever enforces get on with it?
    Works {},
    /// The recent events, one line each; with `follow` also those to come.
    Events {
        /// Whether to go on.
        follow: bool,
        /// Whether each event is to come with its packet, as a [`Captured`]. Not written unless it is wanted: an older
        /// agent does not know it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        packets: bool,
    },
    /// Let an interface carry DNS, or stop it.
    Allow {
        /// Its name.
        interface: String,
        /// Whether it may.
        allow: bool,
    },
    /// Keep what is enforced on trial.
    Confirm {},
    /// Lift enforcement and end.
    // Braces: serde looks for unknown fields only in variants that can have some.
    Release {},
    /// Panic: shows what becomes of enforcement then.
    #[cfg(debug_assertions)]
    Panic {},
}

/// What the agent answers, but for events, which are lines of their own form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// The agent.
    Agent {
        /// Its process.
        pid: u32,
        /// Its version.
        version: String,
        /// Its counters.
        #[serde(default)]
        health: HealthReport,
    },
    /// The process that rolls back unless it is told to keep what is enforced.
    Pending {
        /// Its process.
        pid: u32,
        /// The time left.
        remaining_ms: u64,
    },
    /// It is done.
    Done {
        /// Whether that changed anything.
        changed: bool,
    },
    /// This user may not ask.
    Denied,
    /// It was not done.
    Refused {
        /// The agent's words, with causes.
        message: String,
    },
    /// The client was too slow for this many events.
    Missed {
        /// How many.
        events: u64,
    },
}

/// An event and its packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// The event.
    pub event: Entry,
    /// What the kernel copied of the packet, from its transport header on, in base64; empty for what is no packet.
    pub packet: String,
}

/// The longest question; no interface name is nearly as long.
pub(super) const MAX_ASK: u64 = 4096;
