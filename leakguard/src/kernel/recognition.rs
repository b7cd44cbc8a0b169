//! What the programs know packets by, besides their ports: resolvers of DNS over HTTPS, and tunnels that do not encrypt.

use std::collections::BTreeSet;
use std::sync::Arc;

use aya::maps::{Array, HashMap, MapData, MapError};
use leakguard_common::abi::{EndpointKey, LanKey, NameKey, map};
use leakguard_common::sieve::Sieve;

use super::KernelError;
use super::tables::{PrefixSet, gone};

/// The contents of the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recognition {
    /// Prefixes of resolvers.
    pub doh_addresses: Arc<BTreeSet<LanKey>>,
    /// Their names, as the table has them.
    pub doh_names: Arc<BTreeSet<NameKey>>,
    /// Where permitted tunnels that do not encrypt send what they have packed.
    pub carriers: BTreeSet<EndpointKey>,
}

/// The tables.
pub(super) struct RecognitionTables {
    pub(super) doh_addresses: PrefixSet<LanKey>,
    pub(super) doh_sieve: Array<MapData, Sieve>,
    pub(super) doh_names: PrefixSet<NameKey>,
    pub(super) carriers: HashMap<MapData, EndpointKey, u32>,
}

impl RecognitionTables {
    /// Recognises exactly this; says whether it was different before. What blocks comes first, what lets out last.
    pub(super) fn write(&mut self, wanted: &Recognition) -> Result<bool, KernelError> {
        let present = self.read()?;
        let sieve = sieve_of(&wanted.doh_addresses);
        if present == *wanted && self.doh_sieve.get(&0, 0).map_err(sieve_error)? == sieve {
            return Ok(false);
        }
        // While prefixes change, it lets none of the old and none of the new ones go.
        let mut both = sieve_of(&present.doh_addresses);
        both.add(&sieve);
        self.doh_sieve.set(0, both, 0).map_err(sieve_error)?;
        let carriers = |error| KernelError::map(map::CARRIERS, error);
        for key in present.carriers.difference(&wanted.carriers) {
            gone(self.carriers.remove(key)).map_err(carriers)?;
        }
        self.doh_addresses
            .insert(wanted.doh_addresses.difference(&present.doh_addresses))?;
        self.doh_names
            .insert(wanted.doh_names.difference(&present.doh_names))?;
        self.doh_addresses
            .remove(present.doh_addresses.difference(&wanted.doh_addresses))?;
        self.doh_sieve.set(0, sieve, 0).map_err(sieve_error)?;
        self.doh_names
            .remove(present.doh_names.difference(&wanted.doh_names))?;
        for key in wanted.carriers.difference(&present.carriers) {
            self.carriers.insert(key, 0, 0).map_err(carriers)?;
        }
        Ok(true)
    }

    /// What is recognised now.
    pub(super) fn read(&self) -> Result<Recognition, KernelError> {
        Ok(Recognition {
            doh_addresses: Arc::new(self.doh_addresses.read()?),
            doh_names: Arc::new(self.doh_names.read()?),
            carriers: self
                .carriers
                .keys()
                .collect::<Result<_, _>>()
                .map_err(|error| KernelError::map(map::CARRIERS, error))?,
        })
    }
}

/// The sieve of a set of prefixes.
fn sieve_of(prefixes: &BTreeSet<LanKey>) -> Sieve {
    let mut sieve = Sieve::EMPTY;
    for prefix in prefixes {
        sieve.admit(prefix);
    }
    sieve
}

fn sieve_error(error: MapError) -> KernelError {
    KernelError::map(map::DOH_SIEVE, error)
}
