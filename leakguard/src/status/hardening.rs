//! What is done about sockets that send past TC, read back.

use std::collections::BTreeSet;

use leakguard_common::abi::Role;
use serde::Serialize;

use crate::config::PacketSockets;
use crate::error::chain;
use crate::guard::{packet_sockets, ruleset};
use crate::interfaces::Snapshot;
use crate::kernel::Exemptions;
use crate::kernel::read_back::ReadBack;
use crate::netfilter::{self, Egress, Listings, Permitted};
use crate::sockets::Inventory;

/// What is done about sockets that send past TC.
#[derive(Clone, Debug, Serialize)]
pub struct Hardening {
    /// `off`, `deny-new` or `strict`.
    pub packet_sockets: &'static str,
    /// The program that judges socket options: `attached`, `absent`, or `unneeded`.
    pub setsockopt: &'static str,
    /// The netdev table: `attached` on every uplink, `absent` on one at least, or `unneeded`.
    pub netdev: &'static str,
    /// Sockets of this namespace that send past TC; looked for only when the whole report is asked for.
    #[serde(flatten)]
    pub inventory: Inventory,
    /// How many packets the netdev table caught; part of the second net's report.
    #[serde(skip)]
    pub(super) caught: Option<u64>,
}

const ATTACHED: &str = "attached";
const ABSENT: &str = "absent";
const UNNEEDED: &str = "unneeded";

/// Looks at both parts.
pub(super) async fn examine(
    state: &ReadBack,
    exemptions: &Exemptions,
    snapshot: &Snapshot,
    listings: &mut Listings,
    causes: &mut Vec<String>,
) -> Hardening {
    let wanted = packet_sockets(&state.settings);
    let setsockopt = setsockopt(state, wanted);
    if setsockopt == ABSENT {
        causes.push(
            "packet sockets can be made that bypass TC: no program is attached to setsockopt of the cgroup"
                .to_owned(),
        );
    }
    let (netdev, caught) = netdev(state, exemptions, snapshot, listings, wanted).await;
    causes.extend(netdev.as_ref().err().map(|why| {
        format!(
            "packet sockets from before can bypass TC, although packet_sockets is strict: {why}"
        )
    }));
    Hardening {
        packet_sockets: wanted.name(),
        setsockopt,
        netdev: netdev.unwrap_or(ABSENT),
        inventory: Inventory::default(),
        caught,
    }
}

/// Where the program is that judges options. It has to be where local sockets are judged.
fn setsockopt(state: &ReadBack, wanted: PacketSockets) -> &'static str {
    if wanted == PacketSockets::Off {
        return UNNEEDED;
    }
    let cgroup = |found: &Option<crate::kernel::links::CgroupAttachment>| {
        found.as_ref().map(|attachment| attachment.cgroup_id)
    };
    match (cgroup(&state.setsockopt), cgroup(&state.cgroup)) {
        // Without the other one there is nothing to compare it with, and that is a cause of its own.
        (Some(_), None) => ATTACHED,
        (Some(found), Some(expected)) if found == expected => ATTACHED,
        _ => ABSENT,
    }
}

/// Whether the netdev table is in place on every uplink, or why not; and what it caught.
async fn netdev(
    state: &ReadBack,
    exemptions: &Exemptions,
    snapshot: &Snapshot,
    listings: &mut Listings,
    wanted: PacketSockets,
) -> (Result<&'static str, String>, Option<u64>) {
    if wanted != PacketSockets::Strict {
        return (Ok(UNNEEDED), None);
    }
    let table = match netfilter::read_egress(listings).await {
        Ok(Some(table)) => table,
        Ok(None) => {
            let missing = "there is no nftables table netdev leakguard, which takes Linux 5.16";
            return (Err(missing.to_owned()), None);
        }
        Err(error) => return (Err(chain(&error)), None),
    };
    let caught = table.counts.values().map(|count| count.packets).sum();
    let is_uplink = |ifindex: u32| state.here && state.maps.role(ifindex) == Role::Uplink;
    let links = snapshot.links.values();
    let (uplinks, unnamable): (BTreeSet<_>, Vec<_>) = links
        .filter(|link| is_uplink(link.ifindex))
        .map(|link| {
            Permitted::new(link.ifindex, &link.name, link.kind.as_deref())
                .map_err(|error| error.name)
        })
        .fold(
            (BTreeSet::new(), Vec::new()),
            |(mut fit, mut unfit), uplink| {
                match uplink {
                    Ok(uplink) => drop(fit.insert(uplink)),
                    Err(name) => unfit.push(name),
                }
                (fit, unfit)
            },
        );
    let expected = Egress::new(&ruleset(&state.settings, exemptions), BTreeSet::new());
    let lacking = table.lacking(&uplinks);
    let mut names: Vec<&str> = lacking.iter().map(|uplink| uplink.name()).collect();
    names.extend(unnamable.iter().map(String::as_str));
    let result = if !table.has_rules(&expected) {
        Err("the nftables table netdev leakguard is not complete".to_owned())
    } else if names.is_empty() {
        Ok(ATTACHED)
    } else {
        Err(format!(
            "the nftables table netdev leakguard is not attached to {}",
            names.join(", ")
        ))
    };
    (result, Some(caught))
}
