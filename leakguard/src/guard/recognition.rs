//! What packets are known by besides their ports: the list of resolvers, and the tunnels that do not encrypt.

use leakguard_common::abi::Role;

use super::{Guard, GuardError, Interfaces};
use crate::doh;
use crate::error::chain;
use crate::kernel::Recognition;
use crate::kernel::enforcement::Followed;

impl Guard {
    /// Reads the list of resolvers again if it has changed.
    pub(super) fn refresh_resolvers(&mut self) -> Result<(), GuardError> {
        match self.resolvers.refresh() {
            Ok(false) => {}
            Ok(true) => {
                self.recognise()?;
                log::info!("the list of resolvers has changed, and is known anew");
            }
            Err(error) => self.warn(format!(
                "the list of resolvers stays as it was: {}",
                chain(&error)
            )),
        }
        Ok(())
    }

    /// Makes the programs know packets by what is to be known, unless they are known to. Reading the tables takes a system
    /// call for each entry, and interfaces come in bursts.
    pub(super) fn recognise(&mut self) -> Result<Followed, GuardError> {
        let wanted = recognition(&self.resolvers, &self.interfaces);
        if self.recognised.as_ref() == Some(&wanted) {
            return Ok(Followed::default());
        }
        let followed = self.enforcement.recognise(&wanted)?;
        self.recognised = Some(wanted);
        Ok(followed)
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
