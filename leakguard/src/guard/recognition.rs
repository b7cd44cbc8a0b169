//! What packets are known by besides their ports: the list of resolvers, and the tunnels that do not encrypt.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

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

    /// Makes the programs know packets by what is to be known, unless they are known to.
    pub(super) fn recognise(&mut self) -> Result<Followed, GuardError> {
        let wanted = recognition(&self.resolvers, &self.interfaces);
        if self.recognised.is(&wanted) {
            return Ok(Followed::default());
        }
        let start = Instant::now();
        let followed = self.enforcement.recognise(&wanted)?;
        self.recognised.now(wanted, start.elapsed());
        Ok(followed)
    }
}

/// What the programs are known to know packets by. Reading it back takes a system call for each entry, interfaces come in
/// bursts, and lists may be long.
#[derive(Debug, Default)]
pub(super) struct Recognised {
    known: Option<Recognition>,
    /// When somebody may have changed it meanwhile.
    doubtful: Option<Instant>,
}

impl Recognised {
    /// How many times as long as reading takes it is believed: reading takes a thousandth of the time.
    const BELIEF: u32 = 1000;
    /// However long that is.
    const LONGEST: Duration = Duration::from_mins(5);

    fn is(&self, wanted: &Recognition) -> bool {
        self.known.as_ref() == Some(wanted)
    }

    /// It is this; finding out took so long.
    fn now(&mut self, known: Recognition, took: Duration) {
        let belief = took.saturating_mul(Self::BELIEF).min(Self::LONGEST);
        self.known = Some(known);
        self.doubtful = Some(Instant::now() + belief);
    }

    /// Has it read back, if it has been believed for long enough.
    pub(super) fn doubt(&mut self) {
        if self.doubtful.is_none_or(|moment| moment <= Instant::now()) {
            self.known = None;
        }
    }
}

/// What packets are to be known by, with these interfaces.
pub(super) fn recognition(resolvers: &doh::Source, interfaces: &Interfaces) -> Recognition {
    let doh::Keys { addresses, names } = resolvers.keys();
    Recognition {
        doh_addresses: Arc::clone(addresses),
        doh_names: Arc::clone(names),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_to_read_is_read_back_rarely() {
        let mut recognised = Recognised::default();
        let known = Recognition::default();
        recognised.now(known.clone(), Duration::from_secs(1));
        recognised.doubt();
        assert!(recognised.is(&known));
        recognised.now(known.clone(), Duration::ZERO);
        recognised.doubt();
        assert!(!recognised.is(&known));
    }
}
