//! Looking after the kill switch: which tunnel is vouched for, and who may use its exemption.

use std::time::SystemTime;

use leakguard_common::abi::{Role, Settings};

use super::{Guard, GuardError, Handshakes, Presence, tunnels};
use crate::host::cgroup2_root;
use crate::interfaces::{Interface, is_up};

/// What has become of the kill switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switched {
    /// Whether it is engaged now.
    pub engaged: bool,
    /// Why, as a sentence for people.
    pub message: String,
}

impl Guard {
    /// Whether there is anything that [`Guard::attend`] would look after.
    pub fn needs_attendance(&self) -> bool {
        self.vouches() || self.redirects() || self.policy.depends_on_cgroups()
    }

    /// Looks after what has no event, or a late one: says once more that the tunnel is up, or that it is not, and
    /// follows the cgroups of exempt endpoints. To be called a few times a second.
    ///
    /// Says whether the interfaces were read again.
    pub async fn attend(&mut self) -> Result<bool, GuardError> {
        let mut read = false;
        if let Some(Ok(tunnel)) = self.tunnels
            && !is_up(tunnel).await?
        {
            self.follow().await?;
            read = true;
        }
        self.vouch()?;
        if self.policy.depends_on_cgroups() {
            let exemptions = self.policy.exemptions(cgroup2_root().ok().as_deref());
            if exemptions != self.exemptions {
                log::info!("a cgroup of an endpoint has come or gone");
                self.exemptions = exemptions;
                self.enforcement.exempt(&self.exemptions)?;
            }
            self.leave_alone()?;
        }
        Ok(read)
    }

    /// Vouches no more for a tunnel that has gone down, if it was the only one: the rest takes a while to read where there
    /// are thousands of interfaces.
    pub(super) async fn disavow(&mut self) -> Result<(), GuardError> {
        let Some(Ok(tunnel)) = self.tunnels else {
            return Ok(());
        };
        let is_another = |interface: &Interface| {
            interface.role == Role::Tunnel && interface.up && interface.ifindex != tunnel
        };
        if self.vouches() && !self.interfaces.values().any(is_another) && !is_up(tunnel).await? {
            self.enforcement.vouch(None, true)?;
        }
        Ok(())
    }

    /// Takes note of handshakes.
    pub fn note_handshakes(&mut self, handshakes: Handshakes) -> Result<(), GuardError> {
        self.handshakes = handshakes;
        self.vouch()
    }

    /// What has become of the kill switch since the last call.
    pub fn take_switched(&mut self) -> Option<Switched> {
        self.switched.take()
    }

    /// Says which tunnel is up, where that counts. Who leaves at once vouches for nothing.
    pub(super) fn vouch(&mut self) -> Result<(), GuardError> {
        if !self.vouches() && !self.redirects() {
            return Ok(self.enforcement.vouch(None, false)?);
        }
        let now = SystemTime::now();
        // Only an agent knows of handshakes.
        let handshake_max = self
            .handshake_max
            .filter(|_| self.presence == Presence::Stays);
        let tunnels = tunnels::up(&self.interfaces, handshake_max, &self.handshakes, now);
        let tunnel = tunnels.as_ref().ok().copied();
        self.enforcement.vouch(tunnel, self.vouches())?;
        let same = match (&self.tunnels, &tunnels) {
            // Why it is down may change, and it grows older: no news.
            (Some(Err(_)), Err(_)) => true,
            (before, now) => before.as_ref() == Some(now),
        };
        if !same && self.vouches() {
            let message = match &tunnels {
                Ok(tunnel) => {
                    let name = self.interfaces.get(tunnel).map_or("?", |found| &found.name);
                    format!("the kill switch is not engaged: {name} is up")
                }
                Err(down) => format!("the kill switch is engaged: {down}"),
            };
            let engaged = tunnels.is_err();
            let level = if engaged {
                log::Level::Warn
            } else {
                log::Level::Info
            };
            log::log!(level, "{message}");
            self.switched = Some(Switched { engaged, message });
        }
        self.tunnels = Some(tunnels);
        Ok(())
    }

    fn vouches(&self) -> bool {
        self.policy.settings.kill_switch == Settings::TUNNEL_DOWN
            && self.presence == Presence::Stays
    }
}
