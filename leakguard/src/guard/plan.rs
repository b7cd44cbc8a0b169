//! What a configuration would make of this host, without making it so.

use std::time::SystemTime;

use super::policy::Policy;
use super::recognition::recognition;
use super::{Handshakes, device, tunnels};
use crate::config::Config;
use crate::doh::{self, DohError};
use crate::host::cgroup2_root;
use crate::interfaces::{Snapshot, classify};
use crate::kernel::trial::Plan;

/// What [`super::Guard`] would tell the programs, with these interfaces. A tunnel that is up counts as one whose
/// handshake is recent.
pub fn plan(config: &Config, snapshot: &Snapshot) -> Result<Plan, DohError> {
    let resolvers = doh::Source::read(config.doh_resolvers())?;
    let policy = Policy::of(config);
    let interfaces = classify(snapshot, &config.role_patterns());
    let tunnel = tunnels::up(&interfaces, None, &Handshakes::new(), SystemTime::now()).ok();
    Ok(Plan {
        recognition: recognition(&resolvers, &interfaces),
        exemptions: policy.exemptions(cgroup2_root().ok().as_deref()),
        settings: policy.settings,
        devices: interfaces.values().map(device).collect(),
        tunnel,
    })
}
