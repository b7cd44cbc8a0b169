//! Whatever becomes of the tunnel, nothing gets out beside it, and it works again at once: under a storm of every class.

#![expect(
    clippy::use_debug,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a step that fails is a test that fails, and what was counted is for people to read"
)]

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use leakguard::lab::{Netns, Topology, address, wait_until};
use leakguard_tests::{Bench, Place, Scene, Tun, interface, second_net, soaks};

/// How long anything that has to happen may take.
const LIMIT: Duration = Duration::from_secs(20);
/// How long a tunnel may take from coming up to carrying DNS, as a median.
const MEDIAN: Duration = Duration::from_millis(100);
/// Probes of each class after something has happened.
const AFTER: u64 = 500;
/// Between two questions of whoever waits for the tunnel.
const AGAIN: Duration = Duration::from_millis(2);
/// A question for a name that the tunnel's resolver knows nothing of, which it says at once.
const QUESTION: &[u8] =
    b"\x4c\x47\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05again\x03lab\x04test\x00\x00\x01\x00\x01";

/// They measure time, so they wait for one another.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed leaves nothing behind that matters here.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints how long something took, many times over, and asserts that it was quick.
#[track_caller]
fn assert_quick(what: &str, times: Vec<Duration>) {
    let median = median(what, times);
    assert!(median <= MEDIAN, "{what}: {median:?} median");
}

/// Prints how long something took, many times over; gives the median.
fn median(what: &str, mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!(
        "{what}, {} times: {:.1?} at best, {median:.1?} median, {worst:.1?} at worst",
        times.len(),
        times[0]
    );
    median
}

/// Somebody in the guarded cgroup who asks the tunnel's resolver.
struct Asker {
    socket: UdpSocket,
}

impl Asker {
    const RESOLVER: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(address::TUNNEL_RESOLVER_V4), 53);

    fn new(bench: &Bench) -> Self {
        let socket = bench.origin(Place::Host).udp(Self::RESOLVER.ip());
        socket.set_read_timeout(Some(AGAIN)).unwrap();
        Self { socket }
    }

    /// Asks once; whether that was refused.
    fn is_refused(&self) -> bool {
        let refused = |error: std::io::Error| error.kind() == std::io::ErrorKind::PermissionDenied;
        self.socket
            .send_to(QUESTION, Self::RESOLVER)
            .is_err_and(refused)
    }

    /// Asks until somebody answers.
    fn await_answer(&self) {
        let started = Instant::now();
        loop {
            // Refused, unreachable or sent: what counts is the answer.
            drop(self.socket.send_to(QUESTION, Self::RESOLVER));
            if self.socket.recv(&mut [0; 512]).is_ok() {
                break;
            }
            assert!(started.elapsed() < LIMIT, "the tunnel does not answer");
        }
        // Answers to questions that were asked meanwhile.
        while self.socket.recv(&mut [0; 512]).is_ok() {}
    }

    /// Asks until something of it goes into the tunnel.
    fn await_passage(&self, tunnel: &mut Tun) {
        let started = Instant::now();
        loop {
            // As above.
            drop(self.socket.send_to(QUESTION, Self::RESOLVER));
            if tunnel.carries_dns(AGAIN) {
                return;
            }
            assert!(started.elapsed() < LIMIT, "nothing goes into the tunnel");
        }
    }
}

/// What makes the tunnel ready, but for the time it takes the agent.
fn set_up(host: &Netns) {
    host.ip_batch("link set wg0 up\naddr add 10.8.0.2/24 dev wg0\n")
        .unwrap();
}

#[test]
fn a_tunnel_that_is_created_again_carries_dns_at_once() {
    let _turn = turn();
    let mut scene = Scene::new(Bench::new());
    scene.bench.protect(&[]);
    scene.begin();
    let times = created_again(&scene, 100);
    scene
        .end("a TUN device created and deleted")
        .assert_refused();
    assert_quick("from `ip link set up` to DNS in a new TUN device", times);
}

/// Each attempt is an event that the agent decodes. A tunnel is more urgent.
#[test]
fn a_flood_of_events_does_not_keep_the_agent_from_the_tunnel() {
    let _turn = turn();
    let mut scene = Scene::new(Bench::new());
    scene.bench.protect(&[]);
    scene.begin_at(4000);
    let times = created_again(&scene, 30);
    scene.end("four times 1 kHz of each class").assert_refused();
    assert_quick(
        "from `ip link set up` to DNS under a flood of events",
        times,
    );
}

/// Creates a tunnel so many times; says how long each took to carry DNS.
fn created_again(scene: &Scene, times: usize) -> Vec<Duration> {
    let asker = Asker::new(&scene.bench);
    (0..times)
        .map(|_| {
            let host = scene.bench.topology.host();
            let mut tunnel = Tun::new(host, Bench::TUNNEL);
            let started = Instant::now();
            set_up(host);
            asker.await_passage(&mut tunnel);
            started.elapsed()
        })
        .collect()
}

#[test]
fn a_real_tunnel_that_is_created_again_answers_at_once() {
    let _turn = turn();
    let count = if soaks() { 100 } else { 10 };
    let mut scene = Scene::new(Bench::with_tunnel());
    scene.bench.protect(&[]);
    let asker = Asker::new(&scene.bench);
    scene.begin();
    asker.await_answer();
    let times = (0..count)
        .map(|_| {
            let (tunnel, host) = scene.bench.tunnel();
            tunnel.delete();
            assert!(asker.is_refused(), "without the tunnel");
            tunnel.create(host).unwrap();
            let started = Instant::now();
            tunnel.set_up(host).unwrap();
            asker.await_answer();
            started.elapsed()
        })
        .collect();
    scene
        .end("a WireGuard tunnel created and deleted")
        .assert_refused();
    assert_quick(
        "from `ip link set up` to an answer through a new WireGuard tunnel, with its handshake",
        times,
    );
}

#[test]
fn a_tunnel_that_comes_again_without_an_agent_waits_for_one() {
    let _turn = turn();
    let mut scene = Scene::new(Bench::new());
    scene.bench.protect(&[]);
    let asker = Asker::new(&scene.bench);
    scene.begin();
    let mut tunnel = Tun::new(scene.bench.topology.host(), Bench::TUNNEL);
    set_up(scene.bench.topology.host());
    asker.await_passage(&mut tunnel);
    scene.bench.agent().kill9().unwrap();
    asker.await_passage(&mut tunnel);
    for _ in 0..10 {
        drop(tunnel);
        tunnel = Tun::new(scene.bench.topology.host(), Bench::TUNNEL);
        set_up(scene.bench.topology.host());
        assert!(asker.is_refused(), "nobody has permitted the new one");
        assert!(!tunnel.carries_dns(AGAIN));
    }
    scene.storm().go_on(AFTER);
    scene.bench.agent().restart().unwrap();
    asker.await_passage(&mut tunnel);
    scene
        .end("a TUN device created and deleted without an agent")
        .assert_refused();
}

/// What the agent says of the tunnel's role under a name.
fn await_role(scene: &mut Scene, name: &str, role: &str) {
    wait_until(&format!("{name} is a {role}"), LIMIT, || {
        let status = scene.bench.agent().status_json()?;
        Ok(interface(&status, name).is_some_and(|found| found["role"] == role))
    })
    .unwrap();
}

#[test]
fn a_tunnel_that_is_renamed_is_one_only_under_its_name() {
    let _turn = turn();
    let mut scene = Scene::new(Bench::with_tunnel());
    scene.bench.protect(&[]);
    let asker = Asker::new(&scene.bench);
    scene.begin();
    asker.await_answer();
    let rename_down = |scene: &Scene, from: &str, to: &str| {
        // Down for it: older kernels rename nothing that is up.
        let lines = format!("link set {from} down\nlink set {from} name {to}\n");
        scene.bench.topology.host().ip_batch(&lines).unwrap();
    };
    let up = |scene: &Scene, name: &str| {
        let host = scene.bench.topology.host();
        host.ip(&["link", "set", name, "up"]).unwrap();
    };
    let rename = |scene: &Scene, from: &str, to: &str| {
        rename_down(scene, from, to);
        up(scene, to);
    };
    rename(&scene, Bench::TUNNEL, "away0");
    await_role(&mut scene, "away0", "uplink");
    assert!(asker.is_refused(), "under another name");
    scene.storm().go_on(AFTER);
    let times = (0..10)
        .map(|_| {
            rename_down(&scene, "away0", Bench::TUNNEL);
            let started = Instant::now();
            up(&scene, Bench::TUNNEL);
            asker.await_answer();
            let elapsed = started.elapsed();
            rename(&scene, Bench::TUNNEL, "away0");
            // The agent is done with the way there before the way back is measured.
            await_second_net(&scene, "covered", &["away0", Topology::UPLINK]);
            elapsed
        })
        .collect();

    // Without an agent it keeps the role that it had, under whatever name: it is the same device.
    rename(&scene, "away0", Bench::TUNNEL);
    asker.await_answer();
    scene.bench.agent().kill9().unwrap();
    rename(&scene, Bench::TUNNEL, "away0");
    asker.await_answer();
    scene.storm().go_on(AFTER);
    scene.bench.agent().restart().unwrap();
    await_role(&mut scene, "away0", "uplink");
    assert!(asker.is_refused(), "under another name");
    rename(&scene, "away0", Bench::TUNNEL);
    asker.await_answer();
    scene.end("the tunnel renamed and back").assert_refused();
    assert_quick(
        "from `ip link set up` to an answer through a tunnel that was renamed back",
        times,
    );
}

#[test]
fn a_tunnel_that_is_moved_away_and_back_is_one_again() {
    let _turn = turn();
    let mut scene = Scene::new(Bench::new());
    scene.bench.protect(&[]);
    let asker = Asker::new(&scene.bench);
    let other = Netns::new("away").unwrap();
    let mut tunnel = Tun::new(scene.bench.topology.host(), Bench::TUNNEL);
    set_up(scene.bench.topology.host());
    scene.begin();
    asker.await_passage(&mut tunnel);
    let times = (0..20)
        .map(|_| {
            move_away(&scene, &other);
            assert!(asker.is_refused(), "without the tunnel");
            // What went into it before.
            tunnel.carries_dns(Duration::ZERO);
            await_second_net(&scene, "permitted", &["lo", Topology::CONTAINER_PORT]);
            move_back(&scene, &other);
            let started = Instant::now();
            set_up(scene.bench.topology.host());
            asker.await_passage(&mut tunnel);
            started.elapsed()
        })
        .collect();

    scene.bench.agent().kill9().unwrap();
    move_away(&scene, &other);
    move_back(&scene, &other);
    set_up(scene.bench.topology.host());
    assert!(asker.is_refused(), "nobody has permitted it again");
    scene.storm().go_on(AFTER);
    scene.bench.agent().restart().unwrap();
    tunnel.carries_dns(Duration::ZERO);
    asker.await_passage(&mut tunnel);
    scene
        .end("the tunnel moved to another namespace and back")
        .assert_refused();
    assert_quick(
        "from `ip link set up` to DNS in a tunnel that was moved back",
        times,
    );
}

#[test]
fn a_real_tunnel_that_is_moved_away_and_back_answers_again() {
    let _turn = turn();
    let mut scene = Scene::new(Bench::with_tunnel());
    scene.bench.protect(&[]);
    let asker = Asker::new(&scene.bench);
    let other = Netns::new("away").unwrap();
    scene.begin();
    asker.await_answer();
    let times = (0..10)
        .map(|_| {
            move_away(&scene, &other);
            assert!(asker.is_refused(), "without the tunnel");
            move_back(&scene, &other);
            let (tunnel, host) = scene.bench.tunnel();
            let started = Instant::now();
            tunnel.set_up(host).unwrap();
            asker.await_answer();
            started.elapsed()
        })
        .collect();
    scene
        .end("a WireGuard tunnel moved to another namespace and back")
        .assert_refused();
    // wireguard-go looks once in a second whether its device is up again in another namespace.
    median(
        "from `ip link set up` to an answer through a WireGuard tunnel that was moved back",
        times,
    );
}

/// Waits until a set of the second net holds exactly these: it is the last that the agent sees to.
fn await_second_net(scene: &Scene, set: &str, names: &[&str]) {
    let expected: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
    wait_until("the second net follows", LIMIT, || {
        Ok(second_net(scene.bench.topology.host(), set) == expected)
    })
    .unwrap();
}

fn move_away(scene: &Scene, other: &Netns) {
    let host = scene.bench.topology.host();
    host.ip(&["link", "set", Bench::TUNNEL, "netns", other.name()])
        .unwrap();
}

fn move_back(scene: &Scene, other: &Netns) {
    let host = scene.bench.topology.host().name();
    other
        .ip(&["link", "set", Bench::TUNNEL, "netns", host])
        .unwrap();
}
