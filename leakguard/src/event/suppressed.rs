//! Packets that got no event of their own: how many, of whom, to where.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use leakguard_common::abi::{Event as Record, MAX_RATES, Rate, RateKey, Reason, Verdict};
use serde::{Deserialize, Serialize};

use super::attribution::Sender;
use super::{Container, Process, VERSION};
use crate::error::escape_control;

/// What tells it from packets and notices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuppressedKind {
    /// The only value.
    #[default]
    Suppressed,
}

/// Packets of one sender, destination and reason that no event was made for, and none came after; its JSON form is a
/// contract, to which fields may be added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suppressed {
    /// [`VERSION`].
    pub v: u32,
    /// Its number, in one sequence with the packets; given when it is published.
    pub seq: u64,
    /// When it was found: RFC 3339, UTC, nanoseconds.
    pub time: String,
    /// `suppressed`.
    pub kind: SuppressedKind,
    /// As in [`super::Event::verdict`].
    pub verdict: String,
    /// As in [`super::Event::reason`].
    pub reason: String,
    /// The destination address.
    pub destination: String,
    /// The sender, as the last event had it.
    pub process: Option<Process>,
    /// The sender's cgroup.
    pub cgroup: Option<String>,
    /// The sender's systemd unit.
    pub unit: Option<String>,
    /// The sender's container.
    pub container: Option<Container>,
    /// How many packets.
    pub packets: u64,
}

/// What has been told of a key.
#[derive(Clone, Debug)]
struct Told {
    created: u64,
    suppressed: u64,
    /// Who the key stands for, as the last event had it.
    sender: Arc<Sender>,
}

/// What of the suppressed packets has been told: the kernel only ever adds.
#[derive(Debug, Default)]
pub struct Suppressions {
    told: HashMap<RateKey, Told>,
    /// What was told of keys from before was forgotten for want of room, by [`Rate::created`].
    forgotten: u64,
}

impl Suppressions {
    /// Takes what an earlier agent has told, or has not, for told.
    pub fn begin(rates: impl IntoIterator<Item = (RateKey, Rate)>) -> Self {
        let told = rates.into_iter().map(|(key, rate)| {
            let told = Told {
                created: rate.created,
                suppressed: rate.suppressed,
                sender: Arc::default(),
            };
            (key, told)
        });
        Self {
            told: told.collect(),
            forgotten: 0,
        }
    }

    /// How many packets were suppressed since the last event of the same key.
    pub(super) fn before(&mut self, record: &Record) -> u64 {
        if record.rate_created == 0 {
            return 0;
        }
        self.advance(RateKey::of(record), record.rate_created, record.suppressed)
    }

    /// Remembers who a record's key stands for.
    pub(super) fn name(&mut self, record: &Record, sender: &Arc<Sender>) {
        if self.told.is_empty() {
            return;
        }
        if let Some(told) = self.told.get_mut(&RateKey::of(record)) {
            told.sender = Arc::clone(sender);
        }
    }

    /// What is left to tell of keys of which no event has come for a while. `now` is on the boot clock, in nanoseconds.
    pub fn rest(
        &mut self,
        rates: impl IntoIterator<Item = (RateKey, Rate)>,
        now: u64,
    ) -> Vec<Suppressed> {
        let mut found = Vec::new();
        let mut listed = HashMap::with_capacity(self.told.len());
        for (key, rate) in rates {
            let is_quiet = now.saturating_sub(rate.window) >= 2 * Rate::WINDOW;
            if is_quiet {
                let packets = self.advance(key, rate.created, rate.suppressed);
                if packets > 0 {
                    found.extend(self.tell(&key, packets));
                }
            }
            // Keys that the kernel has forgotten are forgotten here too.
            if let Some(told) = self.told.remove(&key) {
                listed.insert(key, told);
            }
        }
        self.told = listed;
        found
    }

    fn advance(&mut self, key: RateKey, created: u64, suppressed: u64) -> u64 {
        if self.told.len() >= 2 * MAX_RATES as usize {
            let newest = self.told.values().map(|told| told.created).max();
            self.forgotten = self.forgotten.max(newest.unwrap_or_default());
            self.told.clear();
        }
        // Rather not told of than told twice: the counters have it.
        let is_forgotten = created <= self.forgotten;
        let told = self.told.entry(key).or_insert(Told {
            created,
            suppressed: if is_forgotten { suppressed } else { 0 },
            sender: Arc::default(),
        });
        if told.created != created {
            (told.created, told.suppressed) = (created, 0);
        }
        let more = suppressed.saturating_sub(told.suppressed);
        told.suppressed = told.suppressed.max(suppressed);
        more
    }

    fn tell(&self, key: &RateKey, packets: u64) -> Option<Suppressed> {
        let sender = &self.told.get(key)?.sender;
        Some(Suppressed {
            v: VERSION,
            seq: 0,
            time: Timestamp::now().to_string(),
            kind: SuppressedKind::Suppressed,
            verdict: Verdict::from_wire(key.verdict)?.name().into(),
            reason: Reason::from_wire(key.reason)?.name().into(),
            destination: super::endpoint(key.family()?, key.destination, 0, 0),
            process: sender.process.clone(),
            cgroup: sender.cgroup.clone(),
            unit: sender.unit.clone(),
            container: sender.container.clone(),
            packets,
        })
    }
}

impl fmt::Display for Suppressed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            time,
            verdict,
            reason,
            destination,
            process,
            packets,
            ..
        } = self;
        write!(
            formatter,
            "{} {verdict} {reason} {packets} more packets > {destination}",
            super::text::clock(time)
        )?;
        if let Some(Process {
            pid: Some(pid),
            name,
            ..
        }) = process
        {
            let name = escape_control(name.as_deref().unwrap_or("?"));
            write!(formatter, " by {name}[{pid}]")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::record::record;

    const SECOND: u64 = Rate::WINDOW;

    fn told(suppressed: u64) -> Record {
        let mut told = record();
        told.rate_created = 5;
        told.suppressed = suppressed;
        told
    }

    fn rate(created: u64, suppressed: u64) -> [(RateKey, Rate); 1] {
        let rate = Rate {
            created,
            window: SECOND,
            told: 10,
            suppressed,
        };
        [(RateKey::of(&record()), rate)]
    }

    #[test]
    fn each_suppressed_packet_is_told_of_once() {
        let mut suppressions = Suppressions::default();
        assert_eq!(suppressions.before(&told(0)), 0);
        assert_eq!(suppressions.before(&told(7)), 7);
        // Another processor was overtaken on the way to the ring.
        assert_eq!(suppressions.before(&told(6)), 0);
        assert_eq!(suppressions.before(&told(9)), 2);
        assert!(
            suppressions.rest(rate(5, 12), 2 * SECOND).is_empty(),
            "more may come"
        );
        let rest = suppressions.rest(rate(5, 12), 3 * SECOND);
        assert_eq!(rest[0].packets, 3);
        assert_eq!(rest[0].destination, "8.8.8.8");
        assert!(suppressions.rest(rate(5, 12), 4 * SECOND).is_empty());
        assert_eq!(
            suppressions.rest(rate(6, 4), 4 * SECOND)[0].packets,
            4,
            "begun anew"
        );
    }

    #[test]
    fn what_an_earlier_agent_left_is_not_told_again() {
        let mut suppressions = Suppressions::begin(rate(5, 100));
        assert!(suppressions.rest(rate(5, 100), 9 * SECOND).is_empty());
        assert_eq!(suppressions.rest(rate(5, 101), 9 * SECOND)[0].packets, 1);
    }

    #[test]
    fn without_a_limit_nothing_is_suppressed() {
        let mut unlimited = told(3);
        unlimited.rate_created = 0;
        assert_eq!(Suppressions::default().before(&unlimited), 0);
    }

    #[test]
    fn what_is_gone_from_the_kernel_is_forgotten() {
        let mut suppressions = Suppressions::default();
        suppressions.before(&told(1));
        suppressions.rest([], SECOND);
        assert!(suppressions.told.is_empty());
    }

    #[test]
    fn what_was_forgotten_for_want_of_room_is_not_told_again() {
        let mut suppressions = Suppressions::default();
        assert_eq!(suppressions.before(&told(7)), 7);
        for pid in 1..=2 * MAX_RATES {
            let mut other = told(0);
            other.pid = pid;
            suppressions.before(&other);
        }
        assert!(
            suppressions.told.len() <= 2 * MAX_RATES as usize,
            "it is bounded"
        );
        assert_eq!(suppressions.before(&told(7)), 0, "it was told before");
        assert_eq!(suppressions.before(&told(9)), 2);
        let mut newer = told(3);
        newer.rate_created += 1;
        newer.destination[3] = 9;
        assert_eq!(suppressions.before(&newer), 3, "begun since");
    }
}
