//! What `top` knows: a state that status snapshots and events change, and nothing else.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use leakguard_common::abi::Verdict;

use crate::daemon::HealthReport;
use crate::event::{Entry, Event, Process, address_of};
use crate::status::Status;
use crate::tally::Tally;

/// How many senders are kept apart.
const OFFENDERS: usize = 512;

/// How many lines of events are kept.
const RECENT: usize = 200;

/// How many rates the curve shows at most.
const HISTORY: usize = 240;

/// What is read from the kernel, and of the agent, at one time.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// On a clock that only goes forward.
    pub at: Duration,
    /// What is enforced.
    pub status: Status,
    /// The agent's process and its counters; absent when none answers.
    pub agent: Option<(u32, HealthReport)>,
}

/// What became of the packets of a class.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClassRow {
    /// Dropped, or in observe mode what would have been.
    pub stopped: u64,
    /// The same per second, lately.
    pub stopped_rate: f64,
    /// What passed.
    pub passed: u64,
    /// The same per second, lately.
    pub passed_rate: f64,
}

/// A sender: its process by name, where it runs, and its user.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Offender {
    /// The process's name.
    pub name: String,
    /// The container or unit, if there is one.
    pub place: String,
    /// The user.
    pub user: String,
}

/// What it did last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deed {
    /// Its process number.
    pub pid: Option<u32>,
    /// The name it asked for, or where it sent to.
    pub target: String,
    /// The class.
    pub reason: String,
}

/// The state.
#[derive(Clone, Debug)]
pub struct Model {
    snapshot: Option<Snapshot>,
    classes: BTreeMap<&'static str, ClassRow>,
    history: VecDeque<u64>,
    offenders: Tally<Offender, Deed>,
    recent: VecDeque<Entry>,
    missed: u64,
    suppressed: u64,
    paused: bool,
    interval: Duration,
    trouble: Option<String>,
}

impl Model {
    /// A state that knows nothing yet.
    pub fn new(interval: Duration) -> Self {
        Self {
            snapshot: None,
            classes: BTreeMap::new(),
            history: VecDeque::new(),
            offenders: Tally::new(OFFENDERS),
            recent: VecDeque::new(),
            missed: 0,
            suppressed: 0,
            paused: false,
            interval,
            trouble: None,
        }
    }

    /// Takes in a new snapshot.
    pub fn observe(&mut self, snapshot: Snapshot) {
        self.trouble = None;
        let passed_time = self
            .snapshot
            .as_ref()
            .and_then(|before| snapshot.at.checked_sub(before.at));
        let mut classes: BTreeMap<&'static str, ClassRow> = BTreeMap::new();
        for packets in &snapshot.status.packets {
            let row = classes.entry(packets.class).or_default();
            if packets.verdict == Verdict::Pass.name() {
                row.passed += packets.count;
            } else {
                row.stopped += packets.count;
            }
        }
        let seconds = passed_time.map_or(0.0, |time| time.as_secs_f64());
        let mut stopped_rate = 0.0;
        for (class, row) in &mut classes {
            let before = self.classes.get(class).copied().unwrap_or_default();
            row.stopped_rate = rate(before.stopped, row.stopped, seconds);
            row.passed_rate = rate(before.passed, row.passed, seconds);
            stopped_rate += row.stopped_rate;
        }
        if seconds > 0.0 {
            if self.history.len() == HISTORY {
                self.history.pop_front();
            }
            self.history.push_back(rounded(stopped_rate));
        }
        self.classes = classes;
        self.snapshot = Some(snapshot);
    }

    /// Takes in an event.
    pub fn note(&mut self, entry: Entry) {
        if let Entry::Packet(event) = &entry {
            self.suppressed = self.suppressed.saturating_add(event.suppressed);
            let packets = u64::from(event.packets).saturating_add(event.suppressed);
            self.offenders.add(offender(event), packets, deed(event));
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(entry);
    }

    /// Takes in that events were missed.
    pub fn miss(&mut self, events: u64) {
        self.missed = self.missed.saturating_add(events);
    }

    /// Takes in that the state could not be read; what was known before is shown on.
    pub fn fail(&mut self, trouble: String) {
        self.trouble = Some(trouble);
    }

    /// Stops the picture, or lets it go on.
    pub fn toggle_pause(&mut self) {
        self.paused = !self.paused;
    }

    /// Changes how often the state is read.
    pub fn set_interval(&mut self, interval: Duration) {
        self.interval = interval;
    }

    /// Forgets senders and events.
    pub fn clear(&mut self) {
        self.offenders = Tally::new(OFFENDERS);
        self.recent.clear();
    }

    /// The last snapshot.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref()
    }

    /// The classes that had packets, the busiest first.
    pub fn classes(&self) -> Vec<(&'static str, ClassRow)> {
        let mut rows: Vec<_> = self
            .classes
            .iter()
            .map(|(class, row)| (*class, *row))
            .collect();
        rows.sort_by(|(one, a), (other, b)| {
            b.stopped_rate
                .total_cmp(&a.stopped_rate)
                .then(b.stopped.cmp(&a.stopped))
                .then(one.cmp(other))
        });
        rows
    }

    /// Packets stopped per second, one value for each snapshot, the newest last.
    pub fn history(&self) -> impl DoubleEndedIterator<Item = u64> + ExactSizeIterator + '_ {
        self.history.iter().copied()
    }

    /// The senders.
    pub fn offenders(&self) -> &Tally<Offender, Deed> {
        &self.offenders
    }

    /// The events, the newest last.
    pub fn recent(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.recent.iter()
    }

    /// Events that this was too slow for.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// Packets that got no event of their own.
    pub fn suppressed(&self) -> u64 {
        self.suppressed
    }

    /// Whether the picture is stopped.
    pub fn paused(&self) -> bool {
        self.paused
    }

    /// How often the state is read.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Why the state could not be read, if it could not.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }
}

/// Per second; 0 without a time, and where a counter began anew.
fn rate(before: u64, now: u64, seconds: f64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a rate is shown with three digits"
    )]
    let counted = now.saturating_sub(before) as f64;
    if seconds > 0.0 {
        counted / seconds
    } else {
        0.0
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is not negative, and the cast saturates"
)]
fn rounded(rate: f64) -> u64 {
    rate.round() as u64
}

/// Who sent a packet.
pub(super) fn offender(event: &Event) -> Offender {
    // Who asked a local resolver is whom people look for.
    let (process, unit, container) = match &event.client {
        Some(client) => (
            Some(&client.process),
            client.unit.as_ref(),
            client.container.as_ref(),
        ),
        None => (
            event.process.as_ref(),
            event.unit.as_ref(),
            event.container.as_ref(),
        ),
    };
    let place = match (container, unit) {
        (Some(container), _) => container.called(),
        (None, Some(unit)) => unit.clone(),
        (None, None) => String::new(),
    };
    match process {
        Some(Process {
            name, uid, user, ..
        }) => Offender {
            name: name.clone().unwrap_or_else(|| "?".into()),
            place,
            user: user.clone().unwrap_or_else(|| uid.to_string()),
        },
        // A forwarded packet: its address is all that is known.
        None => Offender {
            name: format!("from {}", address_of(&event.source)),
            place,
            user: String::new(),
        },
    }
}

/// What a packet says of its sender.
pub(super) fn deed(event: &Event) -> Deed {
    let process = event.client.as_ref().map(|client| &client.process);
    Deed {
        pid: process
            .or(event.process.as_ref())
            .and_then(|process| process.pid),
        target: event
            .query
            .as_ref()
            .map_or_else(|| event.destination.clone(), |query| query.name.clone()),
        reason: event.reason.clone(),
    }
}
