//! What guards a host: nothing, leakguard, or what could be used in its place.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Result, ensure};
use leakguard::kernel::pins::Pins;
use leakguard::lab::{Agent, AgentConfig, Netns, output_within};
use leakguard_tests::{agent_binary, bpf, write_config};
use nix::net::if_::if_nametoindex;

use super::Scene;
use super::nflog::Reader;
use super::ring::Ring;
use crate::programs::test_run::{Type, empty, owned, pair};

/// How long a program that loads rules may take.
const LIMIT: Duration = Duration::from_secs(10);

/// What guards a host.
#[derive(Clone, Debug)]
pub(crate) enum Guard {
    /// Nothing.
    Nothing,
    /// The agent, with a configuration.
    Leakguard(String),
    /// Empty programs in the places of leakguard's; the first returns this.
    Programs(i32),
    /// A ruleset.
    Nftables(String),
    /// A ruleset that logs to [`Guard::LOG_GROUP`], and somebody who reads it.
    Logging(String),
    /// Rules for both families.
    Iptables(Vec<String>),
    /// What stands side by side.
    Both(Box<[Guard; 2]>),
}

/// What a guard consists of while it stands.
#[derive(Default)]
pub(super) struct Standing {
    pub(super) agent: Option<Agent>,
    links: Vec<OwnedFd>,
    pub(super) reader: Option<Reader>,
    ring: Option<Ring>,
}

impl Standing {
    /// Whether whoever reads what there is to tell has read it.
    pub(super) fn is_settled(&self) -> bool {
        let Self {
            agent: _,
            links: _,
            reader,
            ring,
        } = self;
        reader.as_ref().is_none_or(Reader::is_idle) && ring.as_ref().is_none_or(Ring::is_empty)
    }
}

impl Guard {
    /// The group that rules log to.
    pub(crate) const LOG_GROUP: u16 = 5;

    /// The agent as it comes.
    pub(crate) fn leakguard() -> Self {
        Self::Leakguard(String::new())
    }

    /// A table with a chain at the hook of that name.
    pub(crate) fn chain(hook: &str, policy: &str, rules: &str) -> String {
        format!(
            "table inet guard {{\n\
             chain {hook} {{ type filter hook {hook} priority filter; policy {policy}; {rules} }}\n}}\n"
        )
    }

    /// A chain at the hook for local packets, and one at that for forwarded ones, with the same rules.
    pub(crate) fn chains(policy: &str, rules: &str) -> String {
        ["output", "forward"]
            .map(|hook| Self::chain(hook, policy, rules))
            .concat()
    }

    /// One rule with sets in each of those.
    pub(crate) fn rule(verdict: &str) -> String {
        let rule = format!(
            "oifname != \"{}\" meta l4proto {{ tcp, udp }} th dport {{ 53, 853 }} {verdict}\n",
            Scene::TUNNEL
        );
        Self::chains("accept", &rule)
    }

    /// Four rules in each chain.
    pub(crate) fn iptables() -> Self {
        let rules = ["OUTPUT", "FORWARD"].map(|chain| {
            [("udp", 53), ("tcp", 53), ("udp", 853), ("tcp", 853)].map(|(protocol, port)| {
                format!(
                    "{chain} -p {protocol} --dport {port} ! -o {} -j DROP",
                    Scene::TUNNEL
                )
            })
        });
        Self::Iptables(rules.concat())
    }

    /// Takes up its place.
    pub(super) fn stand(&self, scene: &Scene) -> Result<Standing> {
        let mut standing = Standing::default();
        self.join(scene, &mut standing)?;
        Ok(standing)
    }

    fn join(&self, scene: &Scene, standing: &mut Standing) -> Result<()> {
        let host = &scene.host;
        match self {
            Self::Nothing => {}
            Self::Leakguard(config) => {
                standing.agent = Some(agent(scene, config)?);
                standing.ring = Some(Ring::new(&Pins::at(scene.bpffs.path()))?);
            }
            Self::Programs(verdict) => standing.links = programs(scene, *verdict)?,
            Self::Nftables(rules) => call(host, "nft", &[rules])?,
            Self::Logging(rules) => {
                standing.reader = Some(Reader::new(host, Self::LOG_GROUP)?);
                call(host, "nft", &[rules])?;
            }
            Self::Iptables(rules) => {
                for program in ["iptables-legacy", "ip6tables-legacy"] {
                    for rule in rules {
                        let words: Vec<_> = rule.split_whitespace().collect();
                        call(host, program, &[&["-w", "-A"], &words[..]].concat())?;
                    }
                }
            }
            Self::Both(guards) => {
                for guard in guards.iter() {
                    guard.join(scene, standing)?;
                }
            }
        }
        Ok(())
    }
}

fn agent(scene: &Scene, config: &str) -> Result<Agent> {
    // The agent reads it while it starts.
    let file = write_config(config);
    let arguments: [OsString; 2] = ["--config".into(), file.path().into()];
    Ok(Agent::start(&AgentConfig {
        binary: agent_binary(),
        netns: &scene.host,
        cgroup: &scene.cgroup,
        bpffs: &scene.bpffs,
        tunnels: vec![Scene::TUNNEL.to_owned()],
        arguments: arguments.into(),
    })?)
}

/// Attaches empty programs to the cgroup and to the uplink; they go with their links.
fn programs(scene: &Scene, verdict: i32) -> Result<Vec<OwnedFd>> {
    const BPF_CGROUP_INET_EGRESS: u32 = 1;
    const BPF_TCX_EGRESS: u32 = 47;
    const NEXT: i32 = -1;

    let cgroup = File::open(scene.cgroup.path())?;
    let uplink = scene.host.run_in(|| if_nametoindex(Scene::UPLINK))??;
    let link = |program: OwnedFd, target: u32, place: u32| {
        const BPF_LINK_CREATE: nix::libc::c_long = 28;
        let mut attributes = [0; 16];
        attributes[0] = pair(program.as_raw_fd().cast_unsigned(), target);
        attributes[1] = pair(place, 0);
        scene
            .host
            .run_in(|| owned(bpf(BPF_LINK_CREATE, &mut attributes)))
    };
    Ok(vec![
        link(
            empty(Type::CgroupSkb, verdict),
            cgroup.as_raw_fd().cast_unsigned(),
            BPF_CGROUP_INET_EGRESS,
        )?,
        link(empty(Type::SchedCls, NEXT), uplink, BPF_TCX_EGRESS)?,
    ])
}

/// Runs a program that has to succeed.
fn call(netns: &Netns, program: &str, arguments: &[impl AsRef<std::ffi::OsStr>]) -> Result<()> {
    let mut command = netns.command(program);
    command.args(arguments);
    let output = output_within(command, LIMIT)?;
    ensure!(output.status.success(), "{program}: {output:?}");
    Ok(())
}
