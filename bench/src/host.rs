//! A host of its own with nothing behind its uplink, for what is measured of the agent and not of packets.

use std::fs;
use std::hint::spin_loop;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use leakguard::kernel::pins::Pins;
use leakguard::lab::{Agent, AgentConfig, Bpffs, Cgroup, Netns, wait_until};
use leakguard_tests::{Origin, agent_binary};

/// How long anything may take that is waited for.
const LIMIT: Duration = Duration::from_mins(3);

/// A namespace with an uplink and a gateway, a cgroup whose sockets are judged, and another for the agent.
pub(crate) struct Host {
    // In the order in which they go.
    pub(crate) cgroup: Cgroup,
    accounts: Cgroup,
    pub(crate) bpffs: Bpffs,
    pub(crate) netns: Netns,
}

impl Host {
    /// The interface that may carry DNS, which need not be there.
    pub(crate) const TUNNEL: &'static str = "tun0";

    pub(crate) fn new() -> Result<Self> {
        let netns = Netns::new("bench")?;
        netns.ip_batch(
            "link set lo up\n\
             link add eth0 type veth peer name gateway\n\
             link set gateway up\n\
             link set eth0 up\n\
             addr add 192.0.2.1/24 dev eth0\n\
             route add default via 192.0.2.2\n\
             neigh add 192.0.2.2 lladdr 02:00:00:00:00:01 dev eth0 nud permanent\n",
        )?;
        Ok(Self {
            cgroup: Cgroup::new("bench")?,
            accounts: Cgroup::new("bench-agent")?,
            bpffs: Bpffs::new()?,
            netns,
        })
    }

    /// Starts an agent, and waits for nothing.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Result<Agent> {
        let agent = Agent::spawn(&AgentConfig {
            binary: agent_binary(),
            netns: &self.netns,
            cgroup: &self.cgroup,
            bpffs: &self.bpffs,
            tunnels: vec![Self::TUNNEL.to_owned()],
            arguments: ["--local", "gateway"]
                .iter()
                .chain(arguments)
                .map(Into::into)
                .collect(),
        })?;
        Ok(agent)
    }

    /// Starts an agent, and waits until everything is in place. What it takes from then on is in [`Host::cpu`].
    pub(crate) fn protect(&self, arguments: &[&str]) -> Result<Agent> {
        let mut agent = self.spawn(arguments)?;
        agent.await_enforcing(LIMIT)?;
        let members = self.accounts.path().join("cgroup.procs");
        fs::write(members, agent.pid().to_string())?;
        Ok(agent)
    }

    /// The processor time that the agent and its children have taken, in milliseconds.
    pub(crate) fn cpu(&self) -> Result<f64> {
        let path = self.accounts.path().join("cpu.stat");
        let text = fs::read_to_string(&path)?;
        let mut lines = text.lines();
        let microseconds = lines.find_map(|line| line.strip_prefix("usage_usec "));
        let microseconds: f64 = microseconds.context("no usage in cpu.stat")?.parse()?;
        Ok(microseconds / 1000.0)
    }

    /// A socket that is judged, to a port of somebody beyond the uplink.
    pub(crate) fn probe(&self, port: u16) -> Probe {
        let address = IpAddr::from(Ipv4Addr::new(198, 51, 100, 53));
        let origin = Origin {
            netns: &self.netns,
            cgroup: Some(&self.cgroup),
        };
        Probe {
            socket: origin.udp(address),
            target: SocketAddr::new(address, port),
        }
    }

    /// How many uplinks have the TC program.
    pub(crate) fn attached(&self) -> usize {
        let pins = Pins::at(self.bpffs.path());
        pins.tcx_links().map_or(0, |links| links.len())
    }

    /// Creates interfaces in pairs, up, with numbers from 0 on.
    pub(crate) fn add_pairs(&self, name: &str, count: usize) -> Result<()> {
        let lines: Vec<String> = (0..count)
            .map(|number| {
                format!(
                    "link add {name}{number} type veth peer name peer-{name}{number}\n\
                     link set {name}{number} up\n"
                )
            })
            .collect();
        Ok(self.netns.ip_batch(&lines.concat())?)
    }
}

/// Sends datagrams that are refused, or not.
pub(crate) struct Probe {
    socket: UdpSocket,
    target: SocketAddr,
}

impl Probe {
    /// Whether the next one is.
    pub(crate) fn is_refused(&self) -> bool {
        self.socket
            .send_to(b"leakguard", self.target)
            .is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    }
}

/// Waits for a condition without giving the processor away; says how long it took from `start` on, in milliseconds.
pub(crate) fn elapsed_until(
    what: &str,
    start: Instant,
    mut condition: impl FnMut() -> bool,
) -> Result<f64> {
    while !condition() {
        if start.elapsed() > LIMIT {
            bail!("{what}: not within {LIMIT:?}");
        }
        spin_loop();
    }
    Ok(milliseconds(start.elapsed()))
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The resident memory of a process in MiB.
pub(crate) fn resident(pid: u32) -> Result<f64> {
    let held = leakguard_tests::resident(pid).context("the process has ended")?;
    Ok(held.now as f64 / 1024.0)
}

/// The agent that is measured.
pub(crate) fn binary() -> PathBuf {
    agent_binary()
}

/// Waits until something is so, looking now and then.
pub(crate) fn settle(what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    Ok(wait_until(what, LIMIT, || Ok(condition()))?)
}
