//! What the agent itself has to tell, in one stream with the packets.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::VERSION;
use crate::change::Change;
use crate::error::escape_control;

/// What a notice is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeKind {
    /// Something had been changed from outside, and is as it should be again.
    Repair,
    /// The kill switch was engaged or released.
    KillSwitch,
    /// More or less is enforced than before, or for another cause.
    Level,
    /// An output of events has failed, works again, or has missed some.
    Output,
    /// Somebody has changed whom this host asks for names.
    Resolver,
    /// The agent's own leak test has found something.
    Verify,
    /// An audit log was opened or closed; stands there only.
    AuditLog,
}

impl NoticeKind {
    /// The name in the record.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Repair => "repair",
            Self::KillSwitch => "kill_switch",
            Self::Level => "level",
            Self::Output => "output",
            Self::Resolver => "resolver",
            Self::Verify => "verify",
            Self::AuditLog => "audit_log",
        }
    }
}

/// One event that is no packet; its JSON form is a contract, to which fields may be added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// [`VERSION`].
    pub v: u32,
    /// Its number, in one sequence with the packets; given when it is published.
    pub seq: u64,
    /// When it happened: RFC 3339, UTC, nanoseconds.
    pub time: String,
    /// What it is about; `packet` is the kind of what is no notice.
    pub kind: NoticeKind,
    /// The part of leakguard it is about.
    pub part: String,
    /// Which one: an interface, a pin, a table.
    pub subject: String,
    /// One sentence for people.
    pub message: String,
}

impl Notice {
    /// A notice of what happens now.
    pub fn new(
        kind: NoticeKind,
        part: impl Into<String>,
        subject: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            v: VERSION,
            seq: 0,
            time: Timestamp::now().to_string(),
            kind,
            part: part.into(),
            subject: subject.into(),
            message: message.into(),
        }
    }

    /// A notice of a repair.
    pub fn repair(change: Change) -> Self {
        let Change {
            part,
            subject,
            message,
        } = change;
        Self::new(NoticeKind::Repair, part.name(), subject, message)
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            time,
            kind,
            part,
            subject,
            message,
            ..
        } = self;
        write!(
            formatter,
            "{} {} {part} {}: {}",
            super::text::clock(time),
            kind.name(),
            escape_control(subject),
            escape_control(message)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Part;
    use crate::event::Entry;

    #[test]
    fn a_notice_has_the_documented_form() {
        let mut notice = Notice::repair(Change::new(Part::Tc, "eth\n0", "attached"));
        notice.seq = 42;
        notice.time = "2026-11-23T10:00:00.123456789Z".into();
        let json = serde_json::to_string(&notice).unwrap();
        assert_eq!(
            json,
            r#"{"v":1,"seq":42,"time":"2026-11-23T10:00:00.123456789Z","kind":"repair","part":"tc","subject":"eth\n0","message":"attached"}"#
        );
        assert_eq!(
            notice.to_string(),
            "10:00:00.123 repair tc eth\\n0: attached"
        );
        assert_eq!(
            serde_json::from_str::<Entry>(&json).unwrap(),
            Entry::Notice(notice)
        );
    }

    #[test]
    fn kinds_are_written_as_they_are_called() {
        for kind in [
            NoticeKind::Repair,
            NoticeKind::KillSwitch,
            NoticeKind::Level,
            NoticeKind::Output,
            NoticeKind::Resolver,
            NoticeKind::Verify,
            NoticeKind::AuditLog,
        ] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }
}
