//! Redirection: which calls are left alone, because they reach this host, a network on it, or are of somebody who is spared.

use std::collections::BTreeSet;
use std::path::Path;

use ipnet::IpNet;
use leakguard_common::abi::{LanKey, MAX_NEAR, Role, Settings, SparedKey};

use super::{Guard, GuardError, Interfaces, of_role, redirected_to};
use crate::config::Spared;
use crate::error::chain;
use crate::host::cgroup2_root;
use crate::interfaces::{Address, addresses};
use crate::kernel::Redirection;
use crate::kernel::enforcement::Followed;
use crate::kernel::requirements::check_cgroup;
use crate::netfilter::{self, Applied};
use crate::prefix;

impl Guard {
    /// Whether calls are redirected.
    pub(super) fn redirects(&self) -> bool {
        self.policy.settings.redirect != 0
    }

    /// What is near this host, if that matters.
    pub(super) async fn read_near(
        &self,
        interfaces: &Interfaces,
    ) -> Result<BTreeSet<LanKey>, GuardError> {
        if !self.redirects() {
            return Ok(BTreeSet::new());
        }
        Ok(near(&addresses().await?, interfaces))
    }

    /// Redirects the calls that are to be redirected now, and no others.
    pub(super) fn redirect(&mut self) -> Result<Followed, GuardError> {
        let left_alone = self.leave_alone()?;
        let attached = self
            .enforcement
            .redirect(&self.cgroup, &self.policy.settings);
        Ok(Followed {
            changes: [left_alone.changes, attached.changes].concat(),
            ..attached
        })
    }

    /// Makes the programs leave alone what is to be left alone now, unless they are known to. Reading the tables takes a
    /// system call for each entry.
    pub(super) fn leave_alone(&mut self) -> Result<Followed, GuardError> {
        // Looking for the root reads the whole mount table.
        let depends = self.policy.depends_on_cgroups();
        let root = depends.then(cgroup2_root).and_then(Result::ok);
        let wanted = Redirection {
            near: self.near.clone(),
            spared: self.policy.spared(root.as_deref()),
        };
        if self.left_alone.as_ref() == Some(&wanted) {
            return Ok(Followed::default());
        }
        let followed = self.enforcement.leave_alone(&wanted)?;
        self.left_alone = Some(wanted);
        Ok(followed)
    }

    /// Brings the tables for forwarded questions in line; says whether they were others before. Without them such
    /// questions are dropped, so that a failure is reported and tried again.
    pub(super) async fn redirect_forwarded(&mut self) -> bool {
        let wanted = forwarded(&self.policy.settings, &self.near, &self.interfaces);
        if self.forwarded_in_place && self.forwarded == wanted {
            return false;
        }
        self.forwarded = wanted;
        let applied = netfilter::apply_redirection(self.forwarded.as_ref()).await;
        self.forwarded_in_place = applied.is_ok() || self.forwarded.is_none();
        match applied {
            Ok(applied) => applied == Applied::Replaced,
            Err(error) if self.forwarded_in_place => {
                log::debug!("cannot look for tables that redirect: {}", chain(&error));
                false
            }
            Err(error) => {
                self.warn(cannot_redirect(&error));
                false
            }
        }
    }
}

/// What is done about forwarded questions, if they are redirected. Where nothing is dropped, nothing is redirected.
pub fn forwarded(
    settings: &Settings,
    near: &BTreeSet<LanKey>,
    interfaces: &Interfaces,
) -> Option<netfilter::Redirection> {
    if settings.redirect == 0 || settings.mode == Settings::OBSERVE {
        return None;
    }
    let near: Vec<IpNet> = near.iter().copied().filter_map(prefix::net).collect();
    let of = |role| of_role(interfaces, |interface| interface.role == role);
    Some(netfilter::Redirection::new(
        redirected_to(settings).into_iter().collect(),
        &near,
        &of(Role::Local),
        &of(Role::Tunnel),
    ))
}

/// Redirects forwarded questions where no agent does; without it they are dropped, so that a failure is only told.
pub(super) async fn apply_forwarded(
    settings: &Settings,
    interfaces: &Interfaces,
) -> Result<Applied, String> {
    let near = match addresses().await {
        Ok(addresses) => near(&addresses, interfaces),
        Err(error) => return Err(cannot_redirect(&error)),
    };
    let wanted = forwarded(settings, &near, interfaces);
    match netfilter::apply_redirection(wanted.as_ref()).await {
        Err(error) if wanted.is_some() => Err(cannot_redirect(&error)),
        result => Ok(result.unwrap_or(Applied::Unchanged)),
    }
}

fn cannot_redirect(error: &(dyn std::error::Error + 'static)) -> String {
    format!(
        "forwarded questions are dropped instead of being redirected: {}",
        chain(error)
    )
}

/// Those of the listed that can be known now: a cgroup that does not exist spares nobody.
pub(super) fn spared(listed: &[Spared], cgroup_root: Option<&Path>) -> BTreeSet<SparedKey> {
    let key = |spared: &Spared| match spared {
        Spared::Process(name) => {
            let mut bytes = [0; 16];
            bytes
                .get_mut(..name.len())?
                .copy_from_slice(name.as_bytes());
            Some(SparedKey::process(bytes))
        }
        Spared::Cgroup(cgroup) => {
            let below = cgroup.strip_prefix("/").ok()?;
            let id = check_cgroup(&cgroup_root?.join(below)).ok()?;
            Some(SparedKey::cgroup(id))
        }
    };
    listed.iter().filter_map(key).collect()
}

/// The addresses of this host, and the networks on its local interfaces.
///
/// A link-local network is every link's: only the address in it is near.
fn near(addresses: &[Address], interfaces: &Interfaces) -> BTreeSet<LanKey> {
    let mut near = BTreeSet::new();
    for Address { ifindex, net } in addresses {
        near.insert(prefix::key(&IpNet::from(net.addr())));
        let local = interfaces
            .get(ifindex)
            .is_some_and(|interface| interface.role == Role::Local);
        let link_local = match net {
            IpNet::V4(net) => net.addr().is_link_local(),
            IpNet::V6(net) => net.addr().is_unicast_link_local(),
        };
        if local && !link_local {
            near.insert(prefix::key(&net.trunc()));
        }
    }
    // A host with more of them redirects what is beyond, rather than nothing.
    near.into_iter()
        .take(usize::try_from(MAX_NEAR).unwrap_or(usize::MAX))
        .collect()
}

#[cfg(test)]
mod tests {
    use leakguard_common::packet::LinkLayer;

    use super::*;
    use crate::interfaces::Interface;

    #[test]
    fn own_addresses_and_local_networks_are_near() {
        let interface = |ifindex, role| {
            let interface = Interface {
                ifindex,
                name: String::new(),
                role,
                reason: "",
                kind: None,
                link_layer: LinkLayer::Ip,
                up: true,
                carries: Vec::new(),
                passed_over: None,
            };
            (ifindex, interface)
        };
        let interfaces = Interfaces::from([
            interface(2, Role::Uplink),
            interface(3, Role::Local),
            interface(4, Role::Tunnel),
        ]);
        let address = |ifindex, net: &str| Address {
            ifindex,
            net: net.parse().unwrap(),
        };
        let found = near(
            &[
                address(2, "192.168.77.10/24"),
                address(3, "10.88.0.1/16"),
                address(3, "fe80::1/64"),
                address(4, "10.8.0.2/24"),
                address(9, "10.99.0.1/24"),
            ],
            &interfaces,
        );
        let expected = [
            "192.168.77.10/32",
            "10.88.0.1/32",
            "10.88.0.0/16",
            "fe80::1/128",
            "10.8.0.2/32",
            "10.99.0.1/32",
        ];
        let expected = expected.map(|net| prefix::key(&net.parse().unwrap()));
        assert_eq!(found, BTreeSet::from(expected));
    }

    #[test]
    fn a_process_is_spared_by_its_name_and_a_cgroup_only_if_it_is_there() {
        let listed = [
            Spared::Process("unbound".into()),
            Spared::Cgroup("/no/such.service".into()),
        ];
        let found = spared(&listed, Some(Path::new("/nonexistent")));
        let name = *b"unbound\0\0\0\0\0\0\0\0\0";
        assert_eq!(found, BTreeSet::from([SparedKey::process(name)]));
    }
}
