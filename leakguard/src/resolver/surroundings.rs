//! What a tree does not tell of a host: its uplinks, and by which address it is known in the tunnel.

use std::net::IpAddr;

use leakguard_common::abi::Role;

use super::root::Root;
use crate::config::Config;
use crate::interfaces::{Exit, NetlinkError, classify, path_towards, snapshot};

/// What the tree itself does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The uplinks by name.
    pub uplinks: Vec<String>,
    /// The tunnel's addresses, from which the resolvers are asked.
    pub sources: Vec<IpAddr>,
}

impl Surroundings {
    /// Those of a tree: of this host, what the kernel says; of an image, the uplinks that the configuration names.
    pub async fn read(root: &Root, config: &Config) -> Result<Self, NetlinkError> {
        if !root.is_host() {
            return Ok(Self {
                uplinks: config
                    .uplink()
                    .iter()
                    .map(ToString::to_string)
                    .filter(|name| is_plain(name))
                    .collect(),
                sources: config.resolver().sources.clone(),
            });
        }
        let interfaces = classify(&snapshot().await?, &config.role_patterns());
        let settings = config.resolver();
        let mut sources = settings.sources.clone();
        for &server in settings
            .servers
            .iter()
            .filter(|_| settings.sources.is_empty())
        {
            let path = path_towards(server, None, 0).await?;
            let Exit::By(number) = path.exit else {
                continue;
            };
            let over_tunnel = interfaces
                .get(&number)
                .is_some_and(|interface| interface.role == Role::Tunnel);
            if let Some(source) = path.source.filter(|_| over_tunnel)
                && !sources.contains(&source)
            {
                sources.push(source);
            }
        }
        let uplinks = interfaces
            .values()
            .filter(|interface| interface.role == Role::Uplink)
            .map(|interface| interface.name.clone());
        Ok(Self {
            uplinks: uplinks.filter(|name| is_plain(name)).collect(),
            sources,
        })
    }
}

/// Whether a name can stand in a path and in a line of sysctl.d, and is no pattern.
fn is_plain(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '@');
    !matches!(name, "" | "." | ".." | "auto" | "all" | "default") && name.chars().all(allowed)
}
