//! A host in an emulated machine, which is slow, and an observer at its ISP.

use std::time::Duration;

use leakguard::lab::{
    Agent, AgentConfig, Bpffs, Cgroup, Directions, LabError, Observer, Topology, wait_until,
};

use super::agent_binary;

/// A host without a tunnel.
#[derive(Debug)]
pub struct Guest {
    /// Sees what leaves the host.
    pub observer: Observer,
    /// Whose sockets the agent judges.
    pub cgroup: Cgroup,
    bpffs: Bpffs,
    /// The network.
    pub topology: Topology,
}

impl Guest {
    /// How long anything may take there.
    pub const LIMIT: Duration = Duration::from_mins(2);

    /// Builds it.
    pub fn new(label: &str) -> Self {
        let topology = Topology::new().unwrap();
        Self {
            observer: Observer::new(topology.isp(), Topology::OBSERVED, Directions::Incoming)
                .unwrap(),
            cgroup: Cgroup::new(label).unwrap(),
            bpffs: Bpffs::new().unwrap(),
            topology,
        }
    }

    /// Starts the agent and waits until it enforces.
    pub fn protect(&self, tunnel: &str) -> Agent {
        let mut agent = Agent::spawn(&AgentConfig {
            binary: agent_binary(),
            netns: self.topology.host(),
            cgroup: &self.cgroup,
            bpffs: &self.bpffs,
            tunnels: vec![tunnel.to_owned()],
            arguments: Vec::new(),
        })
        .unwrap();
        wait_until("leakguard enforces", Self::LIMIT, || {
            match agent.is_enforcing() {
                // While the verifier has the processors, a command can take longer than it may.
                Err(LabError::Timeout { .. }) => Ok(false),
                answer => answer,
            }
        })
        .unwrap();
        agent
    }
}
