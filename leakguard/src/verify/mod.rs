//! The active leak test: what is enforced is tried out, and what really leaves is counted.
//!
//! Packets of every blocked class are sent in every way in which a process can send, and a capture behind leakguard's
//! hooks counts what leaves by the uplinks. The same packets are sent in a namespace that nothing judges, and have to be
//! seen there: otherwise silence would prove nothing. Every packet carries a text of its own (`lgv-…`), goes to an address
//! for documentation or to a known resolver, and is thrown away by the first router, so that a leak tells nobody anything.
//!
//! Then the tunnel's resolver is asked through the tunnel.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::IpNet;
use leakguard_common::abi::{Class, ClassSet, Role};

mod canary;
mod echo;
mod host;
mod judge;
mod latency;
mod leak;
mod packet;
mod report;
mod scratch;
mod send;
mod sightings;
mod tally;
mod tap;
mod tunnel;
mod uplinks;

pub use canary::{Known, Way};
pub use report::{Check, Latency, Leak, Part, Report, Verdict};
pub use tally::Verified;

use self::host::Roles;
use self::leak::Assignment;
use self::tunnel::Server;
use crate::config::{Config, Fragments};
use crate::doh::{self, DohError};
use crate::guard::GuardError;
use crate::interfaces::{NetlinkError, addresses, snapshot};
use crate::lab::LabError;
use crate::prefix;
use crate::preflight::Sources;
use crate::status::{self, Status};

/// What to do.
#[derive(Clone, Debug)]
pub struct Request {
    /// What should be enforced.
    pub config: Config,
    /// The classes to test, if somebody has said; otherwise those that are enforced.
    pub classes: Option<ClassSet>,
    /// The resolver to ask, if somebody has said.
    pub resolver: Option<IpAddr>,
    /// Whether to leave out what takes long.
    pub quick: bool,
    /// Where the state is.
    pub bpffs: PathBuf,
    /// Where whom programs ask is read.
    pub sources: Sources,
}

/// Why nothing could be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// What is enforced cannot be read.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// Interfaces or routes cannot be read.
    #[error("cannot read interfaces and routes")]
    Interfaces(#[from] NetlinkError),
    /// Nothing can be sent or captured.
    #[error("cannot capture what leaves")]
    Capture(#[from] LabError),
    /// The list of resolvers of DNS over HTTPS cannot be used.
    #[error(transparent)]
    Resolvers(#[from] DohError),
    /// No random number is to be had.
    #[error("cannot read /dev/urandom")]
    Random(#[source] std::io::Error),
}

/// Tests everything.
pub async fn verify(request: &Request) -> Result<Report, VerifyError> {
    let Request {
        config,
        classes,
        resolver,
        quick,
        bpffs,
        sources,
    } = request;
    let run = run_label()?;
    let status = status::read(bpffs).await?;
    let snapshot = snapshot().await?;
    let addresses = addresses().await?;
    let roles = uplinks::roles(&snapshot, config.role_patterns(), enforced(&status));
    let uplinks::Uplinks { tested, checks } =
        uplinks::pick(&snapshot, &roles, enforced(&status), &addresses);
    let mut report = Report {
        run: run.clone(),
        result: Verdict::Pass,
        checks: vec![enforcement(&status)],
        leaks: Vec::new(),
        canaries: 0,
        control_seen: 0,
        control_sent: 0,
        latency: Vec::new(),
        answer_times: Vec::new(),
    };
    report.checks.extend(checks);
    let roles = Roles {
        snapshot: &snapshot,
        roles: &roles,
    };
    if !tested.is_empty() {
        let classes = match classes {
            Some(classes) => Class::ALL
                .iter()
                .copied()
                .filter(|&class| classes.contains(class))
                .collect(),
            None => enforced_classes(&status),
        };
        let ports = if config.extra_ports().is_empty() {
            status.ports.clone()
        } else {
            config.extra_ports().to_vec()
        };
        let assignment = Assignment {
            uplinks: tested,
            classes,
            ports,
            known: known(config)?,
            late_fragments: config.fragments() == Fragments::Strict,
            forwarded_elsewhere: forwarded_elsewhere(&roles).await?,
        };
        let found = leak::test(&assignment, &run)?;
        report.checks.extend(found.checks);
        report.leaks = found.leaks;
        report.canaries = found.canaries;
        report.control_sent = found.control_sent;
        report.control_seen = found.control_seen;
    }
    let redirected: &[IpAddr] = status.redirect.as_ref().map_or(&[], |found| &found.to);
    let servers = servers(*resolver, redirected, &roles, sources).await?;
    match &servers[..] {
        [] => report.checks.push(Check::new(
            Part::Tunnel,
            "resolver",
            Verdict::Fail,
            "no resolver behind a tunnel is known; name one with --resolver, or in /etc/resolv.conf",
        )),
        servers => {
            for server in servers {
                report.checks.extend(tunnel::check(server, config.verify(), *quick).await);
                report
                    .checks
                    .push(host::overlap(&roles, &addresses, server.address, &server.tunnel));
            }
            let answers = |server: &&Server| {
                !report.checks.iter().any(|check| {
                    check.name == "resolver"
                        && check.result.is_failure()
                        && check.reason.starts_with(&server.address.to_string())
                })
            };
            if let Some(server) = servers.iter().find(answers) {
                let measured = latency::measure(server, config.verify(), &run, *quick).await;
                report.checks.extend(measured.checks);
                report.latency = measured.latency;
                report.answer_times = measured.times;
            }
        }
    }
    report
        .checks
        .extend(host::check(&roles, redirected, sources).await?);
    Ok(report.conclude())
}

/// The interfaces as they are enforced; none, if nothing is.
fn enforced(status: &Status) -> &[status::InterfaceStatus] {
    if status.mode.is_some() {
        &status.interfaces
    } else {
        &[]
    }
}

fn enforcement(status: &Status) -> Check {
    let level = status.level.name();
    let causes = status.causes.join("; ");
    let (result, reason) = match status.mode {
        None => (Verdict::Fail, causes),
        Some(_) if !status.protects(status::Level::Reduced) => (Verdict::Fail, causes),
        Some(mode) if causes.is_empty() => (Verdict::Pass, format!("level {level}, {mode}")),
        Some(mode) => (Verdict::Pass, format!("level {level}, {mode}: {causes}")),
    };
    Check::new(Part::Enforcement, "level", result, reason)
}

/// The classes that are kept off uplinks; all of them, if nothing is enforced.
fn enforced_classes(status: &Status) -> Vec<Class> {
    Class::ALL
        .iter()
        .copied()
        .filter(|class| status.mode.is_none() || status.block.contains(&class.name()))
        .collect()
}

/// What stands for all known resolvers of DNS over HTTPS: by preference one that nobody has.
fn known(config: &Config) -> Result<Known, VerifyError> {
    let source = doh::Source::read(config.doh_resolvers())?;
    let addresses = source.keys().addresses.iter().copied();
    let nets: Vec<IpNet> = addresses.filter_map(prefix::net).collect();
    let v4: Vec<Ipv4Addr> = nets
        .iter()
        .filter_map(|net| match net {
            IpNet::V4(net) => Some(net.addr()),
            IpNet::V6(_) => None,
        })
        .collect();
    let v6: Vec<Ipv6Addr> = nets
        .iter()
        .filter_map(|net| match net {
            IpNet::V6(net) => Some(net.addr()),
            IpNet::V4(_) => None,
        })
        .collect();
    let nobody = |address: &&Ipv6Addr| matches!(address.segments(), [0x2001, 0xdb8, ..]);
    Ok(Known {
        v4: v4
            .iter()
            .find(|address| address.is_documentation())
            .or(v4.first())
            .copied(),
        v6: v6.iter().find(nobody).or(v6.first()).copied(),
        name: source.resolvers().first_name().map(str::to_owned),
    })
}

/// Where what this host forwards goes if not by an uplink, by family.
async fn forwarded_elsewhere(
    roles: &Roles<'_>,
) -> Result<BTreeMap<&'static str, String>, VerifyError> {
    let mut elsewhere = BTreeMap::new();
    for (family, address) in canary::destinations() {
        match roles.towards(address, None).await? {
            Some((_, Role::Uplink)) | None => {}
            Some((name, role)) => {
                elsewhere.insert(
                    family,
                    format!("it goes by {name}, which is {}", role.name()),
                );
            }
        }
    }
    Ok(elsewhere)
}

/// Whom to ask: who was named, else whom calls are redirected to, else those of `resolv.conf` behind a tunnel.
async fn servers(
    named: Option<IpAddr>,
    redirected: &[IpAddr],
    roles: &Roles<'_>,
    sources: &Sources,
) -> Result<Vec<Server>, VerifyError> {
    let addresses = match named {
        Some(address) => vec![address],
        None if !redirected.is_empty() => redirected.to_vec(),
        None => host::behind_tunnels(roles, sources).await?,
    };
    let mut servers = Vec::new();
    for address in addresses {
        if let Some((tunnel, Role::Tunnel)) = roles.towards(address, None).await? {
            let mut links = roles.snapshot.links.values();
            let mtu = links
                .find(|link| link.name == tunnel)
                .map_or(0, |link| link.mtu);
            servers.push(Server {
                address,
                tunnel,
                mtu,
            });
        }
    }
    Ok(servers)
}

/// What the labels of a run begin with.
fn run_label() -> Result<String, VerifyError> {
    let mut random = [0; 4];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut random))
        .map_err(VerifyError::Random)?;
    Ok(format!("lgv-{:08x}", u32::from_ne_bytes(random)))
}
