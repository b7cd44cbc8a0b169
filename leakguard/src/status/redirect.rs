//! Whom calls to port 53 are redirected to.

use std::collections::BTreeSet;
use std::net::IpAddr;

use leakguard_common::abi::{Role, Settings};
use serde::Serialize;

use crate::error::chain;
use crate::guard::{Interfaces, forwarded, redirected_to};
use crate::kernel::maps::Maps;
use crate::kernel::read_back::ReadBack;
use crate::kernel::{KernelError, Redirection};
use crate::netfilter::{self, Listings};

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
        let to = redirected_to(settings);
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

/// Looks whether forwarded questions are redirected too, if they should be.
pub(super) async fn examine(state: &ReadBack, listings: &mut Listings, causes: &mut Vec<String>) {
    let Some(wanted) = forwarded(&state.settings, &BTreeSet::new(), &Interfaces::new()) else {
        return;
    };
    let why = match netfilter::lacking_redirection(&wanted, listings).await {
        Ok(lacking) if lacking.is_empty() => return,
        Ok(lacking) => {
            let tables = lacking.join(" leakguard, ");
            format!("not complete: the nftables table {tables} leakguard")
        }
        Err(error) => chain(&error),
    };
    causes.push(format!(
        "forwarded questions are dropped instead of being redirected: {why}"
    ));
}
