//! One line of a record of events, read as leniently as can be: other versions have other fields.

use serde::Deserialize;

use crate::event::Container;

/// What a report needs of a line; every field may be absent.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    pub(super) seq: Option<u64>,
    pub(super) time: Option<String>,
    /// Absent of a packet of an old version.
    pub(super) kind: Option<String>,
    pub(super) verdict: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) interface: Option<Interface>,
    pub(super) source: Option<String>,
    pub(super) destination: Option<String>,
    pub(super) query: Option<Question>,
    pub(super) process: Option<Process>,
    pub(super) unit: Option<String>,
    pub(super) container: Option<Container>,
    pub(super) client: Option<Box<Self>>,
    pub(super) packets: Option<u64>,
    pub(super) suppressed: Option<u64>,
    // Of notices.
    pub(super) part: Option<String>,
    pub(super) subject: Option<String>,
    pub(super) message: Option<String>,
    // What an event may be wrapped in: its packet, or the chain of an audit log.
    event: Option<Box<Self>>,
    entry: Option<Box<Self>>,
    // What stands in place of events.
    missed: Option<Missed>,
    torn: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Interface {
    pub(super) name: Option<String>,
    pub(super) role: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Question {
    pub(super) name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Process {
    pub(super) pid: Option<u64>,
    pub(super) name: Option<String>,
    pub(super) exe: Option<String>,
    pub(super) uid: Option<u64>,
    pub(super) user: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Missed {
    events: u64,
}

/// What a line is.
#[derive(Debug)]
pub(super) enum Line {
    /// A packet that has an event.
    Packet(Box<Record>),
    /// Packets that have none.
    Suppressed(Box<Record>),
    /// What the agent tells of itself.
    Notice(Box<Record>),
    /// The reader was too slow for so many events.
    Missed(u64),
    /// Half a line that a crash has left in an audit log.
    Torn,
    /// It is empty.
    Nothing,
}

/// Reads a line; the error says why that cannot be done, in a few words.
pub(super) fn read(bytes: &[u8]) -> Result<Line, &'static str> {
    let bytes = bytes.trim_ascii();
    if bytes.is_empty() {
        return Ok(Line::Nothing);
    }
    let mut record: Box<Record> = serde_json::from_slice(bytes).or(Err("not a JSON object"))?;
    if let Some(Missed { events }) = record.missed {
        return Ok(Line::Missed(events));
    }
    if record.torn.is_some() {
        return Ok(Line::Torn);
    }
    if let Some(inner) = record.event.take().or_else(|| record.entry.take()) {
        record = inner;
    }
    let is_packet = record.verdict.is_some() && record.reason.is_some();
    match record.kind.as_deref() {
        Some("suppressed") if is_packet => Ok(Line::Suppressed(record)),
        Some("packet") | None if is_packet => Ok(Line::Packet(record)),
        Some("packet" | "suppressed") | None => Err("not an event of leakguard's"),
        Some(_) if record.message.is_some() || record.part.is_some() => Ok(Line::Notice(record)),
        Some(_) if record.time.is_some() => Ok(Line::Notice(record)),
        Some(_) => Err("not an event of leakguard's"),
    }
}
