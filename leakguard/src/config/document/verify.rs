//! The table `[verify]`.

use hickory_proto::rr::Name;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::shape::unplaced;
use super::{Placed, placed};
use crate::config::verify::{interval, latency, mtu, name};
use crate::config::{self, VerifyLayer};

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Verify {
    interval: Option<Spanned<String>>,
    latency_max: Option<Spanned<String>>,
    mtu: Option<Spanned<Vec<i64>>>,
    signed_name: Option<Spanned<String>>,
    bogus_name: Option<Spanned<String>>,
}

impl Verify {
    /// The table that reads back as the same.
    pub(super) fn of(verify: &config::Verify) -> Self {
        let config::Verify {
            interval,
            latency_max,
            mtu,
            signed_name,
            bogus_name,
        } = verify;
        let name = |name: &Option<Name>| {
            let text = name.as_ref().map(Name::to_ascii).unwrap_or_default();
            Some(unplaced(text.trim_end_matches('.').to_owned()))
        };
        Self {
            interval: Some(unplaced(format!(
                "{}s",
                interval.map_or(0, |interval| interval.as_secs())
            ))),
            latency_max: Some(unplaced(format!("{}ms", latency_max.as_millis()))),
            mtu: Some(unplaced(vec![(*mtu.start()).into(), (*mtu.end()).into()])),
            signed_name: name(signed_name),
            bogus_name: name(bogus_name),
        }
    }

    pub(super) fn into_layer(self) -> Result<VerifyLayer, Placed> {
        let Self {
            interval: every,
            latency_max,
            mtu: bounds,
            signed_name,
            bogus_name,
        } = self;
        let named = |text: Spanned<String>| placed(&text, |text| name(text));
        Ok(VerifyLayer {
            interval: every
                .map(|text| placed(&text, |text| interval(text)))
                .transpose()?,
            latency_max: latency_max
                .map(|text| placed(&text, |text| latency(text)))
                .transpose()?,
            mtu: bounds
                .map(|bounds| placed(&bounds, |bounds| mtu(bounds)))
                .transpose()?,
            signed_name: signed_name.map(named).transpose()?,
            bogus_name: bogus_name.map(named).transpose()?,
        })
    }
}
