//! What was enforced at one moment, to go back to.

use std::collections::BTreeMap;

use leakguard_common::abi::{Role, Settings};

use crate::guard::{Guard, GuardError, carry_out};
use crate::host::cgroup_by_id;
use crate::interfaces::{RolePatterns, classify, snapshot};
use crate::kernel::enforcement::other_versions;
use crate::kernel::pins::Pins;
use crate::kernel::read_back::ReadBack;
use crate::kernel::{Exemptions, Recognition, Redirection};

/// Everything that a change by `apply` can change, read back from the kernel.
#[derive(Clone, Debug)]
pub struct Saved {
    settings: Settings,
    exemptions: Exemptions,
    recognition: Recognition,
    redirection: Redirection,
    /// The id of the cgroup whose sockets are judged.
    cgroup: Option<u64>,
    /// By number and name: neither alone says that an interface is the same.
    roles: BTreeMap<(u32, String), Role>,
}

impl Saved {
    /// Refuses what another version enforces, before anything of this version is put next to it.
    pub fn check_version(pins: &Pins) -> Result<(), GuardError> {
        if other_versions(pins)?.is_empty() {
            return Ok(());
        }
        Err(GuardError::NoWayBack {
            why: "another version of leakguard has left it",
        })
    }

    /// Reads what is enforced now; `None` if nothing is. Call it before [`Guard::begin`].
    pub async fn read(guard: &Guard) -> Result<Option<Self>, GuardError> {
        if guard.is_fresh() {
            return Ok(None);
        }
        let state = ReadBack::open(guard.pins())?;
        let written = |state: &ReadBack| state.settings != Settings::default();
        // To take half a state for nothing would lift what is left of it.
        let Some(state) = state.filter(written) else {
            return Err(GuardError::NoWayBack {
                why: "it is incomplete",
            });
        };
        let links = snapshot().await?.links.into_values();
        Ok(Some(Self {
            settings: state.settings,
            exemptions: state.maps.exemptions()?,
            recognition: state.maps.recognition()?,
            redirection: state.maps.redirection()?,
            cgroup: state.cgroup.map(|attachment| attachment.cgroup_id),
            roles: links
                .map(|link| ((link.ifindex, link.name), state.maps.role(link.ifindex)))
                .collect(),
        }))
    }

    /// Makes the kernel enforce this again. What has come since is an uplink.
    pub async fn restore(&self, guard: &mut Guard) -> Result<(), GuardError> {
        let mut interfaces = classify(&snapshot().await?, &RolePatterns::default());
        for interface in interfaces.values_mut() {
            let known = self.roles.get(&(interface.ifindex, interface.name.clone()));
            interface.role = known.copied().unwrap_or(Role::Uplink);
        }
        let cgroup = self.cgroup.and_then(cgroup_by_id);
        // Without the former cgroup, the one that is judged now is better than none.
        let cgroup = cgroup.unwrap_or_else(|| guard.cgroup().to_owned());
        let enforcement = guard.enforcement();
        enforcement.exempt(&self.exemptions)?;
        enforcement.recognise(&self.recognition)?;
        enforcement.enforce_sockets(&cgroup, self.settings)?;
        enforcement.judge_options(&cgroup, &self.settings);
        enforcement.leave_alone(&self.redirection)?;
        enforcement.redirect(&cgroup, &self.settings);
        enforcement.record_owners(&cgroup);
        carry_out(enforcement, &interfaces, &self.settings, &self.exemptions)
            .await
            .map(drop)
    }
}
