//! What the agent's own runs have found so far, for Prometheus.

use leakguard_common::abi::Class;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, Opts};

use super::Report;

/// Answer times up to which answers are counted, in seconds.
const BUCKETS: [f64; 11] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
];

/// How a run can end.
const RESULTS: [&str; 3] = ["pass", "fail", "error"];

/// Counters that start with the agent; every series is there at 0.
#[derive(Clone, Debug)]
pub struct Verified {
    latency: Histogram,
    escaped: IntCounterVec,
    runs: IntCounterVec,
}

impl Verified {
    /// Nothing has been found yet.
    pub fn new() -> Result<Self, prometheus::Error> {
        let latency = Histogram::with_opts(
            HistogramOpts::new(
                "leakguard_resolver_latency_seconds",
                "How long the tunnel's resolver took to answer the agent's questions.",
            )
            .buckets(BUCKETS.to_vec()),
        )?;
        let escaped = IntCounterVec::new(
            Opts::new(
                "leakguard_probe_escaped_total",
                "Packets of the agent's own leak test that left by an uplink.",
            ),
            &["class"],
        )?;
        for class in Class::ALL {
            escaped.with_label_values(&[class.name()]).inc_by(0);
        }
        let runs = IntCounterVec::new(
            Opts::new(
                "leakguard_verify_runs_total",
                "Runs of the agent's own leak test; without any, nothing can have escaped it.",
            ),
            &["result"],
        )?;
        for result in RESULTS {
            runs.with_label_values(&[result]).inc_by(0);
        }
        Ok(Self {
            latency,
            escaped,
            runs,
        })
    }

    /// Counts what a run has found.
    pub(crate) fn note(&self, report: &Report) {
        self.runs.with_label_values(&[report.result.name()]).inc();
        for leak in &report.leaks {
            self.escaped.with_label_values(&[leak.class]).inc();
        }
        for &time in &report.answer_times {
            self.latency.observe(time);
        }
    }

    /// Counts a run that came to no end.
    pub(crate) fn note_error(&self) {
        self.runs.with_label_values(&["error"]).inc();
    }

    /// The histogram of answer times, and the two families of counters.
    pub(crate) fn families(&self) -> (Histogram, [IntCounterVec; 2]) {
        (
            self.latency.clone(),
            [self.escaped.clone(), self.runs.clone()],
        )
    }
}
