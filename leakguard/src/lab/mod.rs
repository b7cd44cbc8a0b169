//! A throw-away network in namespaces of its own, for `leakguard demo` and for the tests.
//!
//! ```text
//!   client ------- host (device under test) ------- isp (observer) ------- vpn
//!        192.168.78/24   eth0       192.168.77/24   host0    203.0.113/24   eth0
//!                        wg0 - - - - - - UDP 51820 - - - - - - - - - - -    wgs0
//! ```
//!
//! Real programs everywhere: wireguard-go at both ends of the tunnel, Unbound as the ISP's and as
//! the tunnel's resolver. Every block is a guard that undoes what it did when dropped, and carries
//! a name of its own, so that many labs can stand in one machine at once. Nothing of the machine's
//! own network, DNS or root cgroup is touched.
//!
//! Drop guards before the namespaces they live in: declare them after.

mod agent;
mod bpffs;
mod cgroup;
mod dig;
mod error;
mod frame;
mod netns;
mod observer;
mod process;
mod resolver;
mod scratch;
mod topology;
mod wireguard;

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

pub use agent::{Agent, AgentConfig};
pub use bpffs::Bpffs;
pub use cgroup::Cgroup;
pub use dig::{Lookup, Query};
pub use error::LabError;
pub use frame::{Frame, carries_name};
pub use netns::Netns;
pub(crate) use netns::NetnsHandle;
pub use observer::{Directions, Fence, Observer};
pub(crate) use observer::{cooked, dropped_since};
pub use process::{Daemon, output_within, wait_until};
pub use resolver::{LAB_NAME, Resolver, WHO_NAME};
pub use topology::{Topology, address, await_route};
pub use wireguard::WireGuard;

use crate::host;

/// What the lab runs, and the Debian package that has it.
const PROGRAMS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("wireguard-go", "wireguard-go"),
    ("wg", "wireguard-tools"),
    ("unbound", "unbound"),
    ("dig", "bind9-dnsutils"),
    ("bash", "bash"),
];

/// Checks that the lab can be built here: root, its programs, a TUN device, a cgroup2 hierarchy.
///
/// Every error it returns is a missing requirement ([`LabError::is_requirement`]) and names the
/// remedy.
pub fn check_requirements() -> Result<(), LabError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(LabError::NotRoot);
    }
    for (program, package) in PROGRAMS {
        if host::find_program(program).is_none() {
            return Err(LabError::MissingProgram { program, package });
        }
    }
    if !Path::new("/dev/net/tun").exists() {
        return Err(LabError::NoTun);
    }
    host::cgroup2_root()?;
    Ok(())
}

/// A name that nothing else on the machine has: process, counter, label.
fn unique_name(label: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let serial = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("leakguard-{}-{serial}-{label}", std::process::id())
}
