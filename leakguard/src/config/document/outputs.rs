//! The tables `[events]` and `[metrics]`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::shape::unplaced;
use super::{Placed, placed};
use crate::config::outputs::{check_listen, listen, output_path};
use crate::config::{self, EventsLayer, Labels, MetricsLayer, OtlpEndpoint, RatePerKey, RuleError};

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Events {
    rate_per_key: Option<Spanned<i64>>,
    file: Option<Spanned<String>>,
    audit_log: Option<Spanned<String>>,
    journald: Option<bool>,
    otlp: Option<Spanned<String>>,
}

impl Events {
    /// The table that reads back as the same.
    pub(super) fn of(events: &config::Events, rate: RatePerKey) -> Self {
        let config::Events {
            file,
            audit_log,
            journald,
            otlp,
        } = events;
        let path = |path: &std::path::PathBuf| unplaced(path.display().to_string());
        Self {
            rate_per_key: Some(unplaced(rate.per_second().into())),
            file: file.as_ref().map(path),
            audit_log: audit_log.as_ref().map(path),
            journald: Some(*journald),
            otlp: otlp.as_ref().map(|otlp| unplaced(otlp.to_string())),
        }
    }

    pub(super) fn into_layer(self) -> Result<EventsLayer, Placed> {
        let Self {
            rate_per_key,
            file,
            audit_log,
            journald,
            otlp,
        } = self;
        let path = |text: Spanned<String>| placed(&text, |text| output_path(text));
        let file = file.map(path).transpose()?;
        if let (Some(file), Some(text)) = (&file, &audit_log) {
            placed(text, |text| {
                if output_path(text)? == *file {
                    Err(RuleError::OneFileForTwo { path: file.clone() })
                } else {
                    Ok(())
                }
            })?;
        }
        Ok(EventsLayer {
            file,
            audit_log: audit_log.map(path).transpose()?,
            journald,
            otlp: otlp
                .map(|text| placed(&text, |text| OtlpEndpoint::named(text)))
                .transpose()?,
            rate_per_key: rate_per_key
                .map(|number| placed(&number, |&number| RatePerKey::new(number)))
                .transpose()?,
        })
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Metrics {
    listen: Option<Spanned<String>>,
    public: Option<bool>,
    // Last: TOML writes a table behind the values.
    labels: Option<Spanned<BTreeMap<String, String>>>,
}

impl Metrics {
    /// The table that reads back as the same.
    pub(super) fn of(metrics: &config::Metrics) -> Self {
        let config::Metrics {
            listen,
            public,
            labels,
        } = metrics;
        Self {
            listen: listen.map(|address| unplaced(address.to_string())),
            public: Some(*public),
            labels: Some(unplaced(
                labels
                    .iter()
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect(),
            )),
        }
    }

    pub(super) fn into_layer(self) -> Result<MetricsLayer, Placed> {
        let Self {
            listen: address,
            public,
            labels,
        } = self;
        Ok(MetricsLayer {
            listen: address
                .map(|text| {
                    placed(&text, |text| {
                        let address = listen(text)?;
                        check_listen(address, public.unwrap_or_default())?;
                        Ok::<_, RuleError>(address)
                    })
                })
                .transpose()?,
            public,
            labels: labels
                .map(|table| {
                    placed(&table, |table| {
                        let mut labels = Labels::default();
                        for (name, value) in table {
                            labels.add(name, value)?;
                        }
                        Ok::<_, RuleError>(labels)
                    })
                })
                .transpose()?,
        })
    }
}
