//! The options of `leakguard resolver`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::SourceArgs;
use crate::config::{
    Cache, Config, DEFAULT_PATH, Layer, ResolverLayer, Source, Strategy, Word, anchor_path, backlog,
};
use crate::error::{Exit, WithExit as _};
use crate::interfaces::Pattern;
use crate::resolver::Root;

/// Options of `leakguard resolver`.
#[derive(Debug, Args)]
#[command(after_help = "\
Enforcement does not depend on it: without it, DNS to other resolvers is dropped;
with it, programs ask the right one.

Examples:
  leakguard resolver plan --server 10.8.0.1          what would be changed, as a diff
  sudo leakguard resolver apply --server 10.8.0.1
  sudo leakguard resolver revert                     every file as it was before")]
pub struct ResolverArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ResolverCommand,
}

/// What `leakguard resolver` does.
#[derive(Debug, Subcommand)]
pub enum ResolverCommand {
    /// Print what `apply` would change, as a unified diff; change nothing
    Plan(ResolverPlanArgs),
    /// Have programs ask the tunnel's resolver, and nobody else
    Apply(ResolverApplyArgs),
    /// Put everything back as it was before `apply`
    Revert(ResolverRevertArgs),
    /// Say whether it was set up, and whether somebody has changed it since
    Status(ResolverStatusArgs),
}

/// Options of `leakguard resolver plan`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  leakguard resolver plan --server 10.8.0.1 --cache unbound --json | jq .changed")]
pub struct ResolverPlanArgs {
    /// What to set up.
    #[command(flatten)]
    pub settings: ResolverSettingsArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Options of `leakguard resolver apply`.
#[derive(Debug, Args)]
#[command(after_help = "\
Says `unchanged` if all of it is set up already. With other options than before,
what is not wanted any more is put back. What was there is written down first, in
/var/lib/leakguard/resolver: after a crash, run `apply` or `revert` again.

Examples:
  leakguard resolver apply --server 10.8.0.1,fd00::1
  leakguard resolver apply --server 10.8.0.1 --cache unbound --netdev-max-backlog 5000
  leakguard resolver apply --root /mnt/image --server 10.8.0.1")]
pub struct ResolverApplyArgs {
    /// What to set up.
    #[command(flatten)]
    pub settings: ResolverSettingsArgs,
}

/// Options of `leakguard resolver revert`.
#[derive(Debug, Args)]
#[command(after_help = "\
Restores bytes, modes, owners, times, extended attributes, links and the immutable
attribute. What somebody else has changed since is kept in
/var/lib/leakguard/resolver/kept.")]
pub struct ResolverRevertArgs {
    /// Where.
    #[command(flatten)]
    pub root: RootArgs,
}

/// Options of `leakguard resolver status`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 as it was set up, or not set up; 3 changed by somebody else, or half done")]
pub struct ResolverStatusArgs {
    /// Where.
    #[command(flatten)]
    pub root: RootArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Which tree is looked at.
#[derive(Debug, Args)]
pub struct RootArgs {
    /// The root directory of the host, such as that of an image; services are told of changes only at /
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
}

impl RootArgs {
    /// The tree, which must be there.
    pub fn root(&self) -> anyhow::Result<Root> {
        let path = std::fs::canonicalize(&self.root)
            .map_err(|error| {
                anyhow::anyhow!(
                    "cannot use {} as a root directory: {error}",
                    self.root.display()
                )
            })
            .with_exit(Exit::Usage)?;
        Ok(Root::new(path))
    }
}

/// What to set up: the configuration file, and what the command line puts over it.
#[derive(Debug, Args)]
#[command(
    next_help_heading = "Settings (each option replaces the setting of the configuration file)"
)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, not states"
)]
pub struct ResolverSettingsArgs {
    /// Where.
    #[command(flatten)]
    pub root: RootArgs,
    /// Where the configuration file is.
    #[command(flatten)]
    pub source: SourceArgs,
    /// Address of a resolver in the tunnel; repeat it or separate by commas
    #[arg(long = "server", value_name = "ADDR", value_delimiter = ',')]
    pub servers: Option<Vec<IpAddr>>,
    /// Who answers the programs of this host [default: auto]
    #[arg(long, value_enum)]
    pub strategy: Option<Strategy>,
    /// A local cache [default: none]
    #[arg(long, value_enum)]
    pub cache: Option<Cache>,
    /// Ask the resolvers over TLS; their certificate has this name
    #[arg(long, value_name = "NAME", value_parser = Word::named)]
    pub upstream_tls: Option<Word>,
    /// A file with the key that Unbound trusts, in place of the root's
    #[arg(long, value_name = "FILE", value_parser = anchor_path)]
    pub trust_anchor: Option<PathBuf>,
    /// Address that the cache asks from [default: that of this host in the tunnel]
    #[arg(long = "source", value_name = "ADDR", value_delimiter = ',')]
    pub sources: Option<Vec<IpAddr>>,
    /// A zone that Unbound does not validate, because it is only known in the VPN
    #[arg(long, value_name = "ZONE", value_delimiter = ',', value_parser = Word::named)]
    pub insecure: Option<Vec<Word>>,
    /// A domain that is tried behind short names
    #[arg(long, value_name = "DOMAIN", value_delimiter = ',', value_parser = Word::named)]
    pub search: Option<Vec<Word>>,
    /// An option of resolv.conf, such as edns0
    #[arg(long = "option", value_name = "OPTION", value_delimiter = ',', value_parser = Word::named)]
    pub options: Option<Vec<Word>>,
    /// Switch IPv6 off on every uplink (`disable_ipv6`)
    #[arg(long)]
    pub ipv6_sysctl: bool,
    /// How many packets may wait for a CPU (`net.core.netdev_max_backlog`)
    #[arg(long, value_name = "PACKETS", value_parser = packets)]
    pub netdev_max_backlog: Option<u32>,
    /// Do not make resolv.conf immutable
    #[arg(long)]
    pub no_immutable: bool,
    /// Leave container engines alone
    #[arg(long)]
    pub no_containers: bool,
    /// Let the agent only look on when others change what was set up
    #[arg(long)]
    pub no_watch: bool,
    /// Interface that may carry DNS, as `run` has it
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub tunnel: Option<Vec<Pattern>>,
    /// Interface that leads off this host, as `run` has it
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub uplink: Option<Vec<Pattern>>,
}

impl ResolverSettingsArgs {
    /// The configuration that applies; an error is marked as one of usage.
    pub fn load(&self, root: &Root) -> anyhow::Result<Config> {
        // An image has a configuration of its own.
        let source = if self.source.config.is_none() && !root.is_host() {
            Source::Optional(root.follow(DEFAULT_PATH)?)
        } else {
            self.source.source()
        };
        Config::load(&source, self.layer()).with_exit(Exit::Usage)
    }

    fn layer(&self) -> Layer {
        Layer {
            tunnel: self.tunnel.clone(),
            uplink: self.uplink.clone(),
            resolver: ResolverLayer {
                strategy: self.strategy,
                servers: self.servers.clone(),
                search: self.search.clone(),
                options: self.options.clone(),
                immutable: self.no_immutable.then_some(false),
                cache: self.cache,
                upstream_tls: self.upstream_tls.clone(),
                trust_anchor: self.trust_anchor.clone(),
                sources: self.sources.clone(),
                insecure: self.insecure.clone(),
                containers: self.no_containers.then_some(false),
                ipv6_sysctl: self.ipv6_sysctl.then_some(true),
                netdev_max_backlog: self.netdev_max_backlog,
                watch: self.no_watch.then_some(false),
            },
            ..Layer::default()
        }
    }
}

fn packets(text: &str) -> Result<u32, String> {
    let number = text
        .parse()
        .map_err(|error| format!("not a number: {error}"))?;
    backlog(number).map_err(|error| error.to_string())
}
