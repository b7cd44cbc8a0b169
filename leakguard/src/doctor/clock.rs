//! The time, which signatures depend on.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::libc;

use super::Facts;
use super::finding::{Finding, Rule, Severity, Subject};

/// Facts about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clock {
    pub(super) now: SystemTime,
    /// Whether the kernel was told that it is kept right; absent where it may not be asked.
    pub(super) synchronised: Option<bool>,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            now: UNIX_EPOCH,
            synchronised: None,
        }
    }
}

/// The start of 2026, which no clock is before that is right.
const LONG_AGO: Duration = Duration::from_hours(490_896);

const fn rule(
    id: &'static str,
    severity: Severity,
    title: &'static str,
    why: &'static str,
) -> Rule {
    Rule {
        id,
        subject: Subject::Clock,
        severity,
        title,
        why,
    }
}

pub(super) const WRONG: Rule = rule(
    "clock-wrong",
    Severity::Problem,
    "the clock is years behind",
    "signatures of DNSSEC and certificates of TLS are not valid yet: SERVFAIL from a resolver that validates",
);
pub(super) const UNSYNCHRONISED: Rule = rule(
    "clock-unsynchronised",
    Severity::Note,
    "nothing keeps the clock right",
    "when it is off by hours, signatures of DNSSEC count as expired: SERVFAIL from a resolver that validates",
);

pub(super) const RULES: &[&Rule] = &[&WRONG, &UNSYNCHRONISED];

pub(super) fn collect() -> Clock {
    // SAFETY: all bytes zero is a valid `timex`, which asks for nothing to be changed.
    let mut answer: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is the kernel's, and lives until the call returns.
    let state = unsafe { libc::adjtimex(&raw mut answer) };
    Clock {
        now: SystemTime::now(),
        synchronised: (state >= 0).then_some(answer.status & libc::STA_UNSYNC == 0),
    }
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    const REMEDY: &str = "timedatectl set-ntp true";
    let Clock { now, synchronised } = facts.clock;
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    if since < LONG_AGO {
        let seconds = since.as_secs();
        vec![WRONG.found([format!("date +%s: {seconds}")], REMEDY)]
    } else if synchronised == Some(false) {
        vec![UNSYNCHRONISED.found(["adjtimex: STA_UNSYNC".to_owned()], REMEDY)]
    } else {
        Vec::new()
    }
}
