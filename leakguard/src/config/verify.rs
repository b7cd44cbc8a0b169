//! How `leakguard verify` judges, and how often the agent runs it.

use std::ops::RangeInclusive;
use std::time::Duration;

use hickory_proto::rr::Name;
use jiff::SignedDuration;

use super::RuleError;

/// The shortest interval: a run takes some seconds.
const SHORTEST: Duration = Duration::from_mins(1);
/// The least MTU that can be asked for, and the greatest.
const MTU_BOUNDS: RangeInclusive<i64> = 576..=65535;

/// What is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verify {
    /// How often the agent does it; never, if absent.
    pub interval: Option<Duration>,
    /// How long 95 of 100 answers out of the resolver's cache may take.
    pub latency_max: Duration,
    /// Between what the tunnel's MTU has to be.
    pub mtu: RangeInclusive<u32>,
    /// A name whose zone is signed; not asked for, if absent.
    pub signed_name: Option<Name>,
    /// A name whose signature is wrong; not asked for, if absent.
    pub bogus_name: Option<Name>,
}

impl Default for Verify {
    fn default() -> Self {
        Self {
            interval: None,
            latency_max: Duration::from_millis(50),
            mtu: 1280..=1500,
            signed_name: name("internetsociety.org").unwrap_or_default(),
            bogus_name: name("dnssec-failed.org").unwrap_or_default(),
        }
    }
}

/// What one source sets of [`Verify`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyLayer {
    /// See [`Verify::interval`].
    pub interval: Option<Option<Duration>>,
    /// See [`Verify::latency_max`].
    pub latency_max: Option<Duration>,
    /// See [`Verify::mtu`].
    pub mtu: Option<RangeInclusive<u32>>,
    /// See [`Verify::signed_name`].
    pub signed_name: Option<Option<Name>>,
    /// See [`Verify::bogus_name`].
    pub bogus_name: Option<Option<Name>>,
}

impl VerifyLayer {
    /// What holds when this layer lies over `below`.
    pub(super) fn over(self, below: Self) -> Self {
        Self {
            interval: self.interval.or(below.interval),
            latency_max: self.latency_max.or(below.latency_max),
            mtu: self.mtu.or(below.mtu),
            signed_name: self.signed_name.or(below.signed_name),
            bogus_name: self.bogus_name.or(below.bogus_name),
        }
    }

    /// Completes it with the defaults.
    pub(super) fn complete(self) -> Verify {
        let defaults = Verify::default();
        Verify {
            interval: self.interval.unwrap_or(defaults.interval),
            latency_max: self.latency_max.unwrap_or(defaults.latency_max),
            mtu: self.mtu.unwrap_or(defaults.mtu),
            signed_name: self.signed_name.unwrap_or(defaults.signed_name),
            bogus_name: self.bogus_name.unwrap_or(defaults.bogus_name),
        }
    }
}

/// Reads an interval; zero is never.
pub(super) fn interval(text: &str) -> Result<Option<Duration>, RuleError> {
    let interval = duration(text)?;
    if interval.is_zero() {
        Ok(None)
    } else if interval < SHORTEST {
        Err(RuleError::VerifyInterval {
            text: text.to_owned(),
        })
    } else {
        Ok(Some(interval))
    }
}

/// Reads a time that is not zero.
pub(super) fn latency(text: &str) -> Result<Duration, RuleError> {
    let latency = duration(text)?;
    if latency.is_zero() {
        return Err(RuleError::Duration {
            text: text.to_owned(),
        });
    }
    Ok(latency)
}

/// Reads the least and the greatest MTU.
pub(super) fn mtu(bounds: &[i64]) -> Result<RangeInclusive<u32>, RuleError> {
    match *bounds {
        [least, most]
            if MTU_BOUNDS.contains(&least) && (least..=*MTU_BOUNDS.end()).contains(&most) =>
        {
            u32::try_from(least).ok().zip(u32::try_from(most).ok())
        }
        _ => None,
    }
    .map(|(least, most)| least..=most)
    .ok_or(RuleError::Mtu)
}

/// Reads a name; none, if empty.
pub(super) fn name(text: &str) -> Result<Option<Name>, RuleError> {
    if text.is_empty() {
        return Ok(None);
    }
    let mut name = Name::from_ascii(text)
        .ok()
        .ok_or_else(|| RuleError::DomainName {
            text: text.to_owned(),
        })?;
    name.set_fqdn(true);
    Ok(Some(name))
}

fn duration(text: &str) -> Result<Duration, RuleError> {
    let parsed: Option<SignedDuration> = text.parse().ok();
    parsed
        .and_then(|parsed| Duration::try_from(parsed).ok())
        .ok_or_else(|| RuleError::Duration {
            text: text.to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_are_refused() {
        assert_eq!(interval("0s"), Ok(None));
        assert_eq!(interval("5m"), Ok(Some(Duration::from_mins(5))));
        for text in ["59s", "-5m", "soon", ""] {
            assert!(interval(text).is_err(), "{text}");
        }
        assert!(latency("0s").is_err());
        assert_eq!(mtu(&[1280, 1500]), Ok(1280..=1500));
        for bounds in [
            &[1280][..],
            &[1500, 1280],
            &[100, 1500],
            &[1280, 70_000],
            &[],
        ] {
            assert_eq!(mtu(bounds), Err(RuleError::Mtu), "{bounds:?}");
        }
        assert_eq!(name(""), Ok(None));
        assert!(name("a b..c").is_err());
    }
}
