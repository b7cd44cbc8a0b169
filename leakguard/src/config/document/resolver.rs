//! The table `[resolver]`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::shape::{List, unplaced};
use super::{Placed, placed};
use crate::config::resolver::{anchor_path, backlog};
use crate::config::{self, Cache, ResolverLayer, RuleError, Strategy, Word};

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Resolver {
    strategy: Option<Spanned<String>>,
    servers: Option<List<String>>,
    search: Option<List<String>>,
    options: Option<List<String>>,
    immutable: Option<bool>,
    cache: Option<Spanned<String>>,
    upstream_tls: Option<Spanned<String>>,
    trust_anchor: Option<Spanned<String>>,
    sources: Option<List<String>>,
    insecure: Option<List<String>>,
    containers: Option<bool>,
    ipv6_sysctl: Option<bool>,
    netdev_max_backlog: Option<Spanned<i64>>,
    watch: Option<bool>,
}

impl Resolver {
    /// The table that reads back as the same.
    pub(super) fn of(resolver: &config::Resolver) -> Self {
        let config::Resolver {
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
        } = resolver;
        let words = |words: &[Word]| Some(List::unplaced(words.iter().map(Word::to_string)));
        Self {
            strategy: Some(unplaced(strategy.name().to_owned())),
            servers: Some(List::unplaced(servers.iter().map(IpAddr::to_string))),
            search: words(search),
            options: words(options),
            immutable: Some(*immutable),
            cache: Some(unplaced(cache.name().to_owned())),
            upstream_tls: upstream_tls.as_ref().map(|name| unplaced(name.to_string())),
            trust_anchor: trust_anchor
                .as_ref()
                .map(|path| unplaced(path.display().to_string())),
            sources: Some(List::unplaced(sources.iter().map(IpAddr::to_string))),
            insecure: words(insecure),
            containers: Some(*containers),
            ipv6_sysctl: Some(*ipv6_sysctl),
            netdev_max_backlog: netdev_max_backlog.map(|number| unplaced(number.into())),
            watch: Some(*watch),
        }
    }

    pub(super) fn into_layer(self) -> Result<ResolverLayer, Placed> {
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
        let words = |list: List<String>| -> Result<Vec<Word>, Placed> {
            let words = list.0.iter();
            words
                .map(|text| placed(text, |text| Word::named(text)))
                .collect()
        };
        let addresses = |list: List<String>| -> Result<Vec<IpAddr>, Placed> {
            let address = |text: &String| {
                let refused = || RuleError::Address { text: text.clone() };
                text.parse().ok().ok_or_else(refused)
            };
            list.0.iter().map(|text| placed(text, address)).collect()
        };
        Ok(ResolverLayer {
            strategy: strategy
                .map(|name| placed(&name, |name| Strategy::named(name)))
                .transpose()?,
            servers: servers.map(addresses).transpose()?,
            search: search.map(words).transpose()?,
            options: options.map(words).transpose()?,
            immutable,
            cache: cache
                .map(|name| placed(&name, |name| Cache::named(name)))
                .transpose()?,
            upstream_tls: upstream_tls
                .map(|name| placed(&name, |name| Word::named(name)))
                .transpose()?,
            trust_anchor: trust_anchor
                .map(|path| placed(&path, |path| anchor_path(path)))
                .transpose()?,
            sources: sources.map(addresses).transpose()?,
            insecure: insecure.map(words).transpose()?,
            containers,
            ipv6_sysctl,
            netdev_max_backlog: netdev_max_backlog
                .map(|number| placed(&number, |&number| backlog(number)))
                .transpose()?,
            watch,
        })
    }
}
