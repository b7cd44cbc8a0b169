//! The configuration: a file and the command line, merged into a [`Config`] that cannot be wrong.
//!
//! Both sources are a [`Layer`], in which everything is optional. The command line wins over the file, and a list
//! replaces the list below it rather than adding to it, so that what holds can be read off one place.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use leakguard_common::abi::{Class, ClassSet, Role};

use crate::interfaces::{Pattern, RolePatterns};

mod dns;
mod document;
mod error;
mod file;
mod kill_switch;
mod names;
mod netlink;
mod outputs;
mod ports;
mod redirect;
mod resolver;
#[cfg(test)]
mod tests;
mod verify;

pub(crate) use self::file::read as read_file;
pub(crate) use self::resolver::{anchor_path, backlog};
pub use self::{
    dns::{DohResolvers, Fragments},
    error::{ConfigError, Position, Problem, RuleError},
    file::FileError,
    kill_switch::{
        Endpoint, EndpointProtocol, Ipv6Policy, KillSwitch, KillSwitchLayer, KillSwitchMode,
    },
    names::{Mode, OnExit, PacketSockets, Preflight, class_named},
    netlink::NetlinkBuffer,
    outputs::{Events, EventsLayer, Labels, Metrics, MetricsLayer, OtlpEndpoint, RatePerKey},
    ports::ExtraPorts,
    redirect::{Redirect, Spared},
    resolver::{Cache, Resolver, ResolverLayer, Strategy, Word},
    verify::{Verify, VerifyLayer},
};

/// Where the configuration is looked for when no file is named.
pub const DEFAULT_PATH: &str = "/etc/leakguard/leakguard.toml";

/// What one source, the file or the command line, sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    /// See [`Config::mode`].
    pub mode: Option<Mode>,
    /// See [`Config::on_exit`].
    pub on_exit: Option<OnExit>,
    /// See [`Config::preflight`].
    pub preflight: Option<Preflight>,
    /// See [`Config::tunnel`].
    pub tunnel: Option<Vec<Pattern>>,
    /// See [`Config::local`].
    pub local: Option<Vec<Pattern>>,
    /// See [`Config::uplink`].
    pub uplink: Option<Vec<Pattern>>,
    /// See [`Config::netlink_buffer`].
    pub netlink_buffer: Option<NetlinkBuffer>,
    /// See [`Config::blocked`].
    pub block: Option<ClassSet>,
    /// See [`Config::extra_ports`].
    pub ports: Option<ExtraPorts>,
    /// See [`Config::doh_resolvers`].
    pub doh_resolvers: Option<DohResolvers>,
    /// See [`Config::fragments`].
    pub fragments: Option<Fragments>,
    /// See [`Config::report_shaped`].
    pub report_shaped: Option<bool>,
    /// See [`Config::redirect`].
    pub redirect: Option<Vec<IpAddr>>,
    /// See [`Config::spared`].
    pub spared: Option<Vec<Spared>>,
    /// See [`Config::kill_switch`].
    pub kill_switch: KillSwitchLayer,
    /// See [`Config::ipv6`].
    pub ipv6: Option<Ipv6Policy>,
    /// See [`Config::packet_sockets`].
    pub packet_sockets: Option<PacketSockets>,
    /// See [`Config::events`].
    pub events: EventsLayer,
    /// See [`Config::metrics`].
    pub metrics: MetricsLayer,
    /// See [`Config::resolver`].
    pub resolver: ResolverLayer,
    /// See [`Config::verify`].
    pub verify: VerifyLayer,
}

impl Layer {
    /// What holds when this layer lies over `below`.
    pub(crate) fn over(self, below: Self) -> Self {
        Self {
            mode: self.mode.or(below.mode),
            on_exit: self.on_exit.or(below.on_exit),
            preflight: self.preflight.or(below.preflight),
            tunnel: self.tunnel.or(below.tunnel),
            local: self.local.or(below.local),
            uplink: self.uplink.or(below.uplink),
            netlink_buffer: self.netlink_buffer.or(below.netlink_buffer),
            block: self.block.or(below.block),
            ports: self.ports.or(below.ports),
            doh_resolvers: self.doh_resolvers.or(below.doh_resolvers),
            fragments: self.fragments.or(below.fragments),
            report_shaped: self.report_shaped.or(below.report_shaped),
            redirect: self.redirect.or(below.redirect),
            spared: self.spared.or(below.spared),
            kill_switch: self.kill_switch.over(below.kill_switch),
            ipv6: self.ipv6.or(below.ipv6),
            packet_sockets: self.packet_sockets.or(below.packet_sockets),
            events: self.events.over(below.events),
            metrics: self.metrics.over(below.metrics),
            resolver: self.resolver.over(below.resolver),
            verify: self.verify.over(below.verify),
        }
    }
}

/// The file to read settings from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file that may be absent.
    Optional(PathBuf),
    /// A file that somebody named, so that its absence is an error.
    Required(PathBuf),
}

impl Source {
    /// The named file, or else the default one, which may be absent.
    pub fn named_or_default(path: Option<PathBuf>) -> Self {
        path.map_or_else(|| Self::Optional(DEFAULT_PATH.into()), Self::Required)
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        let (Self::Optional(path) | Self::Required(path)) = self;
        path
    }

    /// Reads and validates the file; `None` if it is absent and may be.
    pub fn read(&self) -> Result<Option<Layer>, ConfigError> {
        let text = match (self, file::read(self.path(), file::MAX_BYTES)) {
            (Self::Optional(_), Err(FileError::Missing { .. })) => return Ok(None),
            (_, text) => text?,
        };
        document::parse(&text)
            .map(Some)
            .map_err(
                |document::ParseError { position, problem }| ConfigError::Invalid {
                    path: self.path().to_owned(),
                    position,
                    problem,
                },
            )
    }
}

/// A valid configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    mode: Mode,
    on_exit: OnExit,
    preflight: Preflight,
    tunnel: Vec<Pattern>,
    local: Vec<Pattern>,
    uplink: Vec<Pattern>,
    netlink_buffer: NetlinkBuffer,
    block: ClassSet,
    ports: ExtraPorts,
    doh_resolvers: DohResolvers,
    fragments: Fragments,
    report_shaped: bool,
    redirect: Redirect,
    spared: Vec<Spared>,
    kill_switch: KillSwitch,
    ipv6: Ipv6Policy,
    packet_sockets: PacketSockets,
    events: Events,
    rate_per_key: RatePerKey,
    metrics: Metrics,
    resolver: Resolver,
    verify: Verify,
}

impl Config {
    /// Reads the file, if there is one, and puts the command line over it.
    pub fn load(source: &Source, command_line: Layer) -> Result<Self, ConfigError> {
        let file = source.read()?.unwrap_or_default();
        Ok(Self::new(command_line.over(file))?)
    }

    /// Completes a layer with the defaults and checks the rules that concern more than one setting.
    pub fn new(layer: Layer) -> Result<Self, RuleError> {
        let Layer {
            mode,
            on_exit,
            preflight,
            tunnel,
            local,
            uplink,
            netlink_buffer,
            block,
            ports,
            doh_resolvers,
            fragments,
            report_shaped,
            redirect,
            spared,
            kill_switch,
            ipv6,
            packet_sockets,
            events,
            metrics,
            resolver,
            verify,
        } = layer;
        let (events, rate_per_key) = events.complete()?;
        let block: ClassSet = block.unwrap_or_else(|| Class::ALL.iter().copied().collect());
        let redirect = Redirect::new(redirect.unwrap_or_default())?;
        let config = Self {
            mode: mode.unwrap_or_default(),
            on_exit: on_exit.unwrap_or_default(),
            preflight: preflight.unwrap_or_default(),
            tunnel: tunnel.unwrap_or_default(),
            local: local.unwrap_or_default(),
            uplink: uplink.unwrap_or_default(),
            netlink_buffer: netlink_buffer.unwrap_or_default(),
            block,
            ports: ports.unwrap_or_default(),
            doh_resolvers: doh_resolvers.unwrap_or_default(),
            fragments: fragments.unwrap_or_default(),
            report_shaped: report_shaped.unwrap_or_default(),
            redirect,
            spared: spared.unwrap_or_default(),
            kill_switch: kill_switch.complete(|class| block.contains(class))?,
            ipv6: ipv6.unwrap_or_default(),
            packet_sockets: packet_sockets.unwrap_or_default(),
            events,
            rate_per_key,
            metrics: metrics.complete()?,
            resolver: resolver.complete(redirect)?,
            verify: verify.complete(),
        };
        if config.blocked_classes().next().is_none() {
            return Err(RuleError::NothingBlocked);
        }
        if config.redirect.is_on() && !config.block.contains(Class::Dns) {
            return Err(RuleError::RedirectUnblocked);
        }
        if !config.redirect.is_on() && !config.spared.is_empty() {
            return Err(RuleError::SparedWithoutRedirect);
        }
        for (role, patterns) in [(Role::Local, &config.local), (Role::Uplink, &config.uplink)] {
            for pattern in patterns {
                check_role(role, pattern, &config.tunnel)?;
            }
        }
        Ok(config)
    }

    /// What happens to a packet that must not leave.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What happens to enforcement when the agent is asked to stop.
    pub fn on_exit(&self) -> OnExit {
        self.on_exit
    }

    /// What happens when the look before enforcing finds something.
    pub fn preflight(&self) -> Preflight {
        self.preflight
    }

    /// The interfaces that may carry DNS.
    pub fn tunnel(&self) -> &[Pattern] {
        &self.tunnel
    }

    /// Interfaces that are local, besides those that are detected.
    pub fn local(&self) -> &[Pattern] {
        &self.local
    }

    /// Interfaces that are uplinks, besides those that are detected; wins over [`Config::local`].
    pub fn uplink(&self) -> &[Pattern] {
        &self.uplink
    }

    /// All three lists, as roles are given by them.
    pub fn role_patterns(&self) -> RolePatterns {
        RolePatterns {
            tunnel: self.tunnel.clone(),
            local: self.local.clone(),
            uplink: self.uplink.clone(),
        }
    }

    /// How many bytes of unread interface events the kernel keeps for the agent.
    pub fn netlink_buffer(&self) -> NetlinkBuffer {
        self.netlink_buffer
    }

    /// The classes that are blocked off the tunnel; never empty.
    pub fn blocked(&self) -> ClassSet {
        self.block
    }

    /// The classes that are let out everywhere: the complement of [`Config::blocked`].
    pub fn exempt(&self) -> ClassSet {
        Class::ALL
            .iter()
            .copied()
            .filter(|&class| !self.block.contains(class))
            .collect()
    }

    /// Destination ports that are judged as [`Class::Dns`] besides 53.
    pub fn extra_ports(&self) -> &[u16] {
        self.ports.as_slice()
    }

    /// Which resolvers of DNS over HTTPS are known.
    pub fn doh_resolvers(&self) -> &DohResolvers {
        &self.doh_resolvers
    }

    /// What happens to later fragments whose first one nobody has seen.
    pub fn fragments(&self) -> Fragments {
        self.fragments
    }

    /// Whether packets that look like DNS questions are reported, whatever their port.
    pub fn report_shaped(&self) -> bool {
        self.report_shaped
    }

    /// Whom questions on port 53 are sent to, whomever a process asks.
    pub fn redirect(&self) -> Redirect {
        self.redirect
    }

    /// Whose questions go where they were sent to, in spite of [`Config::redirect`].
    pub fn spared(&self) -> &[Spared] {
        &self.spared
    }

    /// What uplinks carry while no tunnel is up, or ever.
    pub fn kill_switch(&self) -> &KillSwitch {
        &self.kill_switch
    }

    /// What uplinks carry of IPv6.
    pub fn ipv6(&self) -> Ipv6Policy {
        self.ipv6
    }

    /// What is done about sockets whose packets pass no TC program.
    pub fn packet_sockets(&self) -> PacketSockets {
        self.packet_sockets
    }

    /// Where events go besides standard output and the control socket.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// How many events of one sender, destination and reason are reported in a second; 0 for all of them.
    pub fn rate_per_key(&self) -> u32 {
        self.rate_per_key.per_second()
    }

    /// What is measured for Prometheus, and who may read it.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// How this host is to resolve names, as `leakguard resolver` sets it up.
    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// How `leakguard verify` judges, and how often the agent runs it.
    pub fn verify(&self) -> &Verify {
        &self.verify
    }

    /// Whether any tunnel is named; without one, all DNS would be dropped.
    pub fn tunnels_named(&self) -> bool {
        !self.tunnel.is_empty()
    }

    /// The configuration as a file that reads back as the same configuration.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        document::render(self)
    }

    fn blocked_classes(&self) -> impl Iterator<Item = Class> {
        Class::ALL
            .iter()
            .copied()
            .filter(|&class| self.block.contains(class))
    }
}

/// Checks a pattern of the local or uplink list against the tunnels.
fn check_role(role: Role, pattern: &Pattern, tunnels: &[Pattern]) -> Result<(), RuleError> {
    if pattern.to_string() == "auto" {
        return Err(RuleError::AutoNotTunnel { role });
    }
    if tunnels.contains(pattern) {
        return Err(RuleError::TwoRoles {
            pattern: pattern.to_string(),
            role,
        });
    }
    Ok(())
}
