//! What is wrong with this host, what shows it, why that matters, and what to do.
//!
//! Facts are collected first: from files below a root directory, from netlink, from what is enforced. Each subject then
//! judges the facts without touching the system, so that any host can be made up in a test. A kind of finding is a
//! [`Rule`]; [`rules`] has them all.

mod browsers;
mod clock;
mod configuration;
mod containers;
mod cpu;
mod dhcp;
mod enforcement;
mod finding;
mod firewall;
mod host;
mod interfaces;
mod ipv6;
mod kernel;
mod local_resolver;
pub mod messages;
mod mtu;
mod network_manager;
mod nsswitch;
mod open_ways;
mod parameters;
mod privileges;
mod processes;
mod resolv_conf;
mod resolved;
mod root;
mod routes;
mod settings;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use leakguard_common::abi::Reason;
use serde::Serialize;

pub use self::finding::{Finding, Rule, Severity, Subject};
use self::root::Root;
use crate::config::{Config, Layer, RuleError, Source};
use crate::daemon::connect;
use crate::daemon::protocol::{Answer, Ask};
use crate::error::chain;
use crate::guard::plan;
use crate::host::cgroup2_root;
use crate::interfaces::{NetlinkError, snapshot};
use crate::kernel::requirements::check_privileges;
use crate::kernel::trial::Trial;
use crate::preflight::Sources;
use crate::sockets;
use crate::status;

/// What to look at.
#[derive(Clone, Debug)]
pub struct Request {
    /// The directory that files are looked for in, in place of `/`.
    pub root: PathBuf,
    /// The configuration file, if one was named.
    pub source: Option<Source>,
    /// What the command line says of the policy.
    pub layer: Layer,
    /// Where the enforcement is pinned.
    pub bpffs: PathBuf,
    /// The agent's control socket.
    pub control: PathBuf,
}

/// Why there is nothing to report.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// The root directory cannot be opened.
    #[error("cannot look into {}", path.display())]
    Root {
        /// The directory.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The options contradict each other.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// Interfaces and routes cannot be read.
    #[error(transparent)]
    Interfaces(#[from] NetlinkError),
}

/// Everything that is known.
#[derive(Clone, Debug, Default)]
struct Facts {
    kernel: kernel::Kernel,
    privileges: privileges::Privileges,
    enforcement: enforcement::Enforcement,
    configuration: configuration::Configuration,
    network: host::Network,
    processes: processes::Processes,
    resolv_conf: resolv_conf::ResolvConf,
    resolved: resolved::Resolved,
    nsswitch: nsswitch::Nsswitch,
    network_manager: Vec<settings::Setting>,
    dhcp: dhcp::Dhcp,
    local_resolvers: local_resolver::LocalResolvers,
    containers: containers::Containers,
    ipv6: ipv6::Ipv6,
    discovery: mtu::Discovery,
    cpu: cpu::Cpu,
    parameters: parameters::Parameters,
    clock: clock::Clock,
    browsers: browsers::Browsers,
    firewall: firewall::Firewall,
    open_ways: open_ways::OpenWays,
}

impl Facts {
    /// What files say.
    fn of_files(root: &Root) -> Self {
        Self {
            kernel: kernel::collect(root),
            privileges: privileges::collect(root),
            processes: processes::collect(root),
            resolv_conf: resolv_conf::collect(root),
            resolved: resolved::collect(root),
            nsswitch: nsswitch::collect(root),
            network_manager: network_manager::collect(root),
            dhcp: dhcp::collect(root),
            local_resolvers: local_resolver::collect(root),
            containers: containers::collect(root),
            ipv6: ipv6::collect(root),
            discovery: mtu::collect(root),
            cpu: cpu::collect(root),
            parameters: parameters::collect(root),
            browsers: browsers::collect(root),
            open_ways: open_ways::collect(root),
            ..Self::default()
        }
    }

    /// Addresses whose way out matters.
    fn addresses(&self) -> BTreeSet<IpAddr> {
        let local_resolver::LocalResolvers { unbound, dnsmasq } = &self.local_resolvers;
        let forwarders = unbound.iter().chain(dnsmasq);
        let forwarders = forwarders.map(|forwarder| forwarder.address);
        forwarders
            .chain(self.resolved.addresses())
            .chain(self.containers.addresses())
            .collect()
    }

    /// Every finding, the worst first.
    fn judge(&self) -> Vec<Finding> {
        let mut findings = kernel::judge(&self.kernel);
        findings.extend(privileges::judge(&self.privileges));
        for judge in [
            enforcement::judge,
            configuration::judge,
            interfaces::judge,
            routes::judge,
            resolv_conf::judge,
            resolved::judge,
            nsswitch::judge,
            network_manager::judge,
            dhcp::judge,
            local_resolver::judge,
            containers::judge,
            ipv6::judge,
            mtu::judge,
            cpu::judge,
            parameters::judge,
            clock::judge,
            browsers::judge,
            firewall::judge,
            open_ways::judge,
        ] {
            findings.extend(judge(self));
        }
        findings.sort_by_key(|finding| {
            (
                std::cmp::Reverse(finding.rule.severity),
                finding.rule.subject,
            )
        });
        merged(findings)
    }
}

/// One finding for each kind, with all the evidence and all the commands.
fn merged(findings: Vec<Finding>) -> Vec<Finding> {
    let mut merged: Vec<Finding> = Vec::new();
    for finding in findings {
        let known = merged
            .iter_mut()
            .find(|known| known.rule.id == finding.rule.id);
        match known {
            Some(known) => {
                known.evidence.extend(finding.evidence);
                if !known.remedy.lines().any(|line| line == finding.remedy) {
                    known.remedy.push('\n');
                    known.remedy.push_str(&finding.remedy);
                }
            }
            None => merged.push(finding),
        }
    }
    merged
}

/// Every kind of finding, in the order of subjects.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    [
        kernel::RULES,
        privileges::RULES,
        enforcement::RULES,
        configuration::RULES,
        interfaces::RULES,
        routes::RULES,
        resolv_conf::RULES,
        resolved::RULES,
        nsswitch::RULES,
        network_manager::RULES,
        dhcp::RULES,
        local_resolver::RULES,
        containers::RULES,
        ipv6::RULES,
        mtu::RULES,
        cpu::RULES,
        parameters::RULES,
        clock::RULES,
        browsers::RULES,
        firewall::RULES,
        open_ways::RULES,
    ]
    .into_iter()
    .flatten()
    .copied()
}

/// What was found; its JSON form is a contract.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The version of this form.
    pub v: u32,
    /// How bad the worst finding is.
    pub worst: Severity,
    /// The findings, the worst first.
    pub findings: Vec<Finding>,
    /// The subjects that there is nothing to say of.
    pub ok: Vec<Subject>,
    /// The subjects that there may be more to say of, to whoever may look.
    pub unseen: Vec<Subject>,
}

impl Report {
    fn new(findings: Vec<Finding>, unseen: Vec<Subject>) -> Self {
        let worst = findings.iter().map(|finding| finding.rule.severity).max();
        let said = |subject: &Subject| {
            findings
                .iter()
                .any(|finding| finding.rule.subject == *subject)
        };
        Self {
            v: 1,
            worst: worst.unwrap_or(Severity::Ok),
            ok: Subject::ALL
                .into_iter()
                .filter(|subject| !said(subject) && !unseen.contains(subject))
                .collect(),
            unseen,
            findings,
        }
    }
}

/// Looks at everything. Nothing is changed, and nothing is sent but a question to each resolver behind a tunnel.
pub async fn examine(request: &Request) -> Result<Report, DoctorError> {
    let Request {
        root: path,
        source,
        layer,
        bpffs,
        control,
    } = request;
    let root = Root::open(path).map_err(|source| DoctorError::Root {
        path: path.clone(),
        source,
    })?;
    let (configuration, config) = configuration::collect(&root, source.as_ref(), layer.clone())?;
    let mut facts = Facts::of_files(&root);
    facts.configuration = configuration;
    facts.enforcement = enforcement(bpffs, control).await;
    let sources = Sources {
        resolv_conf: root.locate(resolv_conf::PATH),
        resolved: root.locate("/run/systemd/resolve/resolv.conf"),
        ..Sources::default()
    };
    facts.network = host::collect(
        &config,
        facts.enforcement.status.as_ref(),
        &sources,
        facts.addresses(),
    )
    .await?;
    facts.clock = clock::collect();
    facts.firewall = firewall::collect(&root).await;
    let enforced = facts.enforcement.enforced();
    facts.open_ways.inventory = match enforced.and_then(|status| status.hardening.as_ref()) {
        Some(hardening) => hardening.inventory.clone(),
        None => sockets::inventory(),
    };
    facts.open_ways.cgroup = enforced
        .and_then(|status| status.cgroup.as_ref())
        .filter(|cgroup| cgroup2_root().is_ok_and(|root| root != **cgroup))
        .map(|cgroup| cgroup.display().to_string());
    if facts.enforcement.status.is_some() && enforced.is_none() {
        facts.kernel.refusal = refusal(&config).await;
    }
    facts.privileges.unseen = root.unseen();
    let unreadable = facts.configuration.unseen.clone();
    facts.privileges.unseen.extend(unreadable.clone());
    let mut unseen = Vec::new();
    if facts.enforcement.status.is_none() {
        // What is enforced, other firewalls' rules and other processes' sockets are for root to see.
        unseen.extend([Subject::Enforcement, Subject::Firewall, Subject::OpenWays]);
    }
    unseen.extend(unreadable.map(|_| Subject::Configuration));
    Ok(Report::new(facts.judge(), unseen))
}

/// What is enforced, and whether an agent answers.
async fn enforcement(bpffs: &Path, control: &Path) -> enforcement::Enforcement {
    let (status, error) = match status::read(bpffs).await {
        Ok(status) => (Some(status), None),
        Err(error) => (None, check_privileges().is_ok().then(|| chain(&error))),
    };
    let answer = connect(control, &Ask::Hello {})
        .ok()
        .flatten()
        .and_then(|mut agent| agent.answer().ok());
    enforcement::Enforcement {
        status,
        error,
        agent: matches!(answer, Some(Answer::Agent { .. })),
    }
}

/// Why the kernel does not take the programs: they are loaded, attached to nothing, and go at once.
async fn refusal(config: &Config) -> Option<String> {
    check_privileges().ok()?;
    let plan = plan(config, &snapshot().await.ok()?).ok()?;
    Trial::of_plan(&plan).err().map(|error| chain(&error))
}

/// Whether packets of a class were dropped on uplinks, as counted in a status.
fn dropped(status: &status::Status, reason: Reason) -> u64 {
    enforcement::dropped(status, reason)
}

#[cfg(test)]
mod tests;
