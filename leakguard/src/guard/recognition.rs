//! What packets are known by besides their ports: the list of resolvers, and the tunnels that do not encrypt.

use leakguard_common::abi::Role;

use super::{Guard, GuardError, Interfaces};
use crate::doh;
use crate::error::chain;
use crate::kernel::Recognition;

impl Guard {
    /// Reads the list of resolvers again if it has changed.
    pub(super) fn refresh_resolvers(&mut self) -> Result<(), GuardError> {
        match self.resolvers.refresh() {
            Ok(false) => {}
            Ok(true) => {
                self.enforcement.recognise(&self.recognition())?;
                log::info!("the list of resolvers has changed, and is known anew");
            }
            Err(error) => self.warn(format!(
                "the list of resolvers stays as it was: {}",
                chain(&error)
            )),
        }
        Ok(())
    }

    /// What the programs are to know packets by.
    pub(super) fn recognition(&self) -> Recognition {
        recognition(&self.resolvers, &self.interfaces)
    }
}

/// What packets are to be known by, with these interfaces.
pub(super) fn recognition(resolvers: &doh::Source, interfaces: &Interfaces) -> Recognition {
    let (doh_addresses, doh_names) = doh::keys(resolvers.resolvers());
    let tunnels = interfaces
        .values()
        .filter(|interface| interface.role == Role::Tunnel);
    Recognition {
        doh_addresses,
        doh_names,
        carriers: tunnels
            .flat_map(|tunnel| tunnel.carries.iter().copied())
            .collect(),
    }
}
