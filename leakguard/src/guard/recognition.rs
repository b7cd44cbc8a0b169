//! What packets are known by besides their ports: the list of resolvers, and the tunnels that do not encrypt.

use std::collections::BTreeSet;

use leakguard_common::abi::{EndpointKey, Role};

use super::{Guard, GuardError, Interfaces};
use crate::doh;
use crate::error::chain;
use crate::kernel::enforcement::Followed;
use crate::kernel::{Enforcement, Recognition};

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
    Recognition {
        doh_addresses,
        doh_names,
        carriers: carriers(interfaces),
    }
}

/// Makes the programs know what the permitted tunnels among these interfaces pack, and leaves the resolvers as they are.
pub(super) fn recognise_carriers(
    enforcement: &mut Enforcement,
    interfaces: &Interfaces,
) -> Result<Followed, GuardError> {
    Ok(enforcement.recognise(&Recognition {
        carriers: carriers(interfaces),
        ..enforcement.recognition()?
    })?)
}

fn carriers(interfaces: &Interfaces) -> BTreeSet<EndpointKey> {
    let tunnels = interfaces
        .values()
        .filter(|interface| interface.role == Role::Tunnel);
    tunnels
        .flat_map(|tunnel| tunnel.carries.iter().copied())
        .collect()
}
