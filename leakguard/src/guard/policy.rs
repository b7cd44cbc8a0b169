//! What the programs and the second net are told: the configuration in the form of the kernel's tables, and back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use leakguard_common::abi::{
    Class, ClassSet, Endpoint as Admission, EndpointKey, LanKey, MAX_EXTRA_PORTS, Reason, Settings,
    SparedKey,
};

use super::redirection;
use crate::config::{
    Config, Endpoint, Fragments, Ipv6Policy, KillSwitch, KillSwitchMode, Mode, PacketSockets,
    Redirect, Spared,
};
use crate::kernel::Exemptions;
use crate::kernel::requirements::check_cgroup;
use crate::netfilter::{Action, Restriction, Ruleset};
use crate::prefix;

/// What is to be enforced.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    /// All but the namespace.
    pub(super) settings: Settings,
    endpoints: Vec<Endpoint>,
    lan: BTreeSet<LanKey>,
    spared: Vec<Spared>,
}

impl Policy {
    pub(super) fn of(config: &Config) -> Self {
        let KillSwitch { endpoints, lan, .. } = config.kill_switch();
        Self {
            settings: settings(config),
            endpoints: endpoints.clone(),
            lan: lan.iter().map(prefix::key).collect(),
            spared: config.spared().to_vec(),
        }
    }

    /// Whether an exemption depends on a cgroup, which comes and goes with its service.
    pub(super) fn depends_on_cgroups(&self) -> bool {
        let spared = |spared: &Spared| matches!(spared, Spared::Cgroup(_));
        self.endpoints
            .iter()
            .any(|endpoint| endpoint.cgroup.is_some())
            || self.spared.iter().any(spared)
    }

    /// Whose calls are not redirected now.
    pub(super) fn spared(&self, cgroup_root: Option<&Path>) -> BTreeSet<SparedKey> {
        redirection::spared(&self.spared, cgroup_root)
    }

    /// What is exempt now. An endpoint whose cgroup does not exist is exempt for nobody.
    pub(super) fn exemptions(&self, cgroup_root: Option<&Path>) -> Exemptions {
        let mut endpoints = BTreeMap::new();
        let mut fragments = BTreeMap::<EndpointKey, Option<Admission>>::new();
        for endpoint in &self.endpoints {
            let Some(admission) = admission(endpoint, cgroup_root) else {
                continue;
            };
            let key = endpoint_key(endpoint);
            endpoints.insert(key, admission);
            // Later fragments have no ports: they belong to whoever may send to the address, if that is one.
            fragments
                .entry(EndpointKey { port: 0, ..key })
                .and_modify(|known| *known = known.filter(|known| *known == admission))
                .or_insert(Some(admission));
        }
        endpoints.extend(
            fragments
                .into_iter()
                .filter_map(|(key, admission)| Some((key, admission?))),
        );
        Exemptions {
            endpoints,
            lan: self.lan.clone(),
        }
    }
}

fn admission(endpoint: &Endpoint, cgroup_root: Option<&Path>) -> Option<Admission> {
    let Endpoint { mark, cgroup, .. } = endpoint;
    let (cgroup_id, cgroup_level) = match cgroup {
        None => (0, 0),
        Some(cgroup) => {
            let below: PathBuf = cgroup.components().skip(1).collect();
            let level = u32::try_from(below.components().count()).ok()?;
            (check_cgroup(&cgroup_root?.join(below)).ok()?, level)
        }
    };
    Some(Admission {
        cgroup_id,
        cgroup_level,
        mark: *mark,
    })
}

fn endpoint_key(endpoint: &Endpoint) -> EndpointKey {
    let (family, address) = prefix::bytes(endpoint.address);
    EndpointKey::new(family, &address, endpoint.protocol.number(), endpoint.port)
}

/// What the programs are told, but for the namespace.
fn settings(config: &Config) -> Settings {
    let mut extra_ports = [0; MAX_EXTRA_PORTS];
    let mut extra_port_count = 0;
    for (slot, port) in extra_ports.iter_mut().zip(config.extra_ports()) {
        *slot = *port;
        extra_port_count += 1;
    }
    let KillSwitch {
        mode, dhcp, ndp, ..
    } = config.kill_switch();
    let mut exemptions = 0;
    for (exempt, bit) in [(*dhcp, Settings::DHCP), (*ndp, Settings::NDP)] {
        if exempt {
            exemptions |= bit;
        }
    }
    let mut options = 0;
    for (wanted, bit) in [
        (
            config.fragments() == Fragments::Strict,
            Settings::STRICT_FRAGMENTS,
        ),
        (config.report_shaped(), Settings::REPORT_SHAPES),
    ] {
        if wanted {
            options |= bit;
        }
    }
    let Redirect { v4, v6 } = config.redirect();
    Settings {
        mode: match config.mode() {
            Mode::Enforce => Settings::ENFORCE,
            Mode::Observe => Settings::OBSERVE,
        },
        exempt: config.exempt(),
        extra_port_count,
        extra_ports,
        kill_switch: match mode {
            KillSwitchMode::Off => Settings::KILL_SWITCH_OFF,
            KillSwitchMode::TunnelDown => Settings::TUNNEL_DOWN,
            KillSwitchMode::Always => Settings::ALWAYS,
        },
        ipv6: match config.ipv6() {
            Ipv6Policy::DnsOnly => Settings::DNS_ONLY,
            Ipv6Policy::BlockOffTunnel => Settings::BLOCK_OFF_TUNNEL,
        },
        exemptions,
        options,
        packet_sockets: match config.packet_sockets() {
            PacketSockets::Off => Settings::LEAVE_ALONE,
            PacketSockets::DenyNew => Settings::DENY_NEW,
            PacketSockets::Strict => Settings::STRICT,
        },
        rate_per_key: config.rate_per_key(),
        redirect: [
            (v4.is_some(), Settings::REDIRECT_V4),
            (v6.is_some(), Settings::REDIRECT_V6),
            (!config.spared().is_empty(), Settings::SPARE),
        ]
        .into_iter()
        .filter_map(|(wanted, bit)| wanted.then_some(bit))
        .sum(),
        redirect_v4: v4.map(|address| address.octets()).unwrap_or_default(),
        redirect_v6: v6.map(|address| address.octets()).unwrap_or_default(),
        ..Settings::default()
    }
}

/// What the programs are told of packet sockets; what they do not know they refuse.
pub fn packet_sockets(settings: &Settings) -> PacketSockets {
    match settings.packet_sockets {
        Settings::LEAVE_ALONE => PacketSockets::Off,
        Settings::STRICT => PacketSockets::Strict,
        _ => PacketSockets::DenyNew,
    }
}

/// The resolvers that the programs are told to redirect to, IPv4 first.
pub fn redirected_to(settings: &Settings) -> Vec<IpAddr> {
    [
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
    .collect()
}

/// The kill switch's mode that the programs are told; what they do not know they take for the strictest.
pub fn kill_switch_mode(settings: &Settings) -> KillSwitchMode {
    match settings.kill_switch {
        Settings::KILL_SWITCH_OFF => KillSwitchMode::Off,
        Settings::TUNNEL_DOWN => KillSwitchMode::TunnelDown,
        _ => KillSwitchMode::Always,
    }
}

/// The policy for IPv6 that the programs are told.
pub fn ipv6_policy(settings: &Settings) -> Ipv6Policy {
    match settings.ipv6 {
        Settings::DNS_ONLY => Ipv6Policy::DnsOnly,
        _ => Ipv6Policy::BlockOffTunnel,
    }
}

/// The second net's version of what the programs are told.
pub fn ruleset(settings: &Settings, exemptions: &Exemptions) -> Ruleset {
    let Settings {
        mode,
        exempt,
        extra_port_count,
        extra_ports,
        ..
    } = settings;
    let action = if *mode == Settings::OBSERVE {
        Action::Count
    } else {
        Action::Drop
    };
    let extra = usize::try_from(*extra_port_count).unwrap_or(MAX_EXTRA_PORTS);
    let restricted = match (kill_switch_mode(settings), ipv6_policy(settings)) {
        (KillSwitchMode::Off, Ipv6Policy::DnsOnly) => None,
        (KillSwitchMode::Off, Ipv6Policy::BlockOffTunnel) => Some(Reason::Ipv6),
        (KillSwitchMode::TunnelDown | KillSwitchMode::Always, _) => Some(Reason::KillSwitch),
    };
    let lan = exemptions.lan.iter().copied().filter_map(prefix::net);
    Ruleset {
        restriction: restricted.map(|reason| Restriction {
            reason,
            lan: lan.collect(),
        }),
        ..Ruleset::new(
            action,
            blocked(*exempt),
            extra_ports.get(..extra).unwrap_or(extra_ports),
        )
    }
}

/// The classes that are not exempt.
pub fn blocked(exempt: ClassSet) -> impl Iterator<Item = Class> {
    Class::ALL
        .iter()
        .copied()
        .filter(move |class| !exempt.contains(*class))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EndpointProtocol;

    fn endpoint(port: u16, mark: u32) -> Endpoint {
        Endpoint {
            address: "203.0.113.5".parse().unwrap(),
            port,
            protocol: EndpointProtocol::Udp,
            mark,
            cgroup: None,
        }
    }

    fn policy(endpoints: &[Endpoint]) -> Policy {
        Policy {
            settings: Settings::default(),
            endpoints: endpoints.to_vec(),
            lan: BTreeSet::new(),
            spared: Vec::new(),
        }
    }

    #[test]
    fn later_fragments_go_where_only_one_may_send() {
        let ports = |endpoints: &[Endpoint]| -> Vec<u16> {
            let exempt = policy(endpoints).exemptions(None);
            exempt.endpoints.keys().map(|key| key.port).collect()
        };
        assert_eq!(ports(&[endpoint(1194, 7)]), [0, 1194]);
        assert_eq!(
            ports(&[endpoint(1194, 7), endpoint(1195, 7)]),
            [0, 1194, 1195]
        );
        assert_eq!(ports(&[endpoint(1194, 7), endpoint(1195, 8)]), [1194, 1195]);
    }

    #[test]
    fn an_endpoint_whose_cgroup_is_not_there_is_not_exempt() {
        let mut by_cgroup = endpoint(1194, 7);
        by_cgroup.cgroup = Some("/no/such.service".into());
        let policy = policy(&[by_cgroup]);
        assert!(policy.depends_on_cgroups());
        assert_eq!(policy.exemptions(None), Exemptions::default());
        let root = Path::new("/nonexistent");
        assert_eq!(policy.exemptions(Some(root)), Exemptions::default());
    }
}
