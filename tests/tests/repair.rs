//! What somebody takes away from outside is put back by the agent.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::fs;
use std::process::Command;
use std::time::Duration;

use leakguard::kernel::pins::Pins;
use leakguard::lab::{Agent, AgentConfig, Bpffs, Cgroup, Netns, output_within, wait_until};
use leakguard_tests::agent_binary;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Twice the agent's interval, and some.
const LIMIT: Duration = Duration::from_secs(20);

/// An agent in a namespace with one uplink.
struct Fixture {
    agent: Agent,
    netns: Netns,
    bpffs: Bpffs,
    _cgroup: Cgroup,
}

impl Fixture {
    fn new() -> Self {
        Self::with("up0", &[])
    }

    /// An agent whose uplink has a name, started with more arguments.
    fn with(uplink: &str, arguments: &[&str]) -> Self {
        let netns = Netns::new("repair").unwrap();
        netns
            .ip(&["link", "add", uplink, "type", "veth", "peer", "name", "up1"])
            .unwrap();
        for end in [uplink, "up1"] {
            netns.ip(&["link", "set", end, "up"]).unwrap();
        }
        let bpffs = Bpffs::new().unwrap();
        let cgroup = Cgroup::new("repair").unwrap();
        let agent = Agent::start(&AgentConfig {
            binary: agent_binary(),
            netns: &netns,
            cgroup: &cgroup,
            bpffs: &bpffs,
            tunnels: vec!["tun0".into()],
            arguments: arguments.iter().map(Into::into).collect(),
        })
        .unwrap();
        Self {
            agent,
            netns,
            bpffs,
            _cgroup: cgroup,
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.agent.pid().try_into().unwrap());
        kill(pid, signal).unwrap();
    }

    fn nft(&self, arguments: &[&str]) -> bool {
        let mut nft: Command = self.netns.command("nft");
        nft.args(arguments);
        output_within(nft, LIMIT).unwrap().status.success()
    }

    /// Takes something away, sees that it is gone, and waits for it to come back.
    fn expect_mended(mut self, take: impl FnOnce(&Self)) {
        // Stopped meanwhile, so that it cannot be faster than the look at what is missing.
        self.signal(Signal::SIGSTOP);
        take(&self);
        let enforcing = self.agent.is_enforcing().unwrap();
        self.signal(Signal::SIGCONT);
        assert!(!enforcing, "positive control: it is missed");
        wait_until("the agent mends it", LIMIT, || self.agent.is_enforcing()).unwrap();
        wait_until("the agent says so", LIMIT, || {
            Ok(self.agent.stderr().contains("mended"))
        })
        .unwrap();
    }
}

#[test]
fn a_flushed_ruleset_is_put_back() {
    Fixture::new().expect_mended(|fixture| {
        assert!(fixture.nft(&["flush", "ruleset"]));
        assert!(!fixture.nft(&["list", "table", "inet", "leakguard"]));
    });
}

#[test]
fn a_changed_rule_is_put_back() {
    Fixture::new().expect_mended(|fixture| {
        assert!(fixture.nft(&["flush", "chain", "inet", "leakguard", "forward"]));
    });
}

#[test]
fn an_unpinned_cgroup_link_is_attached_again() {
    Fixture::new().expect_mended(|fixture| {
        fs::remove_file(Pins::at(fixture.bpffs.path()).cgroup_link()).unwrap();
    });
}

#[test]
fn an_unpinned_tc_link_is_attached_again() {
    Fixture::new().expect_mended(|fixture| {
        let links = Pins::at(fixture.bpffs.path()).tcx_links().unwrap();
        assert_eq!(links.len(), 2, "{links:?}");
        for (_, pin) in links {
            fs::remove_file(pin).unwrap();
        }
    });
}

#[test]
fn a_name_that_nft_cannot_express_is_warned_of_once() {
    let fixture = Fixture::with("odd\"name", &["-v", "--local", "odd*"]);
    let said = |what: &str| fixture.agent.stderr().matches(what).count();
    wait_until("the agent reads back a few times", LIMIT, || {
        Ok(said("brought in line") >= 4)
    })
    .unwrap();
    assert_eq!(said("cannot express"), 1, "{}", fixture.agent.stderr());
}
