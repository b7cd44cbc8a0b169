//! Which calls to port 53 are left alone, in the tables that the programs look it up in.

use std::collections::BTreeSet;

use aya::maps::{HashMap, MapData, MapError};
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported};
use leakguard_common::abi::{LanKey, SparedKey, map};

use super::KernelError;
use super::tables::{PrefixSet, gone};

/// The contents of the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirection {
    /// Addresses of this host, and networks that do not leave it.
    pub near: BTreeSet<LanKey>,
    /// Whose calls are left alone.
    pub spared: BTreeSet<SparedKey>,
}

/// The two tables.
pub(super) struct RedirectionTables {
    pub(super) near: PrefixSet<LanKey>,
    pub(super) spared: HashMap<MapData, SparedKey, u32>,
}

impl RedirectionTables {
    /// Leaves exactly this alone; says whether it was different before.
    pub(super) fn write(&mut self, wanted: &Redirection) -> Result<bool, KernelError> {
        let present = self.read()?;
        if present == *wanted {
            return Ok(false);
        }
        self.near.remove(present.near.difference(&wanted.near))?;
        for key in present.spared.difference(&wanted.spared) {
            gone(self.spared.remove(key)).map_err(of_spared)?;
        }
        self.near.insert(wanted.near.difference(&present.near))?;
        for key in wanted.spared.difference(&present.spared) {
            self.spared.insert(key, 0, 0).map_err(of_spared)?;
        }
        Ok(true)
    }

    /// What is left alone now.
    pub(super) fn read(&self) -> Result<Redirection, KernelError> {
        Ok(Redirection {
            near: self.near.read()?,
            spared: self
                .spared
                .keys()
                .collect::<Result<_, _>>()
                .map_err(of_spared)?,
        })
    }
}

fn of_spared(error: MapError) -> KernelError {
    KernelError::map(map::SPARED, error)
}

/// Whether programs at `connect` and `sendmsg` may choose the error of what they refuse (`bpf_set_retval`, 6.1 and later).
pub(super) fn can_choose_error() -> bool {
    let found = is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval);
    found.unwrap_or_else(|error| {
        log::debug!("cannot find out whether programs may choose an error: {error}");
        false
    })
}
