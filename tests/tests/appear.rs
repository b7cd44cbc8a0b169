//! Interfaces that come while the agent runs: covered soon, and nothing passes until then.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a step that fails is a test that fails"
)]

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use leakguard::kernel::links::TcAttachment;
use leakguard::kernel::pins::Pins;
use leakguard::kernel::read_back::ReadBack;
use leakguard::lab::{Netns, address, wait_until};
use leakguard_tests::{Bench, Place, Transport, interface, packets};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// How long a new interface may take to be covered before the test fails.
const LIMIT: Duration = Duration::from_secs(10);
/// New interfaces one after the other.
const ROUNDS: u8 = 20;
/// New interfaces from each place, with and without a running agent.
const RACES: u8 = 3;
/// Stands for a physical interface: without this, a pair with a network of its own would be local.
const ARGUMENTS: [&str; 2] = ["--uplink", "new*"];
/// A port that is nobody's DNS.
const NEUTRAL: u16 = 4000;

/// These tests measure time or load the machine, so they wait for one another.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // A test that failed leaves nothing behind that matters here.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Awaits an interface in the current namespace without pause; gives its number as soon as it can be named.
fn await_interface(name: &str) -> u32 {
    let started = Instant::now();
    loop {
        if let Ok(ifindex) = nix::net::if_::if_nametoindex(name) {
            return ifindex;
        }
        assert!(started.elapsed() < LIMIT, "{name} does not come");
        thread::yield_now();
    }
}

/// Awaits the TC program on an interface of the current namespace; says how long that took.
fn await_coverage(pins: &Pins, ifindex: u32) -> Duration {
    let started = Instant::now();
    let kernel = ReadBack::open(pins).unwrap().unwrap();
    while kernel.tc(ifindex).unwrap() != TcAttachment::Head {
        assert!(
            started.elapsed() < LIMIT,
            "interface {ifindex} is not covered"
        );
        thread::yield_now();
    }
    started.elapsed()
}

#[test]
fn a_new_interface_is_covered_within_milliseconds() {
    let _alone = alone();
    let mut bench = Bench::new();
    bench.protect(&ARGUMENTS);
    let pins = Pins::at(bench.bpffs.path());
    let host = bench.topology.host();
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|round| {
            let name = format!("new{round}");
            thread::scope(|scope| {
                let watch = || {
                    host.run_in(|| await_coverage(&pins, await_interface(&name)))
                        .unwrap()
                };
                let watching = scope.spawn(watch);
                let peer = format!("far{round}");
                let isp = bench.topology.isp().name();
                host.ip(&[
                    "link", "add", &name, "type", "veth", "peer", "name", &peer, "netns", isp,
                ])
                .unwrap();
                watching.join().unwrap()
            })
        })
        .collect();
    times.sort_unstable();
    let [fastest, .., slowest] = times[..] else {
        unreachable!("there are {ROUNDS} of them");
    };
    println!(
        "from creation to attachment, {ROUNDS} interfaces: {fastest:?} at best, {:?} median, {slowest:?} at worst",
        times[times.len() / 2]
    );
}

/// Sends DNS and neutral datagrams to an address without pause until told to stop; counts the attempts.
fn hammer(socket: &UdpSocket, target: Ipv4Addr, stop: &AtomicBool, tried: &AtomicU64) {
    while !stop.load(Ordering::Relaxed) {
        for port in [53, NEUTRAL] {
            // Refused, unreachable or sent: what counts is what arrives.
            drop(socket.send_to(b"hammer", (target, port)));
            tried.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Takes what a socket has received, without waiting.
fn received(socket: &UdpSocket) -> u64 {
    let mut count = 0;
    loop {
        match socket.recv(&mut [0; 64]) {
            Ok(_) => count += 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return count,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Receives at the far end, from before the interface is there on.
fn receiver(isp: &Netns, address: Ipv4Addr, port: u16) -> UdpSocket {
    let socket = isp
        .run_in(|| UdpSocket::bind((address, port)).unwrap())
        .unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// What arrived by interfaces that came while somebody was sending without pause.
#[derive(Debug, Default)]
struct Arrived {
    dns: u64,
    neutral: u64,
}

/// Tells a sender to stop, also when the test fails meanwhile.
struct Stop<'flag>(&'flag AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Adds an interface to the host while a place sends without pause to what will be behind it; removes it again.
///
/// It is over when a hundred neutral datagrams have arrived, and DNS too if that is `awaited`.
fn race(bench: &Bench, place: Place, round: u8, dns_awaited: bool) -> Arrived {
    let (host, isp) = (bench.topology.host(), bench.topology.isp());
    let target = Ipv4Addr::new(10, 50, round, 2);
    // The far end answers for an address of its loopback by whatever interface.
    isp.ip(&["addr", "add", &format!("{target}/32"), "dev", "lo"])
        .unwrap();
    let (dns, neutral) = (receiver(isp, target, 53), receiver(isp, target, NEUTRAL));
    let socket = bench.origin(place).udp(target.into());
    let mut arrived = Arrived::default();
    let (stop, tried) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| hammer(&socket, target, &stop, &tried));
        wait_until("the sender is at it", LIMIT, || {
            Ok(tried.load(Ordering::Relaxed) > 0)
        })
        .unwrap();
        // A pair cannot be made with both ends up.
        host.ip_batch(&format!(
            "link add new{round} up type veth peer name far{round} netns {}\n\
             addr add 10.50.{round}.1/24 dev new{round}\n",
            isp.name()
        ))
        .unwrap();
        isp.ip(&["link", "set", &format!("far{round}"), "up"])
            .unwrap();
        wait_until("what is sent arrives", LIMIT, || {
            arrived.neutral += received(&neutral);
            arrived.dns += received(&dns);
            Ok(arrived.neutral >= 100 && (!dns_awaited || arrived.dns > 0))
        })
        .unwrap();
    });
    host.ip(&["link", "del", &format!("new{round}")]).unwrap();
    arrived.dns += received(&dns);
    arrived
}

/// Sends a signal to the agent.
fn signal(bench: &mut Bench, signal: Signal) {
    let pid = bench.agent().pid().cast_signed();
    nix::sys::signal::kill(Pid::from_raw(pid), signal).unwrap();
}

#[test]
fn nothing_passes_while_an_interface_is_new() {
    let _alone = alone();
    let mut bench = Bench::new();
    for place in [Place::Host, Place::Client] {
        let arrived = race(&bench, place, 1, true);
        println!("control from {place:?}, without leakguard: {arrived:?}");
        bench
            .topology
            .isp()
            .ip(&["addr", "del", "10.50.1.2/32", "dev", "lo"])
            .unwrap();
    }
    bench.protect(&ARGUMENTS);
    let mut round = 1;
    for agent_runs in [true, false] {
        if !agent_runs {
            // The window until the program is attached, without an end.
            signal(&mut bench, Signal::SIGSTOP);
        }
        for place in [Place::Host, Place::Client] {
            let mut all = Arrived::default();
            for _ in 0..RACES {
                round += 1;
                let Arrived { dns, neutral } = race(&bench, place, round, false);
                all.dns += dns;
                all.neutral += neutral;
            }
            assert_eq!(
                all.dns, 0,
                "from {place:?}, agent runs: {agent_runs}: {all:?}"
            );
            println!(
                "{RACES} new interfaces under fire from {place:?}, agent runs: {agent_runs}: {all:?}"
            );
        }
    }
    signal(&mut bench, Signal::SIGCONT);
    let status = bench.agent().status_json().unwrap();
    println!(
        "caught by the second net: {}; at cgroup_skb: {}; at TC: {}",
        status["netfilter"]["routed"],
        packets(&status, &[("verdict", "drop"), ("hook", "cgroup_skb")]),
        packets(&status, &[("verdict", "drop"), ("hook", "tc")]),
    );
}

#[test]
fn a_burst_of_interfaces_is_covered() {
    const PAIRS: usize = 200;
    let _alone = alone();
    let mut bench = Bench::new();
    bench.protect(&ARGUMENTS);
    let mut batch = String::new();
    for pair in 0..PAIRS {
        let isp = bench.topology.isp().name();
        writeln!(
            batch,
            "link add new{pair} type veth peer name far{pair} netns {isp}"
        )
        .unwrap();
    }
    let started = Instant::now();
    bench.topology.host().ip_batch(&batch).unwrap();
    let created = started.elapsed();
    let covered = |status: &serde_json::Value| {
        (0..PAIRS).all(|pair| {
            interface(status, &format!("new{pair}")).is_some_and(|found| found["tc"] == "head")
        })
    };
    wait_until("all of them are covered", LIMIT, || {
        let status = bench.agent().status_json()?;
        Ok(covered(&status) && status["level"] == "full")
    })
    .unwrap();
    println!(
        "{PAIRS} interfaces created in {created:?}, all covered {:?} after the first",
        started.elapsed()
    );
    let target = SocketAddr::from((address::ISP_RESOLVER_V4, 53));
    assert_eq!(bench.seen(Place::Host, Transport::Udp, target, 20), 0);
}

#[test]
fn a_pair_that_gets_a_gateway_is_an_uplink_soon() {
    let _alone = alone();
    let mut bench = Bench::new();
    bench.protect(&[]);
    let (host, isp) = (bench.topology.host(), bench.topology.isp());
    host.ip_batch(&format!(
        "link add pair0 type veth peer name far0 netns {}\n\
         link set pair0 up\n\
         addr add 10.99.0.1/24 dev pair0\n",
        isp.name()
    ))
    .unwrap();
    isp.ip_batch("link set far0 up\naddr add 10.99.0.2/24 dev far0\n")
        .unwrap();
    wait_until("a pair with a network of its own is local", LIMIT, || {
        let status = bench.agent().status_json()?;
        Ok(interface(&status, "pair0").is_some_and(|found| found["role"] == "local"))
    })
    .unwrap();

    let target = SocketAddr::from((address::ISP_RESOLVER_V4, 53));
    let socket = bench.origin(Place::Host).udp(target.ip());
    assert!(socket.send_to(b"by the uplink", target).is_err());
    bench
        .topology
        .host()
        .ip(&[
            "route",
            "add",
            "198.51.100.53/32",
            "via",
            "10.99.0.2",
            "dev",
            "pair0",
        ])
        .unwrap();
    let started = Instant::now();
    while socket.send_to(b"by the pair", target).is_ok() {
        assert!(started.elapsed() < LIMIT, "the gateway is not noticed");
    }
    println!(
        "from a gateway's route to a refusal: {:?}",
        started.elapsed()
    );
}
