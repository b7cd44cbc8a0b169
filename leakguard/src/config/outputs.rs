//! Where events and metrics go besides standard output and the control socket.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use hyper::Uri;

use super::RuleError;

/// Events of one sender, destination and reason that are reported in a second, unless the file says otherwise.
const DEFAULT_RATE: u32 = 10;
/// The greatest rate that can be asked for; more than any host reports.
const MAX_RATE: i64 = 1_000_000;
/// The most labels, and the most bytes of a label's name or value: each stands in every line of the page.
const MAX_LABELS: usize = 16;
const MAX_LABEL_BYTES: usize = 128;
/// The labels that leakguard's own metrics have.
const OWN_LABELS: [&str; 14] = [
    "class",
    "family",
    "hook",
    "interface",
    "kernel",
    "level",
    "outcome",
    "output",
    "part",
    "protocol",
    "result",
    "role",
    "verdict",
    "version",
];

/// Where events go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// A file of JSON lines.
    pub file: Option<PathBuf>,
    /// A file of JSON lines that are chained by their hashes.
    pub audit_log: Option<PathBuf>,
    /// Whether to the journal.
    pub journald: bool,
    /// A receiver of OpenTelemetry logs.
    pub otlp: Option<OtlpEndpoint>,
}

/// What one source sets of [`Events`], and of the rate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventsLayer {
    /// See [`Events::file`].
    pub file: Option<PathBuf>,
    /// See [`Events::audit_log`].
    pub audit_log: Option<PathBuf>,
    /// See [`Events::journald`].
    pub journald: Option<bool>,
    /// See [`Events::otlp`].
    pub otlp: Option<OtlpEndpoint>,
    /// See [`super::Config::rate_per_key`].
    pub rate_per_key: Option<RatePerKey>,
}

impl EventsLayer {
    /// What holds when this layer lies over `below`.
    pub(super) fn over(self, below: Self) -> Self {
        Self {
            file: self.file.or(below.file),
            audit_log: self.audit_log.or(below.audit_log),
            journald: self.journald.or(below.journald),
            otlp: self.otlp.or(below.otlp),
            rate_per_key: self.rate_per_key.or(below.rate_per_key),
        }
    }

    /// Completes it with the defaults.
    pub(super) fn complete(self) -> Result<(Events, RatePerKey), RuleError> {
        let Self {
            file,
            audit_log,
            journald,
            otlp,
            rate_per_key,
        } = self;
        if let (Some(file), Some(audit_log)) = (&file, &audit_log)
            && file == audit_log
        {
            return Err(RuleError::OneFileForTwo { path: file.clone() });
        }
        let events = Events {
            file,
            audit_log,
            journald: journald.unwrap_or_default(),
            otlp,
        };
        Ok((events, rate_per_key.unwrap_or_default()))
    }
}

/// What is measured for Prometheus, and who may read it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Where the page is served; nowhere, if absent.
    pub listen: Option<SocketAddr>,
    /// Whether that may be an address that other hosts reach.
    pub public: bool,
    /// What is added to every series, and to what OpenTelemetry is told.
    pub labels: Labels,
}

/// What one source sets of [`Metrics`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetricsLayer {
    /// See [`Metrics::listen`].
    pub listen: Option<SocketAddr>,
    /// See [`Metrics::public`].
    pub public: Option<bool>,
    /// See [`Metrics::labels`].
    pub labels: Option<Labels>,
}

impl MetricsLayer {
    /// What holds when this layer lies over `below`.
    pub(super) fn over(self, below: Self) -> Self {
        Self {
            listen: self.listen.or(below.listen),
            public: self.public.or(below.public),
            labels: self.labels.or(below.labels),
        }
    }

    /// Completes it with the defaults.
    pub(super) fn complete(self) -> Result<Metrics, RuleError> {
        let Self {
            listen,
            public,
            labels,
        } = self;
        let public = public.unwrap_or_default();
        if let Some(address) = listen {
            check_listen(address, public)?;
        }
        Ok(Metrics {
            listen,
            public,
            labels: labels.unwrap_or_default(),
        })
    }
}

/// Refuses what other hosts could read, unless that is wanted.
pub(super) fn check_listen(address: SocketAddr, public: bool) -> Result<(), RuleError> {
    if public || address.ip().to_canonical().is_loopback() {
        Ok(())
    } else {
        Err(RuleError::PublicMetrics { address })
    }
}

/// An address and a port to serve metrics at.
pub(super) fn listen(text: &str) -> Result<SocketAddr, RuleError> {
    text.parse().ok().ok_or_else(|| RuleError::Listen {
        text: text.to_owned(),
    })
}

/// The whole path of a file that events are written to.
pub(super) fn output_path(text: &str) -> Result<PathBuf, RuleError> {
    let path = Path::new(text);
    if path.is_absolute() && path.file_name().is_some() && !text.ends_with('/') {
        Ok(path.to_owned())
    } else {
        Err(RuleError::OutputPath {
            text: text.to_owned(),
        })
    }
}

/// Events of one sender, destination and reason that are reported in a second; 0 for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RatePerKey(u32);

impl RatePerKey {
    /// Checks a number.
    pub(super) fn new(number: i64) -> Result<Self, RuleError> {
        let refused = RuleError::Rate {
            number,
            max: MAX_RATE,
        };
        if !(0..=MAX_RATE).contains(&number) {
            return Err(refused);
        }
        u32::try_from(number).map(Self).ok().ok_or(refused)
    }

    /// The number.
    pub fn per_second(self) -> u32 {
        self.0
    }
}

impl Default for RatePerKey {
    fn default() -> Self {
        Self(DEFAULT_RATE)
    }
}

/// Where OpenTelemetry logs are sent: the whole URL, with the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpEndpoint(String);

impl OtlpEndpoint {
    /// The path of logs, as the protocol has it.
    const PATH: &'static str = "/v1/logs";

    /// Reads the base of a receiver, such as `http://127.0.0.1:4318`, or the whole URL.
    pub(super) fn named(text: &str) -> Result<Self, RuleError> {
        let refused = || RuleError::Otlp {
            text: text.to_owned(),
        };
        let uri: Uri = text.parse().ok().ok_or_else(refused)?;
        let host = uri.host().filter(|host| !host.is_empty());
        if uri.scheme_str() != Some("http") || host.is_none() || uri.query().is_some() {
            return Err(refused());
        }
        let base = text.trim_end_matches('/');
        Ok(Self(if base.ends_with(Self::PATH) {
            base.to_owned()
        } else {
            format!("{base}{}", Self::PATH)
        }))
    }

    /// The URL.
    pub fn url(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OtlpEndpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Labels that tell this host from others, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// Adds one.
    pub(crate) fn add(&mut self, name: &str, value: &str) -> Result<(), RuleError> {
        let mut characters = name.chars();
        let well_formed = characters
            .next()
            .is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
            && characters.all(|other| other.is_ascii_alphanumeric() || other == '_');
        if !well_formed || name.starts_with("__") || name.len() > MAX_LABEL_BYTES {
            return Err(RuleError::LabelName {
                name: name.to_owned(),
            });
        }
        if OWN_LABELS.contains(&name) {
            return Err(RuleError::OwnLabel {
                name: name.to_owned(),
            });
        }
        if value.is_empty() || value.len() > MAX_LABEL_BYTES || value.contains(char::is_control) {
            return Err(RuleError::LabelValue {
                name: name.to_owned(),
                max: MAX_LABEL_BYTES,
            });
        }
        if self.0.len() == MAX_LABELS {
            return Err(RuleError::TooManyLabels { max: MAX_LABELS });
        }
        self.0.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_base_or_a_whole_url() {
        for (text, url) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/logs"),
            ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/logs"),
            ("http://[::1]:4318/v1/logs", "http://[::1]:4318/v1/logs"),
            ("http://otel/base", "http://otel/base/v1/logs"),
        ] {
            let endpoint = OtlpEndpoint::named(text).unwrap();
            assert_eq!(endpoint.url(), url);
            assert_eq!(OtlpEndpoint::named(url).unwrap(), endpoint);
        }
        for text in [
            "",
            "127.0.0.1:4318",
            "https://otel:4318",
            "http://",
            "http://x/?q",
            "ftp://x",
        ] {
            assert!(OtlpEndpoint::named(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_loopback_is_served_unless_public() {
        for address in [
            "127.0.0.1:1",
            "127.9.9.9:1",
            "[::1]:1",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(check_listen(address.parse().unwrap(), false).is_ok());
        }
        for address in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[::ffff:192.0.2.1]:1"] {
            let address = address.parse().unwrap();
            assert!(check_listen(address, false).is_err(), "{address}");
            assert!(check_listen(address, true).is_ok());
        }
    }

    #[test]
    fn labels_are_bounded_and_none_of_leakguards_own() {
        let mut labels = Labels::default();
        for name in ["", "9a", "a-b", "__name__", "ä", "role"] {
            assert!(labels.add(name, "x").is_err(), "{name}");
        }
        for value in ["", "a\nb", &"x".repeat(129)] {
            assert!(labels.add("node", value).is_err(), "{value}");
        }
        for number in 0..16 {
            labels.add(&format!("label{number}"), "x").unwrap();
        }
        assert!(labels.add("label16", "x").is_err());
    }
}
