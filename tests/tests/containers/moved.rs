//! A network card that is given to a container: its TC program moves with it.

use leakguard::lab::{Agent, AgentConfig, Bpffs, Directions, Netns, Observer, wait_until};
use leakguard_tests::{Bench, Shape, agent_binary, interface};

use super::{BOTH, LIMIT, caught_by, container, inside};

/// A second card of the host, with a network of its own at the ISP, for a container.
struct Card {
    observer: Observer,
    netns: Netns,
}

impl Card {
    fn new(bench: &Bench) -> Self {
        let (host, isp) = (bench.topology.host(), bench.topology.isp());
        isp.ip_batch(&format!(
            "link add host1 type veth peer name eth1 netns {}\n\
             link set host1 up\n\
             addr add 192.168.79.1/24 dev host1\n\
             addr add fd79::1/64 dev host1 nodad\n",
            host.name()
        ))
        .unwrap();
        host.ip(&["link", "set", "eth1", "up"]).unwrap();
        Self {
            observer: Observer::new(isp, "host1", Directions::Incoming).unwrap(),
            netns: container("moved"),
        }
    }

    /// Moves it into the container, which configures it.
    fn give(&self, bench: &Bench) {
        let host = bench.topology.host();
        host.ip(&["link", "set", "eth1", "netns", self.netns.name()])
            .unwrap();
        self.netns
            .ip_batch(
                "link set eth1 up\n\
                 addr add 192.168.79.10/24 dev eth1\n\
                 addr add fd79::10/64 dev eth1 nodad\n\
                 route add default via 192.168.79.1\n\
                 route add default via fd79::1\n",
            )
            .unwrap();
    }

    fn take_back(&self, bench: &Bench) {
        let host = bench.topology.host();
        self.netns
            .ip(&["link", "set", "eth1", "netns", host.name()])
            .unwrap();
        host.ip(&["link", "set", "eth1", "up"]).unwrap();
    }

    #[track_caller]
    fn leaks(&mut self, bench: &Bench, when: &str) {
        let (shape, observer) = self.shape(bench);
        shape.leaks(observer, when);
    }

    #[track_caller]
    fn is_kept_in(&mut self, bench: &Bench, when: &str) {
        let (shape, observer) = self.shape(bench);
        shape.is_kept_in(observer, when);
    }

    fn shape<'lab>(&'lab mut self, bench: &'lab Bench) -> (Shape<'lab>, &'lab mut Observer) {
        let shape = Shape {
            name: "moved card",
            origin: inside(&self.netns, &bench.cgroup),
            families: BOTH,
        };
        (shape, &mut self.observer)
    }
}

/// Waits until the agent has put its program on the card, which is the host's.
fn await_covered(bench: &mut Bench) {
    wait_until("the card is covered", LIMIT, || {
        let status = bench.agent().status_json()?;
        Ok(interface(&status, "eth1").is_some_and(|found| found["tc"] == "head"))
    })
    .unwrap();
}

#[test]
fn a_card_that_is_moved_into_a_container_stays_guarded_until_the_release() {
    let mut bench = Bench::new();
    let mut card = Card::new(&bench);
    card.give(&bench);
    card.leaks(&bench, "without leakguard");
    card.take_back(&bench);

    bench.protect(&[]);
    await_covered(&mut bench);
    card.give(&bench);
    card.is_kept_in(&bench, "with leakguard");
    caught_by(&mut bench, "tc");
    card.take_back(&bench);
    await_covered(&mut bench);
    card.give(&bench);
    card.is_kept_in(&bench, "moved a second time");
    bench.agent().kill9().unwrap();
    card.is_kept_in(&bench, "with the agent dead");
    bench.unprotect();
    card.leaks(&bench, "after the release");
}

/// A known issue: it has to fail here, and be struck from the list, when that changes.
#[test]
fn a_card_that_was_moved_before_leakguard_is_not_guarded() {
    let mut bench = Bench::new();
    let mut card = Card::new(&bench);
    card.give(&bench);
    bench.protect(&[]);
    card.leaks(&bench, "moved before leakguard");

    // The way round it.
    let bpffs = Bpffs::new().unwrap();
    let agent = Agent::start(&AgentConfig {
        binary: agent_binary(),
        netns: &card.netns,
        cgroup: &bench.cgroup,
        bpffs: &bpffs,
        tunnels: vec![Bench::TUNNEL.to_owned()],
        arguments: Vec::new(),
    })
    .unwrap();
    card.is_kept_in(&bench, "with a leakguard of its own");
    drop(agent);
}
