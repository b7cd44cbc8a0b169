//! Sending, and what it takes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use leakguard_tests::{Origin, connect};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::socket::{setsockopt, sockopt::Mark};
use nix::time::{ClockId, clock_gettime};

use super::{From, Scene};

/// How often a burst in which the thread had to wait for others is sent again.
const PATIENCE: usize = 50;

/// What is sent.
pub(crate) enum Load {
    /// Datagrams by a connected socket.
    Datagrams {
        /// Theirs.
        socket: UdpSocket,
        /// Whether the sender is told that each was dropped.
        refused: bool,
    },
    /// As much as a connection carries.
    Stream(TcpStream),
}

impl Load {
    /// Datagrams to one target.
    pub(crate) fn datagrams(origin: Origin<'_>, target: SocketAddr) -> Result<Self> {
        let socket = origin.udp(target.ip());
        connect(&socket, target)?;
        Ok(Self::Datagrams {
            socket,
            refused: false,
        })
    }

    /// Datagrams that the sender gets an error for, each of them.
    pub(crate) fn refused(origin: Origin<'_>, target: SocketAddr) -> Result<Self> {
        let mut load = Self::datagrams(origin, target)?;
        if let Self::Datagrams { refused, .. } = &mut load {
            *refused = true;
        }
        Ok(load)
    }

    /// The same with a mark.
    pub(crate) fn marked(self, mark: u32) -> Result<Self> {
        match &self {
            Self::Datagrams { socket, .. } => setsockopt(socket, Mark, &mark)?,
            Self::Stream(socket) => setsockopt(socket, Mark, &mark)?,
        }
        Ok(self)
    }

    /// A connection over the uplink, to somebody who reads whatever comes.
    pub(crate) fn stream(scene: &Scene, port: u16) -> Result<Self> {
        let target = SocketAddr::new(Scene::NEIGHBOUR.parse()?, port);
        let listener = scene.wire().run_in(|| TcpListener::bind(target))??;
        let mut sockets = scene.origin(From::Host).tcp(target.ip(), 1);
        let socket = sockets.remove(0);
        connect(&socket, target)?;
        let (mut reader, _) = listener.accept()?;
        // It ends with the connection.
        thread::Builder::new().spawn(move || {
            let mut buffer = vec![0; 1 << 20];
            while reader.read(&mut buffer).is_ok_and(|count| count > 0) {}
        })?;
        Ok(Self::Stream(socket))
    }

    /// Sends that many datagrams, or several MiB; returns nanoseconds for one of those, or microseconds for a MiB, with all that the kernel does with it before
    /// it goes on with the next.
    pub(super) fn turn(&mut self, count: u32) -> Result<f64> {
        match self {
            Self::Datagrams { socket, refused } => burst(socket, *refused, count),
            Self::Stream(stream) => {
                const MEBIBYTES: u32 = 8;
                let mebibyte = vec![0x55; 1 << 20];
                let started = cpu_time()?;
                for _ in 0..MEBIBYTES {
                    stream.write_all(&mebibyte)?;
                }
                let took = cpu_time()?.saturating_sub(started);
                Ok(took.as_micros() as f64 / f64::from(MEBIBYTES))
            }
        }
    }
}

fn burst(socket: &UdpSocket, refused: bool, count: u32) -> Result<f64> {
    let payload = [0x55; 64];
    let mut took = 0;
    for _ in 0..PATIENCE {
        let before = waits()?;
        let started = Instant::now();
        for _ in 0..count {
            match socket.send(&payload) {
                Ok(_) => ensure!(!refused, "a datagram was not dropped"),
                Err(error) if refused && error.kind() == ErrorKind::PermissionDenied => {}
                Err(error) => return Err(error.into()),
            }
        }
        took = started.elapsed().as_nanos();
        if waits()? == before {
            break;
        }
    }
    Ok(took as f64 / f64::from(count))
}

/// What the calling thread has taken so far.
fn cpu_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// How often the calling thread has had to wait for another.
fn waits() -> io::Result<i64> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    Ok(usage.involuntary_context_switches() + usage.voluntary_context_switches())
}
