//! Probes that can be counted one by one wherever they arrive.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use leakguard::lab::Frame;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Origin, connect};

/// How probes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A datagram with a number of its own in the payload.
    Udp,
    /// A connection from a port of its own.
    Tcp,
}

/// A number of probes to one target.
#[derive(Debug)]
pub struct Volley {
    target: SocketAddr,
    marks: Marks,
    errors: Vec<io::Error>,
}

#[derive(Debug)]
enum Marks {
    /// What every payload begins with, before its number.
    Payload(String),
    /// The connections, open until the volley is dropped: nothing is sent on closing them early.
    Connections(Vec<TcpStream>),
}

impl Volley {
    /// Sends `count` probes without waiting for any answer.
    pub fn send(
        origin: Origin<'_>,
        transport: Transport,
        target: SocketAddr,
        count: usize,
    ) -> Self {
        match transport {
            Transport::Udp => Self::datagrams(origin, target, count),
            Transport::Tcp => Self::connections(origin, target, count),
        }
    }

    fn datagrams(origin: Origin<'_>, target: SocketAddr, count: usize) -> Self {
        let socket = origin.udp(target.ip());
        let prefix = nonce();
        let errors = (0..count)
            .filter_map(|number| {
                socket
                    .send_to(numbered(&prefix, number).as_bytes(), target)
                    .err()
            })
            .collect();
        Self {
            target,
            marks: Marks::Payload(prefix),
            errors,
        }
    }

    fn connections(origin: Origin<'_>, target: SocketAddr, count: usize) -> Self {
        let mut errors = Vec::new();
        let streams = origin.tcp(target.ip(), count);
        for stream in &streams {
            stream.set_nonblocking(true).unwrap();
            match connect(stream, target) {
                Ok(()) | Err(Errno::EINPROGRESS) => {}
                Err(error) => errors.push(error.into()),
            }
        }
        Self {
            target,
            marks: Marks::Connections(streams),
            errors,
        }
    }

    /// What the senders were told.
    pub fn errors(&self) -> &[io::Error] {
        &self.errors
    }

    /// How many of the probes are among these frames, each counted once.
    pub fn seen(&self, frames: &[Vec<u8>]) -> usize {
        let towards = frames.iter().filter(|bytes| {
            Frame::parse(bytes).is_some_and(|frame| frame.destination == self.target)
        });
        match &self.marks {
            Marks::Payload(prefix) => {
                let numbers: BTreeSet<_> =
                    towards.filter_map(|bytes| number(bytes, prefix)).collect();
                numbers.len()
            }
            Marks::Connections(streams) => {
                let ports: BTreeSet<u16> = towards
                    .filter_map(|bytes| Frame::parse(bytes))
                    .filter(Frame::is_tcp)
                    .map(|frame| frame.source.port())
                    .collect();
                let ours = streams.iter().filter_map(|stream| stream.local_addr().ok());
                ours.filter(|address| ports.contains(&address.port()))
                    .count()
            }
        }
    }

    /// How many of the probes are among these frames if their addresses and ports were changed on the way: by address
    /// translation, or by a program that opens connections of its own for those of a container.
    ///
    /// Connections are counted by where they come from, so that none to the same target may still be on its way.
    pub fn seen_translated(&self, frames: &[Vec<u8>]) -> usize {
        match &self.marks {
            Marks::Payload(_) => self.seen(frames),
            Marks::Connections(_) => {
                let frames = frames.iter().filter_map(|bytes| Frame::parse(bytes));
                let sources: BTreeSet<SocketAddr> = frames
                    .filter(|frame| frame.is_tcp() && frame.destination == self.target)
                    .map(|frame| frame.source)
                    .collect();
                sources.len()
            }
        }
    }

    /// How many connections have been answered by now, be it with a refusal.
    pub fn answered(&self) -> usize {
        let Marks::Connections(streams) = &self.marks else {
            panic!("only connections are answered");
        };
        let answered = |stream: &&TcpStream| {
            let mut ready = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
            poll(&mut ready, PollTimeout::ZERO).unwrap() == 1
        };
        streams.iter().filter(answered).count()
    }
}

/// A text that no other volley has.
fn nonce() -> String {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    format!("leakguard probe {:08x} {serial:08x} ", process::id())
}

fn numbered(prefix: &str, number: usize) -> String {
    format!("{prefix}{number:08x}")
}

fn number(bytes: &[u8], prefix: &str) -> Option<u32> {
    let (rest, number) = bytes.split_last_chunk::<8>()?;
    let number = str::from_utf8(number).ok()?;
    rest.ends_with(prefix.as_bytes())
        .then(|| u32::from_str_radix(number, 16).ok())?
}
