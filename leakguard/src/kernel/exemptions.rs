//! What an uplink may carry while the kill switch is engaged, in the tables that the programs look it up in.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{HashMap, MapData, MapError};
use leakguard_common::abi::{Endpoint, EndpointKey, LanKey, map};

use super::KernelError;
use super::tables::{PrefixSet, gone};

/// The exempt destinations, in the form of the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exemptions {
    /// Endpoints of tunnels, and who may send there.
    pub endpoints: BTreeMap<EndpointKey, Endpoint>,
    /// Prefixes of the LAN.
    pub lan: BTreeSet<LanKey>,
}

/// The two tables.
pub(super) struct ExemptionTables {
    pub(super) endpoints: HashMap<MapData, EndpointKey, Endpoint>,
    pub(super) lan: PrefixSet<LanKey>,
}

impl ExemptionTables {
    /// Exempts exactly this; says whether it was different before. What is too much is taken away first.
    pub(super) fn write(&mut self, wanted: &Exemptions) -> Result<bool, KernelError> {
        let present = self.read()?;
        if present == *wanted {
            return Ok(false);
        }
        for (key, endpoint) in &present.endpoints {
            if wanted.endpoints.get(key) != Some(endpoint) {
                gone(self.endpoints.remove(key)).map_err(of(map::ENDPOINTS))?;
            }
        }
        self.lan.remove(present.lan.difference(&wanted.lan))?;
        for (key, endpoint) in &wanted.endpoints {
            if present.endpoints.get(key) != Some(endpoint) {
                self.endpoints
                    .insert(key, endpoint, 0)
                    .map_err(of(map::ENDPOINTS))?;
            }
        }
        self.lan.insert(wanted.lan.difference(&present.lan))?;
        Ok(true)
    }

    /// What is exempt now.
    pub(super) fn read(&self) -> Result<Exemptions, KernelError> {
        Ok(Exemptions {
            endpoints: self
                .endpoints
                .iter()
                .collect::<Result<_, _>>()
                .map_err(of(map::ENDPOINTS))?,
            lan: self.lan.read()?,
        })
    }
}

fn of(map: &'static str) -> impl FnOnce(MapError) -> KernelError {
    move |error| KernelError::map(map, error)
}
