//! How this host is to resolve names.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::names::lookup;
use super::redirect::can_be_asked;
use super::{Redirect, RuleError};

/// The most resolvers, search domains or options: a resolver library reads three, six and a few.
const MAX_SERVERS: usize = 3;
const MAX_WORDS: usize = 6;
/// What `net.core.netdev_max_backlog` can be.
const BACKLOG: std::ops::RangeInclusive<i64> = 1..=1_000_000;

/// Who answers the programs of this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Strategy {
    /// resolved-strict where systemd-resolved is in use, static elsewhere
    #[default]
    Auto,
    /// A resolv.conf that names the resolvers, and that nothing overwrites
    Static,
    /// systemd-resolved, bound to the resolvers
    ResolvedStrict,
    /// As static; the stub of systemd-resolved does not listen
    ResolvedOff,
}

impl Strategy {
    /// Every strategy.
    pub const ALL: &'static [Self] = &[
        Self::Auto,
        Self::Static,
        Self::ResolvedStrict,
        Self::ResolvedOff,
    ];

    /// The name used in the configuration and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Static => "static",
            Self::ResolvedStrict => "resolved-strict",
            Self::ResolvedOff => "resolved-off",
        }
    }

    /// The strategy of this name.
    pub fn named(name: &str) -> Result<Self, RuleError> {
        lookup("strategy", Self::ALL, Self::name, name)
    }
}

/// Which cache stands between the programs and the resolvers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Cache {
    /// None
    #[default]
    None,
    /// Unbound, which validates
    Unbound,
    /// dnsmasq, which leaves that to the resolver
    Dnsmasq,
}

impl Cache {
    /// Every choice.
    pub const ALL: &'static [Self] = &[Self::None, Self::Unbound, Self::Dnsmasq];

    /// The name used in the configuration and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Unbound => "unbound",
            Self::Dnsmasq => "dnsmasq",
        }
    }

    /// The choice of this name.
    pub fn named(name: &str) -> Result<Self, RuleError> {
        lookup("cache", Self::ALL, Self::name, name)
    }
}

/// A name of a host, a domain or an option, which is written into files of others as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word(String);

impl Word {
    /// Checks a text.
    pub fn named(text: &str) -> Result<Self, RuleError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if !text.is_empty() && text.len() <= 253 && text.chars().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(RuleError::Word {
                text: text.to_owned(),
            })
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Word {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// How this host is to resolve names; what `leakguard resolver` sets up.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, not states"
)]
pub struct Resolver {
    /// Who answers programs.
    pub strategy: Strategy,
    /// The resolvers, in the tunnel.
    pub servers: Vec<IpAddr>,
    /// Domains that are tried behind names without a dot.
    pub search: Vec<Word>,
    /// Options of resolv.conf.
    pub options: Vec<Word>,
    /// Whether resolv.conf is made immutable where it is a file.
    pub immutable: bool,
    /// Which cache stands between.
    pub cache: Cache,
    /// The name in the certificate of the resolvers, if they are to be asked over TLS.
    pub upstream_tls: Option<Word>,
    /// A file with the key that Unbound trusts, in place of the root's.
    pub trust_anchor: Option<PathBuf>,
    /// The addresses that the cache asks from, in place of this host's in the tunnel.
    pub sources: Vec<IpAddr>,
    /// Zones that Unbound does not validate, because they exist in the VPN only.
    pub insecure: Vec<Word>,
    /// Whether container engines get the resolvers too.
    pub containers: bool,
    /// Whether IPv6 is switched off on uplinks.
    pub ipv6_sysctl: bool,
    /// How many packets may wait for the CPU.
    pub netdev_max_backlog: Option<u32>,
    /// Whether the agent puts back what others change.
    pub watch: bool,
}

/// What one source sets of [`Resolver`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolverLayer {
    /// See [`Resolver::strategy`].
    pub strategy: Option<Strategy>,
    /// See [`Resolver::servers`].
    pub servers: Option<Vec<IpAddr>>,
    /// See [`Resolver::search`].
    pub search: Option<Vec<Word>>,
    /// See [`Resolver::options`].
    pub options: Option<Vec<Word>>,
    /// See [`Resolver::immutable`].
    pub immutable: Option<bool>,
    /// See [`Resolver::cache`].
    pub cache: Option<Cache>,
    /// See [`Resolver::upstream_tls`].
    pub upstream_tls: Option<Word>,
    /// See [`Resolver::trust_anchor`].
    pub trust_anchor: Option<PathBuf>,
    /// See [`Resolver::sources`].
    pub sources: Option<Vec<IpAddr>>,
    /// See [`Resolver::insecure`].
    pub insecure: Option<Vec<Word>>,
    /// See [`Resolver::containers`].
    pub containers: Option<bool>,
    /// See [`Resolver::ipv6_sysctl`].
    pub ipv6_sysctl: Option<bool>,
    /// See [`Resolver::netdev_max_backlog`].
    pub netdev_max_backlog: Option<u32>,
    /// See [`Resolver::watch`].
    pub watch: Option<bool>,
}

impl ResolverLayer {
    /// What holds when this layer lies over `below`.
    pub(super) fn over(self, below: Self) -> Self {
        Self {
            strategy: self.strategy.or(below.strategy),
            servers: self.servers.or(below.servers),
            search: self.search.or(below.search),
            options: self.options.or(below.options),
            immutable: self.immutable.or(below.immutable),
            cache: self.cache.or(below.cache),
            upstream_tls: self.upstream_tls.or(below.upstream_tls),
            trust_anchor: self.trust_anchor.or(below.trust_anchor),
            sources: self.sources.or(below.sources),
            insecure: self.insecure.or(below.insecure),
            containers: self.containers.or(below.containers),
            ipv6_sysctl: self.ipv6_sysctl.or(below.ipv6_sysctl),
            netdev_max_backlog: self.netdev_max_backlog.or(below.netdev_max_backlog),
            watch: self.watch.or(below.watch),
        }
    }

    /// Completes it with the defaults and checks the rules that concern more than one setting.
    pub(super) fn complete(self, redirect: Redirect) -> Result<Resolver, RuleError> {
        let Self {
            strategy,
            servers,
            search,
            options,
            immutable,
            cache,
            upstream_tls,
            trust_anchor,
            sources,
            insecure,
            containers,
            ipv6_sysctl,
            netdev_max_backlog,
            watch,
        } = self;
        let (search, options) = (search.unwrap_or_default(), options.unwrap_or_default());
        // Whom questions are redirected to is whom the host should ask.
        let servers = servers.unwrap_or_else(|| redirect.addresses().collect());
        check_count("servers", servers.len(), MAX_SERVERS)?;
        for (index, &address) in servers.iter().enumerate() {
            if !address.is_loopback() && !can_be_asked(address) {
                return Err(RuleError::Server { address });
            }
            if servers.iter().take(index).any(|before| *before == address) {
                return Err(RuleError::ServerTwice { address });
            }
        }
        check_count("search", search.len(), MAX_WORDS)?;
        check_count("options", options.len(), MAX_WORDS)?;
        let (strategy, cache) = (strategy.unwrap_or_default(), cache.unwrap_or_default());
        if upstream_tls.is_some() {
            let speaks = match cache {
                Cache::Unbound => true,
                Cache::Dnsmasq => false,
                Cache::None => matches!(strategy, Strategy::ResolvedStrict | Strategy::Auto),
            };
            if !speaks {
                return Err(RuleError::UpstreamTls);
            }
        }
        if trust_anchor.is_some() && cache != Cache::Unbound {
            return Err(RuleError::TrustAnchor);
        }
        Ok(Resolver {
            strategy,
            servers,
            search,
            options,
            immutable: immutable.unwrap_or(true),
            cache,
            upstream_tls,
            trust_anchor,
            sources: sources.unwrap_or_default(),
            insecure: insecure.unwrap_or_default(),
            containers: containers.unwrap_or(true),
            ipv6_sysctl: ipv6_sysctl.unwrap_or_default(),
            netdev_max_backlog,
            watch: watch.unwrap_or(true),
        })
    }
}

fn check_count(key: &'static str, count: usize, max: usize) -> Result<(), RuleError> {
    if count > max {
        Err(RuleError::TooManyWords { key, max })
    } else {
        Ok(())
    }
}

/// Checks a number for `net.core.netdev_max_backlog`.
pub(crate) fn backlog(number: i64) -> Result<u32, RuleError> {
    let refused = RuleError::Backlog {
        number,
        max: *BACKLOG.end(),
    };
    if !BACKLOG.contains(&number) {
        return Err(refused);
    }
    u32::try_from(number).ok().ok_or(refused)
}

/// Checks the path of a trust anchor: it is written into Unbound's configuration.
pub(crate) fn anchor_path(text: &str) -> Result<PathBuf, RuleError> {
    let path = Path::new(text);
    let plain = |c: char| !c.is_control() && !matches!(c, '"' | '\\');
    if path.is_absolute() && text.chars().all(plain) {
        Ok(path.to_owned())
    } else {
        Err(RuleError::OutputPath {
            text: text.to_owned(),
        })
    }
}
