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
    outputs: Tally,
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

    /// The counters now.
    pub fn report(&self) -> HealthReport {
        let repairs = self.repairs.iter().zip(Part::ALL);
        HealthReport {
            repairs: repairs
                .map(|(counter, part)| (part.name().to_owned(), counter.load(Ordering::Relaxed)))
                .collect(),
            netlink_resyncs: self.netlink_resyncs.load(Ordering::Relaxed),
            outputs: self.outputs.report(),
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
    /// What became of events, by output.
    #[serde(default)]
    pub outputs: BTreeMap<String, OutputReport>,
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
