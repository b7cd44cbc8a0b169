//! Every kind of DNS, from everywhere, without pause: what must not get out whatever happens meanwhile.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use leakguard::lab::{Frame, wait_until};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{MsgFlags, SockaddrStorage, connect, sendto};

use super::{Origin, Place, Transport, isp};

/// What a probe is, by what it is called: transport and destination port.
pub const KINDS: [(&str, Transport, u16); 7] = [
    ("dns/udp", Transport::Udp, 53),
    ("dns/tcp", Transport::Tcp, 53),
    ("dot", Transport::Tcp, 853),
    ("doq", Transport::Udp, 853),
    ("mdns", Transport::Udp, 5353),
    ("llmnr", Transport::Udp, 5355),
    ("netbios", Transport::Udp, 137),
];

/// The least number of probes of each kind in a second.
const RATE: u64 = 1000;

/// How many are sent, to be on the safe side.
pub(crate) const USUAL: u32 = 1500;

/// Where probes come from: two places, two families.
const ORIGINS: u64 = 4;

/// How long a storm may take to send what is waited for.
const PATIENCE: Duration = Duration::from_mins(2);

/// How long it may make up for a pause before it is stopped.
const CATCH_UP: Duration = Duration::from_secs(5);

/// A question for `storm.lab.test`, whatever the port.
const QUESTION: &[u8] =
    b"\x4c\x47\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05storm\x03lab\x04test\x00\x00\x01\x00\x01";

/// Probes of all [`KINDS`] to the ISP's resolver, from the guarded cgroup and from the container, over both families,
/// until it is stopped.
#[derive(Debug)]
pub struct Storm {
    shared: Arc<Shared>,
    started: Instant,
    thread: Option<JoinHandle<[Tally; KINDS.len()]>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    salvoes: AtomicU64,
}

/// What was sent of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Attempts, whatever became of them.
    pub sent: u64,
    /// Attempts of the local process.
    pub local: u64,
    /// What the senders were told: by place and error.
    pub errors: BTreeMap<(&'static str, &'static str), u64>,
}

/// What a [`Storm`] sent.
#[derive(Debug)]
pub struct Stormed {
    kinds: [Tally; KINDS.len()],
    elapsed: Duration,
}

/// The socket of one kind at one origin.
struct Gun {
    socket: Arc<OwnedFd>,
    transport: Transport,
    target: SockaddrStorage,
}

impl Storm {
    /// Starts it from two places, at the usual rate.
    pub fn start(origins: [(Place, Origin<'_>); 2]) -> Self {
        Self::start_at(USUAL, origins)
    }

    /// Starts it at a rate: that many of each kind in a second, in salvoes of one of each kind from one of the places
    /// over one of the families, which take turns.
    pub fn start_at(rate: u32, origins: [(Place, Origin<'_>); 2]) -> Self {
        let guns: Vec<(Place, Vec<Gun>)> = (0..2)
            .flat_map(|family| origins.map(|(place, origin)| (place, load(origin, family))))
            .collect();
        assert_eq!(guns.len() as u64, ORIGINS);
        let shared = Arc::new(Shared::default());
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || rage(&guns, Duration::from_secs(1) / rate, &shared)
        });
        Self {
            shared,
            started: Instant::now(),
            thread: Some(thread),
        }
    }

    /// Waits until that many more of each kind were sent.
    pub fn go_on(&self, of_each_kind: u64) {
        let target = self.shared.salvoes.load(Ordering::Relaxed) + of_each_kind;
        wait_until("the storm goes on", PATIENCE, || {
            Ok(self.shared.salvoes.load(Ordering::Relaxed) >= target)
        })
        .unwrap();
    }

    /// Goes on for a time: that of the scenario, not one that something else is waited for.
    pub fn rage_for(&self, time: Duration) {
        let started = Instant::now();
        wait_until("the time is over", time + PATIENCE, || {
            Ok(started.elapsed() >= time)
        })
        .unwrap();
    }

    /// Ends it, after it has made up for what a busy machine was late with, if that is soon.
    pub fn stop(mut self) -> Stormed {
        let behind = |elapsed: Duration| {
            let salvoes = u128::from(self.shared.salvoes.load(Ordering::Relaxed));
            salvoes * 1000 < u128::from(RATE) * elapsed.as_millis()
        };
        // What cannot be made up for is told by the figures.
        drop(wait_until("the storm is up to its rate", CATCH_UP, || {
            Ok(!behind(self.started.elapsed()))
        }));
        self.shared.stop.store(true, Ordering::Relaxed);
        let elapsed = self.started.elapsed();
        Stormed {
            kinds: self.thread.take().unwrap().join().unwrap(),
            elapsed,
        }
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Stormed {
    /// What was sent of each kind, in the order of [`KINDS`].
    pub fn kinds(&self) -> impl Iterator<Item = (&'static str, &Tally)> {
        KINDS.iter().map(|(name, ..)| *name).zip(&self.kinds)
    }

    /// How many there were in all.
    pub fn total(&self) -> u64 {
        self.kinds.iter().map(|tally| tally.sent).sum()
    }

    /// Asserts that it was strong enough to show something.
    #[track_caller]
    pub fn assert_rate(&self) {
        for (name, tally) in self.kinds() {
            let rate = self.rate(tally);
            assert!(
                rate >= RATE,
                "the machine is too busy: {rate} {name} probes in a second instead of {RATE}; {self}"
            );
        }
    }

    /// Asserts that every datagram of the local process was refused to it.
    #[track_caller]
    pub fn assert_refused(&self) {
        for ((name, transport, _), tally) in KINDS.iter().zip(&self.kinds) {
            let refused = tally.errors.get(&("local", "EPERM")).copied();
            if *transport == Transport::Udp {
                assert_eq!(refused, Some(tally.local), "{name}: {self}");
            }
        }
    }

    fn rate(&self, tally: &Tally) -> u64 {
        let milliseconds = u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX);
        tally.sent * 1000 / milliseconds.max(1)
    }
}

impl fmt::Display for Stormed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64();
        write!(f, "{} probes in {seconds:.1} s", self.total())?;
        for (name, tally) in self.kinds() {
            write!(f, "; {name} {} ({}/s)", tally.sent, self.rate(tally))?;
            for ((place, error), count) in &tally.errors {
                write!(f, ", {place} {error} {count}")?;
            }
        }
        Ok(())
    }
}

/// The packets among these frames that go to a port of [`KINDS`], by kind, whoever has sent them.
pub fn escaped<'frames>(
    frames: impl IntoIterator<Item = &'frames Vec<u8>>,
) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for frame in frames.into_iter().filter_map(|bytes| Frame::parse(bytes)) {
        let port = frame.destination.port();
        if !KINDS.iter().any(|(.., of_kind)| *of_kind == port) {
            continue;
        }
        let named = KINDS.iter().find(|(_, transport, of_kind)| {
            *of_kind == port
                && match transport {
                    Transport::Udp => frame.is_udp(),
                    Transport::Tcp => frame.is_tcp(),
                }
        });
        let name = match named {
            Some((name, ..)) => (*name).to_owned(),
            None => format!("protocol {} port {port}", frame.protocol),
        };
        *counts.entry(name).or_default() += 1;
    }
    counts
}

/// Makes the sockets of one origin and family.
fn load(origin: Origin<'_>, family: usize) -> Vec<Gun> {
    let peer = isp(family, 0).ip();
    let datagrams = Arc::new(OwnedFd::from(origin.udp(peer)));
    let of_kind = |transport| KINDS.iter().filter(move |kind| kind.1 == transport);
    let mut streams = origin
        .tcp(peer, of_kind(Transport::Tcp).count())
        .into_iter();
    let gun = |(_, transport, port): &(&str, Transport, u16)| {
        let socket = match transport {
            Transport::Udp => Arc::clone(&datagrams),
            Transport::Tcp => {
                let stream = streams.next().unwrap();
                stream.set_nonblocking(true).unwrap();
                Arc::new(stream.into())
            }
        };
        Gun {
            socket,
            transport: *transport,
            target: SockaddrStorage::from(SocketAddr::new(peer, *port)),
        }
    };
    KINDS.iter().map(gun).collect()
}

fn rage(guns: &[(Place, Vec<Gun>)], pause: Duration, shared: &Shared) -> [Tally; KINDS.len()] {
    let mut tallies: [Tally; KINDS.len()] = Default::default();
    let mut due = Instant::now();
    for (place, guns) in guns.iter().cycle() {
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
        for (gun, tally) in guns.iter().zip(&mut tallies) {
            tally.sent += 1;
            tally.local += u64::from(*place == Place::Host);
            if let Err(error) = gun.fire() {
                *tally
                    .errors
                    .entry((name(*place), named(error)))
                    .or_default() += 1;
            }
        }
        shared.salvoes.fetch_add(1, Ordering::Relaxed);
        // The pace of the load, not a wait for anything. What a busy machine was late with is made up for.
        due += pause;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    tallies
}

impl Gun {
    fn fire(&self) -> nix::Result<()> {
        let socket = self.socket.as_raw_fd();
        match self.transport {
            Transport::Udp => {
                sendto(socket, QUESTION, &self.target, MsgFlags::MSG_DONTWAIT).map(drop)
            }
            Transport::Tcp => {
                disconnect(socket)?;
                match connect(socket, &self.target) {
                    Err(Errno::EINPROGRESS) => Ok(()),
                    result => result,
                }
            }
        }
    }
}

/// Ends whatever became of the last connection of a socket, so that it can begin another.
fn disconnect(socket: RawFd) -> nix::Result<()> {
    // SAFETY: a plain C structure, for which all zeroes are valid; `AF_UNSPEC` is 0.
    let nobody: libc::sockaddr = unsafe { std::mem::zeroed() };
    // SAFETY: the structure lives, and is of this length.
    let result = unsafe {
        libc::connect(
            socket,
            &raw const nobody,
            libc::socklen_t::try_from(size_of_val(&nobody)).unwrap(),
        )
    };
    Errno::result(result).map(drop)
}

fn name(place: Place) -> &'static str {
    match place {
        Place::Host => "local",
        Place::Client => "forwarded",
    }
}

/// An error by its name, as in the manual.
fn named(error: Errno) -> &'static str {
    match error {
        Errno::EPERM => "EPERM",
        Errno::EAGAIN => "EAGAIN",
        Errno::ENOBUFS => "ENOBUFS",
        Errno::ENETUNREACH => "ENETUNREACH",
        Errno::EHOSTUNREACH => "EHOSTUNREACH",
        Errno::ECONNREFUSED => "ECONNREFUSED",
        Errno::EADDRNOTAVAIL => "EADDRNOTAVAIL",
        other => other.desc(),
    }
}
