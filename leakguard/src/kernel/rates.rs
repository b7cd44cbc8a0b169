//! What has been suppressed, by sender, destination and reason.

use std::collections::BTreeMap;

use aya::maps::{HashMap, MapData};
use leakguard_common::abi::{MAX_RATES, Rate, RateKey, map};

use super::KernelError;

/// The table of rates, to be read.
pub struct Rates(HashMap<MapData, RateKey, Rate>);

impl Rates {
    pub(super) fn new(table: HashMap<MapData, RateKey, Rate>) -> Self {
        Self(table)
    }

    /// Every rate. One that comes or goes meanwhile may be missing.
    pub fn read(&self) -> Result<BTreeMap<RateKey, Rate>, KernelError> {
        // Where the last key was taken out of the table, the kernel starts again from the first.
        let most = 2 * MAX_RATES as usize;
        self.0
            .iter()
            .take(most)
            .collect::<Result<_, _>>()
            .map_err(|error| KernelError::map(map::RATES, error))
    }
}
