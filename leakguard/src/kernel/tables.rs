//! Sets of prefixes in the kernel.

use std::collections::BTreeSet;

use aya::Pod;
use aya::maps::lpm_trie::Key;
use aya::maps::{LpmTrie, MapData, MapError};
use leakguard_common::abi::{LanKey, NAME_BYTES, NameKey};

use super::KernelError;

/// A key that the kernel takes for a length and as many bits.
pub(super) trait Prefix: Copy + Ord {
    /// What follows the length.
    type Bits: Pod;

    fn to_key(self) -> Key<Self::Bits>;

    fn from_key(key: &Key<Self::Bits>) -> Self;
}

impl Prefix for LanKey {
    type Bits = [u8; 20];

    fn to_key(self) -> Key<Self::Bits> {
        let mut bits = [0; 20];
        bits[..4].copy_from_slice(&self.family);
        bits[4..].copy_from_slice(&self.address);
        Key::new(self.length, bits)
    }

    fn from_key(key: &Key<Self::Bits>) -> Self {
        let bits = key.data();
        let (mut family, mut address) = ([0; 4], [0; 16]);
        family.copy_from_slice(&bits[..4]);
        address.copy_from_slice(&bits[4..]);
        Self {
            length: key.prefix_len(),
            family,
            address,
        }
    }
}

impl Prefix for NameKey {
    type Bits = [u8; NAME_BYTES];

    fn to_key(self) -> Key<Self::Bits> {
        Key::new(self.length, self.reversed)
    }

    fn from_key(key: &Key<Self::Bits>) -> Self {
        Self {
            length: key.prefix_len(),
            reversed: key.data(),
        }
    }
}

/// A set of prefixes: an `LPM_TRIE` whose values say nothing.
pub(super) struct PrefixSet<P: Prefix> {
    name: &'static str,
    table: LpmTrie<MapData, P::Bits, u32>,
}

impl<P: Prefix> PrefixSet<P> {
    pub(super) fn new(name: &'static str, table: LpmTrie<MapData, P::Bits, u32>) -> Self {
        Self { name, table }
    }

    /// What is in it.
    pub(super) fn read(&self) -> Result<BTreeSet<P>, KernelError> {
        self.table
            .keys()
            .map(|key| key.map(|key| P::from_key(&key)))
            .collect::<Result<_, _>>()
            .map_err(|error| KernelError::map(self.name, error))
    }

    pub(super) fn insert<'a>(
        &mut self,
        prefixes: impl IntoIterator<Item = &'a P>,
    ) -> Result<(), KernelError>
    where
        P: 'a,
    {
        for prefix in prefixes {
            self.table
                .insert(&prefix.to_key(), 0, 0)
                .map_err(|error| KernelError::map(self.name, error))?;
        }
        Ok(())
    }

    pub(super) fn remove<'a>(
        &mut self,
        prefixes: impl IntoIterator<Item = &'a P>,
    ) -> Result<(), KernelError>
    where
        P: 'a,
    {
        for prefix in prefixes {
            gone(self.table.remove(&prefix.to_key()))
                .map_err(|error| KernelError::map(self.name, error))?;
        }
        Ok(())
    }
}

/// Somebody else may have been first.
pub(super) fn gone(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        result => result,
    }
}
