//! What an uplink may carry while the kill switch is engaged, in the tables that the programs look it up in.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie, MapData, MapError};
use leakguard_common::abi::{Endpoint, EndpointKey, LanKey, map};

use super::KernelError;

/// The exempt destinations, in the form of the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exemptions {
    /// Endpoints of tunnels, and who may send there.
    pub endpoints: BTreeMap<EndpointKey, Endpoint>,
    /// Prefixes of the LAN.
    pub lan: BTreeSet<LanKey>,
}

/// What follows the length in a [`LanKey`].
pub(super) type Prefix = [u8; 20];

/// The two tables.
pub(super) struct ExemptionTables {
    pub(super) endpoints: HashMap<MapData, EndpointKey, Endpoint>,
    pub(super) lan: LpmTrie<MapData, Prefix, u32>,
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
        for prefix in present.lan.difference(&wanted.lan) {
            gone(self.lan.remove(&trie_key(prefix))).map_err(of(map::LAN))?;
        }
        for (key, endpoint) in &wanted.endpoints {
            if present.endpoints.get(key) != Some(endpoint) {
                self.endpoints
                    .insert(key, endpoint, 0)
                    .map_err(of(map::ENDPOINTS))?;
            }
        }
        for prefix in wanted.lan.difference(&present.lan) {
            self.lan
                .insert(&trie_key(prefix), 0, 0)
                .map_err(of(map::LAN))?;
        }
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
            lan: self
                .lan
                .keys()
                .map(|key| key.map(|key| lan_key(&key)))
                .collect::<Result<_, _>>()
                .map_err(of(map::LAN))?,
        })
    }
}

fn trie_key(prefix: &LanKey) -> Key<Prefix> {
    let LanKey {
        length,
        family,
        address,
    } = prefix;
    let mut data = [0; 20];
    data[..4].copy_from_slice(family);
    data[4..].copy_from_slice(address);
    Key::new(*length, data)
}

fn lan_key(key: &Key<Prefix>) -> LanKey {
    let data = key.data();
    let (mut family, mut address) = ([0; 4], [0; 16]);
    family.copy_from_slice(&data[..4]);
    address.copy_from_slice(&data[4..]);
    LanKey {
        length: key.prefix_len(),
        family,
        address,
    }
}

/// Somebody else may have been first.
fn gone(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        result => result,
    }
}

fn of(map: &'static str) -> impl FnOnce(MapError) -> KernelError {
    move |error| KernelError::map(map, error)
}
