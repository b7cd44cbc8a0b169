//! Everything that a report says, gathered line by line in bounded memory.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;

use super::record::{Line, Process, Record, read};
use super::timeline::{SERIES, Timeline};
use crate::event::{Container, address_of};
use crate::tally::Tally;

/// How many names of a sort are kept apart exactly.
pub(super) const NAMES: usize = 8192;

/// How many notices are shown; there are few in a sound life.
pub(super) const NOTICES: usize = 500;

/// How many unreadable lines are named.
pub(super) const NAMED: usize = 20;

/// How many gaps are named.
const GAPS: usize = 20;

/// The longest name that is kept: no process, query or unit is nearly as long.
const MAX_NAME: usize = 300;

/// What is said of a process besides its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sender {
    pub(super) pid: Option<u64>,
    pub(super) exe: String,
    pub(super) place: String,
    pub(super) last: String,
}

/// A notice.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) time: String,
    pub(super) kind: String,
    pub(super) subject: String,
    pub(super) message: String,
}

/// A line that could not be read.
#[derive(Clone, Debug)]
pub(super) struct Unreadable {
    pub(super) file: String,
    pub(super) line: u64,
    pub(super) why: &'static str,
}

/// Numbers that are missing between two events.
#[derive(Clone, Debug)]
pub(super) struct Gap {
    pub(super) file: String,
    pub(super) line: u64,
    pub(super) missing: u64,
}

/// What was gathered.
#[derive(Debug)]
pub struct Report {
    pub(super) files: Vec<String>,
    pub(super) lines: u64,
    pub(super) events: u64,
    pub(super) packets: u64,
    pub(super) suppressed: u64,
    pub(super) missed: u64,
    pub(super) torn: u64,
    pub(super) runs: u64,
    pub(super) gaps: u64,
    pub(super) lost: u64,
    pub(super) named_gaps: Vec<Gap>,
    pub(super) unreadable: u64,
    pub(super) named: Vec<Unreadable>,
    pub(super) first: Option<Timestamp>,
    pub(super) last: Option<Timestamp>,
    pub(super) processes: Tally<(String, String), Sender>,
    pub(super) users: Tally<String>,
    pub(super) units: Tally<String>,
    pub(super) containers: Tally<String>,
    pub(super) names: Tally<String>,
    pub(super) destinations: Tally<String>,
    pub(super) classes: Tally<String>,
    pub(super) verdicts: Tally<String>,
    pub(super) interfaces: Tally<String>,
    pub(super) timeline: Timeline,
    /// The classes in the order in which they came, which is that of the series.
    pub(super) series: Vec<String>,
    pub(super) notices: VecDeque<Told>,
    pub(super) notice_kinds: BTreeMap<String, u64>,
    before: Option<u64>,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            lines: 0,
            events: 0,
            packets: 0,
            suppressed: 0,
            missed: 0,
            torn: 0,
            runs: 0,
            gaps: 0,
            lost: 0,
            named_gaps: Vec::new(),
            unreadable: 0,
            named: Vec::new(),
            first: None,
            last: None,
            processes: Tally::new(NAMES),
            users: Tally::new(NAMES),
            units: Tally::new(NAMES),
            containers: Tally::new(NAMES),
            names: Tally::new(NAMES),
            destinations: Tally::new(NAMES),
            classes: Tally::new(NAMES),
            verdicts: Tally::new(NAMES),
            interfaces: Tally::new(NAMES),
            timeline: Timeline::default(),
            series: Vec::new(),
            notices: VecDeque::new(),
            notice_kinds: BTreeMap::new(),
            before: None,
        }
    }
}

impl Report {
    /// Begins another file.
    pub fn begin(&mut self, file: &str) {
        self.files.push(file.to_owned());
    }

    /// Takes in a line, which has this number in its file.
    pub fn add(&mut self, line: u64, bytes: &[u8]) {
        self.lines += 1;
        match read(bytes) {
            Ok(Line::Packet(record)) => {
                self.number(line, &record);
                self.events += 1;
                let seen = record.packets.unwrap_or(1);
                let suppressed = record.suppressed.unwrap_or_default();
                self.packets = self.packets.saturating_add(seen);
                self.suppressed = self.suppressed.saturating_add(suppressed);
                self.count(&record, seen.saturating_add(suppressed));
            }
            Ok(Line::Suppressed(record)) => {
                self.number(line, &record);
                let packets = record.packets.unwrap_or_default();
                self.suppressed = self.suppressed.saturating_add(packets);
                self.count(&record, packets);
            }
            Ok(Line::Notice(record)) => {
                self.number(line, &record);
                self.tell(*record);
            }
            Ok(Line::Missed(events)) => self.missed = self.missed.saturating_add(events),
            Ok(Line::Torn) => self.torn += 1,
            Ok(Line::Nothing) => {}
            Err(why) => self.refuse(line, why),
        }
    }

    /// Takes in that a line could not be read.
    pub fn refuse(&mut self, line: u64, why: &'static str) {
        self.unreadable += 1;
        if self.named.len() < NAMED {
            self.named.push(Unreadable {
                file: self.file(),
                line,
                why,
            });
        }
    }

    /// How many lines there were.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// How many of them could not be read.
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// Whether there is anything to report.
    pub fn is_empty(&self) -> bool {
        self.events == 0 && self.notice_kinds.is_empty() && self.suppressed == 0
    }

    fn file(&self) -> String {
        self.files.last().cloned().unwrap_or_default()
    }

    /// Looks for numbers that are missing. Each run of an agent counts from 1.
    fn number(&mut self, line: u64, record: &Record) {
        if let Some(time) = record.time.as_deref().and_then(|time| time.parse().ok()) {
            self.first = Some(self.first.map_or(time, |first: Timestamp| first.min(time)));
            self.last = Some(self.last.map_or(time, |last: Timestamp| last.max(time)));
        }
        // The audit log's own lines have none.
        let Some(seq) = record.seq.filter(|seq| *seq > 0) else {
            return;
        };
        let before = self.before.replace(seq);
        let missing = match before {
            Some(before) if seq > before => seq - before - 1,
            // Another run, which may have been going on before the record begins.
            Some(_) | None => {
                self.runs += 1;
                0
            }
        };
        if missing > 0 {
            self.gaps += 1;
            self.lost = self.lost.saturating_add(missing);
            if self.named_gaps.len() < GAPS {
                self.named_gaps.push(Gap {
                    file: self.file(),
                    line,
                    missing,
                });
            }
        }
    }

    fn count(&mut self, record: &Record, packets: u64) {
        let reason = name(record.reason.as_deref().unwrap_or("?"));
        let known = self.series.iter().position(|known| *known == reason);
        let series = known.unwrap_or_else(|| {
            if self.series.len() < SERIES - 1 {
                self.series.push(reason.clone());
                self.series.len() - 1
            } else {
                SERIES - 1
            }
        });
        let time = record.time.as_deref().and_then(|time| time.parse().ok());
        if let Some(time) = time.map(Timestamp::as_second) {
            self.timeline.add(time, series, packets);
        }
        self.classes.add(reason, packets, ());
        if let Some(verdict) = &record.verdict {
            self.verdicts.add(name(verdict), packets, ());
        }
        if let Some(interface) = &record.interface {
            let role = interface.role.as_deref().unwrap_or("?");
            let text = format!("{} ({role})", interface.name.as_deref().unwrap_or("?"));
            self.interfaces.add(name(&text), packets, ());
        }
        let destination = record.destination.as_deref().map(address_of);
        let asked = record.query.as_ref().and_then(|query| query.name.as_ref());
        if let Some(asked) = asked {
            self.names.add(name(asked), packets, ());
        }
        if let Some(destination) = &destination {
            self.destinations.add(name(destination), packets, ());
        }
        // Who asked a local resolver is whom people look for.
        let sender = record.client.as_deref().unwrap_or(record);
        let container = sender.container.as_ref().map(Container::called);
        if let Some(unit) = &sender.unit {
            self.units.add(name(unit), packets, ());
        }
        if let Some(container) = &container {
            self.containers.add(name(container), packets, ());
        }
        let detail = Sender {
            last: name(&asked.cloned().or(destination).unwrap_or_default()),
            place: name(
                &container
                    .or_else(|| sender.unit.clone())
                    .unwrap_or_default(),
            ),
            ..Sender::default()
        };
        if let Some(process) = &sender.process {
            self.count_process(process, packets, detail);
        } else {
            // A forwarded packet: its address is all that is known.
            let who = record.source.as_deref().map_or_else(
                || "unknown".to_owned(),
                |source| format!("forwarded from {}", address_of(source)),
            );
            self.processes
                .add((name(&who), String::new()), packets, detail);
        }
    }

    fn count_process(&mut self, process: &Process, packets: u64, detail: Sender) {
        let Process {
            pid,
            name: process,
            exe,
            uid,
            user,
        } = process;
        let user = user.clone().or_else(|| uid.map(|uid| uid.to_string()));
        let user = name(&user.unwrap_or_default());
        if !user.is_empty() {
            self.users.add(user.clone(), packets, ());
        }
        let detail = Sender {
            pid: *pid,
            exe: name(exe.as_deref().unwrap_or_default()),
            ..detail
        };
        let process = name(process.as_deref().unwrap_or("?"));
        self.processes.add((process, user), packets, detail);
    }

    fn tell(&mut self, record: Record) {
        let kind = name(record.kind.as_deref().unwrap_or_default());
        // Kinds are few; a file that has many is not ours.
        if self.notice_kinds.len() < NOTICES || self.notice_kinds.contains_key(&kind) {
            *self.notice_kinds.entry(kind.clone()).or_default() += 1;
        }
        if self.notices.len() == NOTICES {
            self.notices.pop_front();
        }
        let text = |field: Option<String>| name(&field.unwrap_or_default());
        self.notices.push_back(Told {
            time: text(record.time),
            kind,
            subject: [text(record.part), text(record.subject)].join(" "),
            message: text(record.message),
        });
    }
}

/// A name that is not too long to keep.
fn name(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_NAME);
    let mut name = text[..end].to_owned();
    if end < text.len() {
        name.push('…');
    }
    name
}
