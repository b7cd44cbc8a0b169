//! What the agent has had to mend and to read again since it started.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::change::Part;
use crate::outputs::{OutputReport, Tally};

/// The agent's own counters; every series is there from the start, at 0.
#[derive(Debug, Default)]
pub struct Health {
    repairs: [AtomicU64; Part::ALL.len()],
    netlink_resyncs: AtomicU64,
    resolver_restores: AtomicU64,
    outputs: Tally,
    clients: AtomicU64,
    clients_refused: AtomicU64,
    clients_dropped: AtomicU64,
}

/// A client that reads events, counted as long as this lives.
#[derive(Debug)]
pub(super) struct Present<'a>(&'a AtomicU64);

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Health {
    /// Nothing has happened yet, but to what these counters count.
    pub(crate) fn with_outputs(outputs: Tally) -> Self {
        Self {
            outputs,
            ..Self::default()
        }
    }

    /// The counters of the outputs.
    pub(crate) fn outputs(&self) -> &Tally {
        &self.outputs
    }

    /// Counts a repair.
    pub fn repaired(&self, part: Part) {
        for (counter, counted) in self.repairs.iter().zip(Part::ALL) {
            if counted == part {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Counts a time when netlink had lost events, and everything was read again.
    pub fn resynced(&self) {
        self.netlink_resyncs.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a file that says whom the host asks for names, and that was put back.
    pub fn resolver_restored(&self) {
        self.resolver_restores.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a client that reads events, until what is returned is dropped.
    pub(super) fn client_present(&self) -> Present<'_> {
        self.clients.fetch_add(1, Ordering::Relaxed);
        Present(&self.clients)
    }

    /// Counts a client for which there was no room.
    pub fn client_refused(&self) {
        self.clients_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a client that was dropped because it did not read.
    pub fn client_dropped(&self) {
        self.clients_dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// The counters now.
    pub fn report(&self) -> HealthReport {
        let repairs = self.repairs.iter().zip(Part::ALL);
        HealthReport {
            repairs: repairs
                .map(|(counter, part)| (part.name().to_owned(), counter.load(Ordering::Relaxed)))
                .collect(),
            netlink_resyncs: self.netlink_resyncs.load(Ordering::Relaxed),
            resolver_restores: self.resolver_restores.load(Ordering::Relaxed),
            outputs: self.outputs.report(),
            clients: ClientCounts {
                following: self.clients.load(Ordering::Relaxed),
                refused: self.clients_refused.load(Ordering::Relaxed),
                dropped: self.clients_dropped.load(Ordering::Relaxed),
            },
        }
    }
}

/// The counters at one time, as the agent answers them and `status --json` shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthReport {
    /// Repairs by part.
    pub repairs: BTreeMap<String, u64>,
    /// How often netlink lost events, so that everything was read again.
    pub netlink_resyncs: u64,
    /// How often a file of `leakguard resolver` was put back.
    #[serde(default)]
    pub resolver_restores: u64,
    /// What became of events, by output.
    #[serde(default)]
    pub outputs: BTreeMap<String, OutputReport>,
    /// Clients that read events.
    #[serde(default)]
    pub clients: ClientCounts,
}

/// Clients that read events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientCounts {
    /// Those that are there now.
    pub following: u64,
    /// Those for which there was no room.
    pub refused: u64,
    /// Those that were dropped because they did not read.
    pub dropped: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_there_from_the_start() {
        let health = Health::default();
        let report = health.report();
        assert_eq!(report.repairs.len(), Part::ALL.len());
        assert!(report.repairs.values().all(|&count| count == 0));
        health.repaired(Part::Tc);
        health.repaired(Part::Tc);
        health.resynced();
        let report = health.report();
        assert_eq!(report.repairs["tc"], 2);
        assert_eq!(report.repairs.values().sum::<u64>(), 2);
        assert_eq!(report.netlink_resyncs, 1);
    }
}
