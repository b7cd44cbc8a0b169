//! How many resolvers of DNS over HTTPS the programs know.

use leakguard_common::abi::NameKey;
use serde::Serialize;

use crate::kernel::maps::Maps;
use crate::kernel::{KernelError, Recognition};

/// What is in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Doh {
    /// Addresses and prefixes.
    pub addresses: usize,
    /// Names; each stands for those below it too.
    pub names: usize,
}

impl Doh {
    pub(super) fn read(maps: &Maps) -> Result<Self, KernelError> {
        let Recognition {
            doh_addresses,
            doh_names,
            ..
        } = maps.recognition()?;
        Ok(Self {
            addresses: doh_addresses.len(),
            // Each has a key of its own, and one for what is below it, unless it is too long for either.
            names: doh_names.iter().filter(|key| !is_of_below(key)).count(),
        })
    }
}

fn is_of_below(key: &NameKey) -> bool {
    let last = usize::try_from(key.length / 8)
        .ok()
        .and_then(|length| key.reversed.get(length.checked_sub(1)?));
    last == Some(&b'.')
}
