//! What is done to enforcement that no agent holds.

use std::path::Path;
use std::time::Duration;

use leakguard_common::abi::{Role, Settings};

use super::names::warn_of_names;
use super::policy::ruleset;
use super::{
    GuardError, Interfaces, apply_netfilter, device, hardening, of_role, recognition, redirection,
    release_netfilter,
};
use crate::error::chain;
use crate::interfaces::{RolePatterns, classify, snapshot};
use crate::kernel::pins::Pins;
use crate::kernel::read_back::ReadBack;
use crate::kernel::{self, Device, Enforcement, Exemptions};
use crate::netfilter::{self, Applied};

/// Lifts protection that no agent holds; says whether there was any.
pub async fn release(bpffs: &Path) -> Result<bool, GuardError> {
    let pins = Pins::at(bpffs);
    // What cannot be read is lifted all the same.
    let elsewhere = kernel::enforcement::is_elsewhere(&pins).unwrap_or(false);
    let snapshot = snapshot().await?;
    let interfaces = snapshot
        .links
        .values()
        .filter(|_| !elsewhere)
        .map(|link| link.ifindex);
    let released = kernel::enforcement::release(&pins, interfaces)?;
    if elsewhere {
        // The tables here are not of that state, and those there cannot be reached from here.
        log::warn!(
            "it was enforced in another network namespace, where the nftables tables stay: run \
             `for family in inet bridge netdev ip ip6; do nft delete table $family leakguard; done` there"
        );
        return Ok(released);
    }
    Ok(release_netfilter().await? || released)
}

/// Changes one interface's role in state that no agent holds; says whether it was different before.
pub async fn set_role(bpffs: &Path, name: &str, role: Role) -> Result<bool, GuardError> {
    let pins = Pins::at(bpffs);
    let Some(ReadBack { settings, maps, .. }) = ReadBack::open(&pins)? else {
        return Err(GuardError::NotEnforcing);
    };
    let exemptions = maps.exemptions()?;
    let snapshot = snapshot().await?;
    let mut interfaces = classify(&snapshot, &RolePatterns::default());
    if !interfaces.values().any(|interface| interface.name == name) {
        return Err(GuardError::NoInterface {
            name: name.to_owned(),
        });
    }
    warn_of_names(&Interfaces::new(), &interfaces);
    let mut enforcement = Enforcement::prepare(&pins)?;
    // Without the agent's configuration, what the kernel does is what counts.
    for interface in interfaces.values_mut() {
        interface.role = if interface.name == name {
            role
        } else {
            enforcement.role(interface.ifindex)
        };
    }
    carry_out(&mut enforcement, &interfaces, &settings, &exemptions).await
}

/// Makes the kernel do what these roles call for; says whether it was different before.
pub(crate) async fn carry_out(
    enforcement: &mut Enforcement,
    interfaces: &Interfaces,
    settings: &Settings,
    exemptions: &Exemptions,
) -> Result<bool, GuardError> {
    let devices: Vec<Device> = interfaces.values().map(device).collect();
    let permitted = enforcement.permit(&devices)?;
    let mut ruleset = ruleset(settings, exemptions);
    ruleset.permitted = of_role(interfaces, |interface| interface.role != Role::Uplink);
    let netfilter = apply_netfilter(&mut ruleset).await?;
    let strict = hardening::egress(settings, &ruleset, interfaces);
    let egress = netfilter::apply_egress(strict.as_ref()).await;
    let redirected = redirection::apply_forwarded(settings, interfaces).await;
    let recognised = recognition::recognise_carriers(enforcement, interfaces)?;
    let attached = enforcement.attach(&devices, Duration::MAX);
    let mut failures = [permitted.failures, attached.failures].concat();
    failures.extend(
        egress
            .as_ref()
            .err()
            .map(|error| format!("cannot put the netdev table in place: {}", chain(error))),
    );
    failures.extend(redirected.as_ref().err().cloned());
    let egress = matches!(egress, Ok(Applied::Replaced));
    let redirected = redirected == Ok(Applied::Replaced);
    if failures.is_empty() {
        let changes = [permitted.changes, recognised.changes, attached.changes];
        Ok(changes.iter().any(|changes| !changes.is_empty()) || netfilter || egress || redirected)
    } else {
        Err(GuardError::Incomplete { failures })
    }
}
