//! How many events each output was given, and how many it has not written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Where events go, besides clients of the control socket, who are told themselves what they miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Stdout,
    /// A file of JSON lines.
    File,
    /// The chained file.
    AuditLog,
    /// The journal.
    Journald,
    /// A receiver of OpenTelemetry logs.
    Otlp,
}

impl Output {
    /// Every output.
    pub const ALL: [Self; 5] = [
        Self::Stdout,
        Self::File,
        Self::AuditLog,
        Self::Journald,
        Self::Otlp,
    ];

    /// The name in notices, status and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::File => "file",
            Self::AuditLog => "audit_log",
            Self::Journald => "journald",
            Self::Otlp => "otlp",
        }
    }
}

/// The counters of one output.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    active: AtomicBool,
    delivered: AtomicU64,
    lagged: AtomicU64,
    failed: AtomicU64,
}

impl Counter {
    /// The output is used: from now on it is reported, also while it counts nothing.
    pub(crate) fn activate(&self) {
        self.active.store(true, Ordering::Relaxed);
    }

    /// Events were written.
    pub(crate) fn delivered(&self, events: u64) {
        self.delivered.fetch_add(events, Ordering::Relaxed);
    }

    /// Events came faster than the output takes them.
    pub(crate) fn lagged(&self, events: u64) {
        self.lagged.fetch_add(events, Ordering::Relaxed);
    }

    /// Events could not be written.
    pub(crate) fn failed(&self, events: u64) {
        self.failed.fetch_add(events, Ordering::Relaxed);
    }
}

/// The counters of every output.
#[derive(Debug, Default)]
pub struct Tally {
    counters: [Arc<Counter>; Output::ALL.len()],
}

impl Tally {
    /// Counts on with those that standard output has.
    pub(crate) fn with_stdout(stdout: Arc<Counter>) -> Self {
        let mut tally = Self::default();
        let [first, ..] = &mut tally.counters;
        *first = stdout;
        tally
    }

    /// The counters of one.
    pub(crate) fn counter(&self, output: Output) -> Arc<Counter> {
        let found = self.each().find(|&(known, _)| known == output);
        found
            .map(|(_, counter)| Arc::clone(counter))
            .unwrap_or_default()
    }

    /// The counters now, of those that are used.
    pub fn report(&self) -> BTreeMap<String, OutputReport> {
        self.each()
            .filter(|(_, counter)| counter.active.load(Ordering::Relaxed))
            .map(|(output, counter)| {
                let report = OutputReport {
                    delivered: counter.delivered.load(Ordering::Relaxed),
                    lagged: counter.lagged.load(Ordering::Relaxed),
                    failed: counter.failed.load(Ordering::Relaxed),
                };
                (output.name().to_owned(), report)
            })
            .collect()
    }

    fn each(&self) -> impl Iterator<Item = (Output, &Arc<Counter>)> {
        Output::ALL.into_iter().zip(&self.counters)
    }
}

/// What became of the events of one output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputReport {
    /// Written.
    pub delivered: u64,
    /// Not written, because events came faster than the output takes them.
    pub lagged: u64,
    /// Not written, because writing failed.
    pub failed: u64,
}

impl OutputReport {
    /// By outcome, as metrics name it.
    pub fn outcomes(&self) -> [(&'static str, u64); 3] {
        let Self {
            delivered,
            lagged,
            failed,
        } = *self;
        [
            ("delivered", delivered),
            ("lagged", lagged),
            ("failed", failed),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_reported_from_the_start_and_nothing_else() {
        let stdout = Arc::<Counter>::default();
        let tally = Tally::with_stdout(Arc::clone(&stdout));
        assert!(tally.report().is_empty());
        stdout.activate();
        stdout.delivered(2);
        let file = tally.counter(Output::File);
        file.activate();
        assert_eq!(tally.report()["stdout"].delivered, 2);
        assert_eq!(tally.report()["file"], OutputReport::default());
        file.lagged(3);
        file.failed(4);
        let outcomes = tally.report()["file"].outcomes();
        assert_eq!(outcomes, [("delivered", 0), ("lagged", 3), ("failed", 4)]);
        assert_eq!(tally.report().len(), 2);
    }
}
