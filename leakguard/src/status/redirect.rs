//! Whom calls to port 53 are redirected to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use leakguard_common::abi::{Role, Settings};
use serde::Serialize;

use crate::kernel::maps::Maps;
use crate::kernel::{KernelError, Redirection};

/// What is redirected, and what not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Redirect {
    /// The tunnel's resolvers, at most one of each family; calls of a family without one fail.
    pub to: Vec<IpAddr>,
    /// Whether a tunnel was up when somebody looked last, and has not gone since; otherwise calls fail.
    pub up: bool,
    /// How many addresses and networks are left alone, because they are on this host.
    pub near: usize,
    /// How many cgroups and processes are left alone.
    pub spared: usize,
}

impl Redirect {
    /// `None` if nothing is redirected.
    pub(super) fn read(settings: &Settings, maps: &Maps) -> Result<Option<Self>, KernelError> {
        let to: Vec<IpAddr> = [
            (
                Settings::REDIRECT_V4,
                Ipv4Addr::from(settings.redirect_v4).into(),
            ),
            (
                Settings::REDIRECT_V6,
                Ipv6Addr::from(settings.redirect_v6).into(),
            ),
        ]
        .into_iter()
        .filter_map(|(bit, address)| (settings.redirect & bit != 0).then_some(address))
        .collect();
        if to.is_empty() {
            return Ok(None);
        }
        let Redirection { near, spared } = maps.redirection()?;
        Ok(Some(Self {
            to,
            up: maps
                .liveness()?
                .held(|tunnel| maps.role(tunnel) == Role::Tunnel),
            near: near.len(),
            spared: spared.len(),
        }))
    }
}
