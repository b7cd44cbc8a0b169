//! What was found, as it is printed and as JSON; the JSON form is a contract.

use serde::Serialize;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// A leak, or something that is not as it should be.
    Fail,
    /// The check itself could not be shown to work, which is a failure.
    Inconclusive,
    /// Not looked at; the reason says why.
    Skipped,
}

impl Verdict {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Inconclusive => "inconclusive",
            Self::Skipped => "skipped",
        }
    }

    /// Whether the whole run fails by it.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Fail | Self::Inconclusive)
    }
}

/// What a check is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// What is enforced.
    Enforcement,
    /// What leaves by uplinks.
    Leak,
    /// What comes back through the tunnel.
    Tunnel,
    /// Whom this host's programs ask.
    Host,
}

impl Part {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enforcement => "enforcement",
            Self::Leak => "leak",
            Self::Tunnel => "tunnel",
            Self::Host => "host",
        }
    }
}

/// One line of the result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What it is about.
    pub part: Part,
    /// What was checked; for leaks, the way in which packets were sent.
    pub name: String,
    /// The interface, if it is about one.
    pub interface: Option<String>,
    /// How it ended.
    pub result: Verdict,
    /// Why, in one sentence.
    pub reason: String,
}

impl Check {
    /// A check that is about no interface.
    pub(super) fn new(
        part: Part,
        name: impl Into<String>,
        result: Verdict,
        reason: impl Into<String>,
    ) -> Self {
        Self {
            part,
            name: name.into(),
            interface: None,
            result,
            reason: reason.into(),
        }
    }

    /// The same about an interface.
    #[must_use]
    pub(super) fn on(self, interface: impl Into<String>) -> Self {
        Self {
            interface: Some(interface.into()),
            ..self
        }
    }
}

/// A packet that has left by an uplink.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Leak {
    /// By which interface.
    pub interface: String,
    /// The class of what leaked.
    pub class: &'static str,
    /// How it was sent.
    pub way: &'static str,
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// `udp` or `tcp`.
    pub transport: &'static str,
    /// Where it was sent to.
    pub destination: String,
    /// The port that it came from; 0 for a fragment.
    pub source_port: u16,
    /// The text that stands in it and nowhere else. A connection's first packet carries none: know it by its ports.
    pub label: String,
    /// `capture`, or `sender`: the kernel told the sender that the device took it, because no capture sees it.
    pub seen_by: &'static str,
}

/// How long answers took.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// `cached` or `uncached`.
    pub names: &'static str,
    /// Questions per second.
    pub rate: u32,
    /// How many were asked.
    pub asked: usize,
    /// How many were answered.
    pub answered: usize,
    /// Half of the answers took no longer, in seconds.
    pub p50: f64,
    /// 95 of 100.
    pub p95: f64,
    /// 99 of 100.
    pub p99: f64,
}

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// What every label of this run begins with.
    pub run: String,
    /// `pass` or `fail`.
    pub result: Verdict,
    /// Line by line.
    pub checks: Vec<Check>,
    /// What has left, packet by packet.
    pub leaks: Vec<Leak>,
    /// How many packets were sent, or refused, to find out.
    pub canaries: usize,
    /// How many of the control's packets its capture saw.
    pub control_seen: usize,
    /// How many the control sent.
    pub control_sent: usize,
    /// Answer times of the tunnel's resolver.
    pub latency: Vec<Latency>,
    /// Every single answer time, in seconds: for histograms.
    #[serde(skip)]
    pub answer_times: Vec<f64>,
}

impl Report {
    /// Says whether anything failed, once all checks are in.
    pub(super) fn conclude(mut self) -> Self {
        self.leaks.sort();
        self.result = if self.checks.iter().any(|check| check.result.is_failure()) {
            Verdict::Fail
        } else {
            Verdict::Pass
        };
        self
    }

    /// Whether nothing failed.
    pub fn passed(&self) -> bool {
        self.result == Verdict::Pass
    }
}
