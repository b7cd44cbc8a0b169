use std::net::IpAddr;

use clap::Args;
use leakguard_common::abi::ClassSet;

use super::{BpffsArgs, PolicyArgs};
use crate::config::Config;
use crate::error::{Exit, WithExit as _};

/// Options of `leakguard verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Sends packets of every blocked class in every way, and counts what leaves by the
uplinks. Each carries a text that begins with `lgv-`, goes to an address for
documentation or a known resolver, and is thrown away by the first router. Then
the tunnel's resolver is asked through the tunnel. What is dropped shows up in
`leakguard events` with the name lgv-….invalid.

Exit codes: 0 no leak and nothing failed, 3 a leak or a failed check

Examples:
  leakguard verify                            by the configuration file, and by what is enforced
  leakguard verify --tunnel wg0 --quick       in less than three seconds
  leakguard verify --json | jq .leaks")]
pub struct VerifyArgs {
    /// Leave out what takes long: rising rates, and names that are not cached
    #[arg(long)]
    pub quick: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// The tunnel's resolver [default: those of /etc/resolv.conf that are reached through a tunnel]
    #[arg(long, value_name = "ADDR")]
    pub resolver: Option<IpAddr>,
    /// What should be enforced.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Where to look.
    #[command(flatten)]
    pub bpffs: BpffsArgs,
}

impl VerifyArgs {
    /// The configuration that applies, and the classes if it says them; an error is marked as one of usage.
    pub fn load(&self) -> anyhow::Result<(Config, Option<ClassSet>)> {
        let file = self.policy.source.source().read().with_exit(Exit::Usage)?;
        let layer = self.policy.layer().over(file.unwrap_or_default());
        let classes = layer.block;
        Ok((Config::new(layer).with_exit(Exit::Usage)?, classes))
    }
}
