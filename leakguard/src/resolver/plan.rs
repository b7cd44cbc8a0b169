//! What has to be where on a host for its names to be asked as the settings say. Nothing is changed here.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::error::ResolverError;
use super::host::{DAEMON_JSON, Host, RESOLV_CONF};
use super::json;
use super::node::Wanted;
use super::surroundings::Surroundings;
use super::texts::{self, CACHE_ADDRESS, CacheParts};
use super::units::{CACHE, Unit};
use crate::config::{Cache, Resolver, Strategy};

const RESOLVED: &str = "/etc/systemd/resolved.conf.d/zz-leakguard.conf";
const NETWORK_MANAGER: &str = "/etc/NetworkManager/conf.d/zz-leakguard.conf";
const DHCLIENT: &str = "/etc/dhcp/dhclient-enter-hooks.d/zz-leakguard";
const CONTAINERS: &str = "/etc/containers/containers.conf.d/zz-leakguard.conf";
const SYSCTL: &str = "/etc/sysctl.d/zz-leakguard.conf";
const BACKLOG: &str = "/proc/sys/net/core/netdev_max_backlog";
const UNITS: &str = "/etc/systemd/system";
const STUB: &str = "../run/systemd/resolve/stub-resolv.conf";
/// What a link to the stub of systemd-resolved ends with.
const STUB_SUFFIX: &str = "systemd/resolve/stub-resolv.conf";

/// The key of docker's daemon.json that is leakguard's.
pub(super) const DOCKER_KEY: &str = "dns";

/// What has to be where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What it sets up, in a few words.
    pub what: String,
    /// The files, in the order in which they are written.
    pub items: Vec<Item>,
    /// What is left to do by hand, or to know.
    pub notes: Vec<String>,
    /// What has to be checked first.
    pub(super) check: Option<Check>,
    /// Whether the agent is to put back what others change.
    pub(super) watch: bool,
}

/// One file, link or setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Where, as the host calls it.
    pub path: String,
    /// What is to be there.
    pub wanted: Wanted,
    /// Whether only a part of it is leakguard's.
    pub(super) merged: bool,
    /// What has to be told.
    pub(super) units: BTreeSet<Unit>,
}

/// A configuration that its program has to accept before it is put in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) program: &'static str,
    pub(super) arguments: &'static [&'static str],
    pub(super) content: String,
}

impl Plan {
    /// Works out what a host needs.
    pub fn new(
        host: &Host,
        settings: &Resolver,
        around: &Surroundings,
    ) -> Result<Self, ResolverError> {
        if settings.servers.is_empty() {
            return Err(ResolverError::NoServers);
        }
        let strategy = match settings.strategy {
            Strategy::Auto if host.uses_resolved => Strategy::ResolvedStrict,
            Strategy::Auto => Strategy::Static,
            strategy => strategy,
        };
        let mut plan = Self {
            what: match settings.cache {
                Cache::None => strategy.name().to_owned(),
                cache => format!("{} with {}", strategy.name(), cache.name()),
            },
            watch: settings.watch,
            ..Self::default()
        };
        let cached = settings.cache != Cache::None;
        if cached {
            plan.cache(host, settings, around)?;
        }
        let asked = if cached {
            vec![IpAddr::from(CACHE_ADDRESS)]
        } else {
            settings.servers.clone()
        };
        plan.sysctls(host, settings, around);
        plan.strategy(strategy, host, settings, &asked)?;
        if host.has_network_manager {
            plan.file(
                NETWORK_MANAGER,
                texts::network_manager(),
                &[Unit::NetworkManager],
            );
        }
        if host.has_dhclient {
            plan.file(DHCLIENT, texts::dhclient(), &[]);
        }
        if settings.containers {
            plan.containers(host, settings)?;
        }
        Ok(plan)
    }

    fn file(&mut self, path: &str, content: String, units: &[Unit]) {
        self.item(path, Wanted::text(content), units);
    }

    fn item(&mut self, path: &str, wanted: Wanted, units: &[Unit]) {
        self.items.push(Item {
            path: path.to_owned(),
            wanted,
            merged: false,
            units: units.iter().copied().collect(),
        });
    }

    fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    fn strategy(
        &mut self,
        strategy: Strategy,
        host: &Host,
        settings: &Resolver,
        asked: &[IpAddr],
    ) -> Result<(), ResolverError> {
        let strict = strategy == Strategy::ResolvedStrict;
        // The cache speaks it, where there is one.
        let tls = settings
            .upstream_tls
            .as_ref()
            .filter(|_| settings.cache == Cache::None);
        if matches!(strategy, Strategy::ResolvedStrict | Strategy::ResolvedOff) {
            if !host.has_resolved {
                return Err(ResolverError::Unfit(format!(
                    "systemd-resolved is not on this host, so strategy = \"{}\" cannot be used; use static",
                    strategy.name()
                )));
            }
            self.file(
                RESOLVED,
                texts::resolved(asked, tls, strict, settings),
                &[Unit::Resolved],
            );
        }
        if tls.is_some() && !strict {
            return Err(ResolverError::Unfit(format!(
                "`upstream_tls` needs somebody who speaks it, and strategy {} has nobody; use cache = \"unbound\"",
                strategy.name()
            )));
        }
        if strategy == Strategy::Static && host.uses_resolved {
            self.note(
                "systemd-resolved is in use, and nss-resolve asks it whatever resolv.conf says; use strategy resolved-off, or \
                 resolved-strict",
            );
        }
        if !strict {
            let content = texts::resolv_conf(asked, settings).into_bytes();
            let immutable = settings.immutable;
            self.item(RESOLV_CONF, Wanted::File { content, immutable }, &[]);
        } else if !host
            .resolv_conf
            .target()
            .is_some_and(|target| target.to_string_lossy().ends_with(STUB_SUFFIX))
        {
            let target = STUB.to_owned();
            self.item(RESOLV_CONF, Wanted::Link { target }, &[]);
        }
        Ok(())
    }

    fn cache(
        &mut self,
        host: &Host,
        settings: &Resolver,
        around: &Surroundings,
    ) -> Result<(), ResolverError> {
        if !host.has_systemd {
            return Err(ResolverError::Unfit(
                "a cache is started by systemd, which is not on this host; leave the cache out"
                    .to_owned(),
            ));
        }
        let parts = CacheParts {
            sources: &around.sources,
            root_key: host.root_key,
            certificates: host.certificates,
        };
        let (path, content, command, check) = if settings.cache == Cache::Unbound {
            let program = host.unbound.ok_or(ResolverError::Missing {
                program: "unbound",
                package: "unbound",
            })?;
            if settings.upstream_tls.is_some() && parts.certificates.is_none() {
                return Err(ResolverError::Unfit(
                    "there are no certificates of authorities, so no resolver could be known by its name; install \
                     ca-certificates"
                        .to_owned(),
                ));
            }
            let path = "/etc/leakguard/unbound.conf";
            let content = texts::unbound(settings, &parts);
            (
                path,
                content,
                format!("{program} -d -p -c {path}"),
                ("unbound-checkconf", &[][..]),
            )
        } else {
            let program = host.dnsmasq.ok_or(ResolverError::Missing {
                program: "dnsmasq",
                package: "dnsmasq-base",
            })?;
            let path = "/etc/leakguard/dnsmasq.conf";
            let content = texts::dnsmasq(settings, &parts);
            (
                path,
                content,
                format!("{program} -k -C {path}"),
                ("dnsmasq", &["--test", "-C"][..]),
            )
        };
        self.check = Some(Check {
            program: check.0,
            arguments: check.1,
            content: content.clone(),
        });
        self.file(path, content, &[Unit::Cache]);
        self.file(
            &format!("{UNITS}/{CACHE}"),
            texts::unit(&command),
            &[Unit::Cache],
        );
        let target = format!("../{CACHE}");
        let wants = format!("{UNITS}/multi-user.target.wants/{CACHE}");
        self.item(&wants, Wanted::Link { target }, &[Unit::Cache]);
        if around.sources.is_empty() {
            self.note(
                "the tunnel's address is not known, so the cache asks from any; `leakguard resolver apply` again when the \
                 tunnel is up binds it",
            );
        }
        Ok(())
    }

    fn sysctls(&mut self, host: &Host, settings: &Resolver, around: &Surroundings) {
        let mut values = Vec::new();
        if let Some(backlog) = settings.netdev_max_backlog {
            values.push((BACKLOG.to_owned(), backlog.to_string()));
        }
        if settings.ipv6_sysctl {
            for uplink in &around.uplinks {
                values.push((
                    format!("/proc/sys/net/ipv6/conf/{uplink}/disable_ipv6"),
                    "1".to_owned(),
                ));
            }
            match &around.uplinks[..] {
                [] => self.note("no uplink is known, so IPv6 is switched off on none; name them in [interfaces] uplink"),
                uplinks => self.note(format!(
                    "addresses and routes of IPv6 go from {} at once; revert lets the host have new ones, and does not bring \
                     back those that were set by hand",
                    uplinks.join(", ")
                )),
            }
        }
        if values.is_empty() {
            return;
        }
        let content = texts::sysctl(
            values
                .iter()
                .map(|(path, value)| (path.as_str(), value.as_str())),
        );
        self.file(SYSCTL, content, &[]);
        if host.has_sysctls {
            for (path, value) in values {
                self.item(&path, Wanted::Value { value }, &[]);
            }
        }
    }

    fn containers(&mut self, host: &Host, settings: &Resolver) -> Result<(), ResolverError> {
        if host.has_docker {
            let text = host.daemon_json.content().unwrap_or_default();
            let text = String::from_utf8_lossy(text);
            let content = json::set(&text, DOCKER_KEY, &texts::docker(&settings.servers)).map_err(
                |source| ResolverError::Json {
                    path: DAEMON_JSON.to_owned(),
                    source,
                },
            )?;
            self.items.push(Item {
                path: DAEMON_JSON.to_owned(),
                wanted: Wanted::text(content),
                merged: true,
                units: BTreeSet::new(),
            });
            self.note(
                "docker reads daemon.json when it starts: `systemctl restart docker` when it suits; containers keep their \
                 resolvers until they are started anew",
            );
        }
        if host.has_containers {
            self.file(CONTAINERS, texts::containers(&settings.servers), &[]);
            self.note("podman gives its resolvers to containers that are started from now on");
        }
        if host.has_cri {
            self.note(
                "kubelet and other users of the CRI take the resolvers of pods from the file that `resolvConf` (--resolv-conf) \
                 names: let it be one with addresses that pods reach, not loopback ones",
            );
        }
        Ok(())
    }
}
