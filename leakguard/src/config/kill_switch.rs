//! The kill switch and the policy for IPv6: what uplinks carry besides DNS.

use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use jiff::SignedDuration;
use leakguard_common::abi::{Class, MAX_ENDPOINTS, MAX_LAN};
use leakguard_common::packet::protocol;
use leakguard_common::verdict::{ClassPorts, ports};

use super::RuleError;
use super::names::lookup;

/// When uplinks carry nothing but what is exempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum KillSwitchMode {
    /// Never
    #[default]
    Off,
    /// While no tunnel is up; without an agent, which could tell, always
    TunnelDown,
    /// Always
    Always,
}

impl KillSwitchMode {
    /// Every mode.
    pub const ALL: &'static [Self] = &[Self::Off, Self::TunnelDown, Self::Always];

    /// The name used in the configuration and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::TunnelDown => "tunnel-down",
            Self::Always => "always",
        }
    }

    /// The mode of this name.
    pub fn named(name: &str) -> Result<Self, RuleError> {
        lookup("kill switch mode", Self::ALL, Self::name, name)
    }
}

/// What uplinks carry of IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Ipv6Policy {
    /// All but DNS, as of IPv4
    #[default]
    DnsOnly,
    /// Nothing but what the kill switch would let out
    BlockOffTunnel,
}

impl Ipv6Policy {
    /// Every policy.
    pub const ALL: &'static [Self] = &[Self::DnsOnly, Self::BlockOffTunnel];

    /// The name used in the configuration and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DnsOnly => "dns-only",
            Self::BlockOffTunnel => "block-off-tunnel",
        }
    }

    /// The policy of this name.
    pub fn named(name: &str) -> Result<Self, RuleError> {
        lookup("IPv6 policy", Self::ALL, Self::name, name)
    }
}

/// A transport that tunnels use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndpointProtocol {
    /// UDP
    #[default]
    Udp,
    /// TCP
    Tcp,
}

impl EndpointProtocol {
    /// Every one.
    pub const ALL: &'static [Self] = &[Self::Udp, Self::Tcp];

    /// The name used in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Result<Self, RuleError> {
        lookup("protocol", Self::ALL, Self::name, name)
    }

    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Udp => protocol::UDP,
            Self::Tcp => protocol::TCP,
        }
    }
}

/// Where a tunnel's own packets go, and by what they are known; at least one of mark and cgroup is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The transport.
    pub protocol: EndpointProtocol,
    /// The socket mark (`wg set … fwmark`); 0 for any.
    pub mark: u32,
    /// The cgroup that the sender is in or below, from the root of the cgroup2 hierarchy on.
    pub cgroup: Option<PathBuf>,
}

impl Endpoint {
    /// Checks that only the tunnel can use the endpoint.
    pub(super) fn check(&self) -> Result<(), RuleError> {
        let Self { mark, cgroup, .. } = self;
        match cgroup {
            None if *mark == 0 => Err(RuleError::OpenEndpoint),
            Some(cgroup) if !is_cgroup(cgroup) => Err(RuleError::EndpointCgroup {
                cgroup: cgroup.display().to_string(),
            }),
            _ => Ok(()),
        }
    }

    /// The class that the endpoint's packets would be taken for.
    fn class(&self) -> Option<Class> {
        let Self { port, protocol, .. } = self;
        Class::ALL.iter().copied().find(|class| {
            ports(*class).is_some_and(|of| {
                let ClassPorts { tcp, udp, .. } = of;
                of.port == *port
                    && match protocol {
                        EndpointProtocol::Udp => udp,
                        EndpointProtocol::Tcp => tcp,
                    }
            })
        })
    }
}

/// An absolute path below the root, which every process is in.
pub(super) fn is_cgroup(path: &Path) -> bool {
    let mut components = path.components();
    components.next() == Some(Component::RootDir)
        && path.components().nth(1).is_some()
        && components.all(|component| matches!(component, Component::Normal(_)))
}

/// What uplinks carry while the kill switch is engaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KillSwitch {
    /// When it is engaged.
    pub mode: KillSwitchMode,
    /// Where tunnels lead.
    pub endpoints: Vec<Endpoint>,
    /// Whether this host may ask for its addresses.
    pub dhcp: bool,
    /// Whether IPv6 may find its neighbours and routers.
    pub ndp: bool,
    /// What else may be reached; none of them overlaps another.
    pub lan: Vec<IpNet>,
    /// How old the last handshake of a WireGuard tunnel that is up may be.
    pub handshake_max: Option<Duration>,
}

/// The kill switch's settings of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KillSwitchLayer {
    /// See [`KillSwitch::mode`].
    pub mode: Option<KillSwitchMode>,
    /// See [`KillSwitch::endpoints`].
    pub endpoints: Option<Vec<Endpoint>>,
    /// See [`KillSwitch::dhcp`].
    pub dhcp: Option<bool>,
    /// See [`KillSwitch::ndp`].
    pub ndp: Option<bool>,
    /// See [`KillSwitch::lan`].
    pub lan: Option<Vec<IpNet>>,
    /// See [`KillSwitch::handshake_max`].
    pub handshake_max: Option<Option<Duration>>,
}

impl KillSwitchLayer {
    /// What holds when this layer lies over `below`.
    pub(super) fn over(self, below: Self) -> Self {
        Self {
            mode: self.mode.or(below.mode),
            endpoints: self.endpoints.or(below.endpoints),
            dhcp: self.dhcp.or(below.dhcp),
            ndp: self.ndp.or(below.ndp),
            lan: self.lan.or(below.lan),
            handshake_max: self.handshake_max.or(below.handshake_max),
        }
    }

    /// Completes it with the defaults; `blocked` are the classes that no exemption lets out.
    pub(super) fn complete(self, blocked: impl Fn(Class) -> bool) -> Result<KillSwitch, RuleError> {
        let Self {
            mode,
            endpoints,
            dhcp,
            ndp,
            lan,
            handshake_max,
        } = self;
        let endpoints = endpoints.unwrap_or_default();
        for (index, endpoint) in endpoints.iter().enumerate() {
            let Endpoint {
                address,
                port,
                protocol,
                ..
            } = endpoint;
            if let Some(class) = endpoint.class().filter(|class| blocked(*class)) {
                return Err(RuleError::EndpointOfClass { port: *port, class });
            }
            let same = |other: &&Endpoint| {
                (other.address, other.port, other.protocol) == (*address, *port, *protocol)
            };
            if endpoints.iter().take(index).any(|other| same(&other)) {
                return Err(RuleError::EndpointTwice {
                    address: *address,
                    port: *port,
                });
            }
        }
        if endpoints.len() > MAX_ENDPOINTS as usize {
            return Err(RuleError::TooManyEndpoints);
        }
        let lan = merged(&lan.unwrap_or_default());
        if lan.len() > MAX_LAN as usize {
            return Err(RuleError::TooManyPrefixes);
        }
        Ok(KillSwitch {
            mode: mode.unwrap_or_default(),
            endpoints,
            dhcp: dhcp.unwrap_or(true),
            ndp: ndp.unwrap_or(true),
            lan,
            handshake_max: handshake_max.unwrap_or_default(),
        })
    }
}

/// Reads a prefix, or an address that stands for itself.
pub(super) fn prefix(text: &str) -> Result<IpNet, RuleError> {
    let invalid = || RuleError::Prefix {
        text: text.to_owned(),
    };
    let net = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_no_address) => text.parse::<IpNet>().ok().ok_or_else(invalid)?.trunc(),
    };
    if net.prefix_len() == 0 {
        return Err(invalid());
    }
    Ok(net)
}

/// Reads a time such as `3m` or `180s`; zero is none.
pub(super) fn handshake_max(text: &str) -> Result<Option<Duration>, RuleError> {
    let invalid = || RuleError::Duration {
        text: text.to_owned(),
    };
    let parsed: SignedDuration = text.parse().ok().ok_or_else(invalid)?;
    let limit = Duration::try_from(parsed).ok().ok_or_else(invalid)?;
    Ok((!limit.is_zero()).then_some(limit))
}

/// The same addresses in as few prefixes as possible, none of which overlaps another.
fn merged(prefixes: &[IpNet]) -> Vec<IpNet> {
    let (mut v4, mut v6) = (Vec::<Ipv4Net>::new(), Vec::<Ipv6Net>::new());
    for prefix in prefixes {
        match prefix {
            IpNet::V4(net) => v4.push(*net),
            IpNet::V6(net) => v6.push(*net),
        }
    }
    let v4 = Ipv4Net::aggregate(&v4).into_iter().map(IpNet::V4);
    v4.chain(Ipv6Net::aggregate(&v6).into_iter().map(IpNet::V6))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(port: u16, mark: u32, cgroup: Option<&str>) -> Endpoint {
        Endpoint {
            address: "203.0.113.5".parse().unwrap(),
            port,
            protocol: EndpointProtocol::Udp,
            mark,
            cgroup: cgroup.map(PathBuf::from),
        }
    }

    #[test]
    fn an_endpoint_that_anybody_could_use_is_refused() {
        assert_eq!(
            endpoint(51820, 0, None).check(),
            Err(RuleError::OpenEndpoint)
        );
        endpoint(51820, 7, None).check().unwrap();
        endpoint(51820, 0, Some("/system.slice/openvpn.service"))
            .check()
            .unwrap();
        for cgroup in ["/", "", "system.slice", "/a/../b", "//"] {
            let error = endpoint(51820, 7, Some(cgroup)).check().unwrap_err();
            assert!(error.to_string().contains("cgroup"), "{cgroup}: {error}");
        }
    }

    #[test]
    fn an_endpoint_that_stays_blocked_is_refused() {
        let complete = |port, blocked: bool| {
            let layer = KillSwitchLayer {
                endpoints: Some(vec![endpoint(port, 7, None)]),
                ..KillSwitchLayer::default()
            };
            layer.complete(|_| blocked)
        };
        assert_eq!(
            complete(53, true),
            Err(RuleError::EndpointOfClass {
                port: 53,
                class: Class::Dns
            })
        );
        complete(53, false).unwrap();
        complete(443, true).unwrap();
    }

    #[test]
    fn the_same_endpoint_twice_is_refused() {
        let layer = KillSwitchLayer {
            endpoints: Some(vec![endpoint(1194, 7, None), endpoint(1194, 8, None)]),
            ..KillSwitchLayer::default()
        };
        let error = layer.complete(|_| true).unwrap_err();
        assert!(error.to_string().contains("203.0.113.5"), "{error}");
    }

    #[test]
    fn prefixes_are_merged() {
        let prefixes = [
            "10.1.2.3/8",
            "10.0.0.1",
            "192.168.0.0/25",
            "192.168.0.128/25",
            "fd00::1",
        ];
        let layer = KillSwitchLayer {
            lan: Some(prefixes.map(|text| prefix(text).unwrap()).to_vec()),
            ..KillSwitchLayer::default()
        };
        let lan = layer.complete(|_| true).unwrap().lan;
        let texts: Vec<String> = lan.iter().map(IpNet::to_string).collect();
        assert_eq!(texts, ["10.0.0.0/8", "192.168.0.0/24", "fd00::1/128"]);
        for text in ["", "0.0.0.0/0", "::/0", "10.0.0.0/33", "lan"] {
            assert!(prefix(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_read() {
        assert_eq!(handshake_max("3m"), Ok(Some(Duration::from_mins(3))));
        assert_eq!(handshake_max("0s"), Ok(None));
        for text in ["", "-1s", "soon", "180"] {
            assert!(handshake_max(text).is_err(), "{text}");
        }
    }
}
