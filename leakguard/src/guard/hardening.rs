//! What is done about sockets whose packets pass no TC program.

use leakguard_common::abi::{Role, Settings};

use super::{Guard, Interfaces, of_role, packet_sockets};
use crate::config::PacketSockets;
use crate::error::chain;
use crate::netfilter::{self, Applied, Egress, Ruleset};
use crate::sockets;

/// The netdev table that settings call for, if they do.
pub(super) fn egress(
    settings: &Settings,
    ruleset: &Ruleset,
    interfaces: &Interfaces,
) -> Option<Egress> {
    (packet_sockets(settings) == PacketSockets::Strict).then(|| {
        let uplinks = of_role(interfaces, |interface| interface.role == Role::Uplink);
        Egress::new(ruleset, uplinks)
    })
}

impl Guard {
    /// Brings the netdev table in line; says whether it was another before. Without it the rest still stands, so that a
    /// failure is reported and tried again.
    pub(super) async fn update_egress(&mut self) -> bool {
        let wanted = egress(&self.policy.settings, &self.ruleset, &self.interfaces);
        if self.egress_in_place && self.egress == wanted {
            return false;
        }
        self.egress = wanted;
        let applied = netfilter::apply_egress(self.egress.as_ref()).await;
        // Without nft there is no table that should not be there either; the second net says what is wrong.
        self.egress_in_place = applied.is_ok() || self.egress.is_none();
        match applied {
            Ok(applied) => applied == Applied::Replaced,
            Err(error) if self.egress_in_place => {
                log::debug!("cannot look for the netdev table: {}", chain(&error));
                false
            }
            Err(error) => {
                self.warn(format!(
                    "packet_sockets = \"strict\" is not in place, which takes Linux 5.16 with CONFIG_NETFILTER_EGRESS, and \
                     nft: {}",
                    chain(&error)
                ));
                false
            }
        }
    }

    /// Warns of what this kernel lacks for what is wanted, and of the sockets that are there already.
    pub(super) fn warn_of_open_sockets(&mut self) {
        if packet_sockets(&self.policy.settings) == PacketSockets::Off {
            return;
        }
        if !self.enforcement.can_judge_options() {
            self.warn(
                "this kernel takes no program that judges socket options: packet sockets can be made that bypass TC"
                    .to_owned(),
            );
        }
        for warning in sockets::inventory().warnings() {
            log::warn!("{warning}");
        }
    }
}
