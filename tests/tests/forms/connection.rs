//! Connections that were established before leakguard: not one packet of DNS leaves by them afterwards.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use leakguard::lab::{Frame, wait_until};
use leakguard_tests::{Bench, Place, Row, connect, isp, report};
use nix::errno::Errno;
use nix::libc;

use crate::probe::FAMILIES;

/// Connections of each kind.
const N: usize = 5;
/// How long a retransmission may take.
const LIMIT: Duration = Duration::from_secs(10);
const PLACES: [(Place, &str); 2] = [(Place::Host, "local"), (Place::Client, "forwarded")];
const BLOCKED: [(&str, u16); 2] = [("dns/tcp", 53), ("dot/tcp", 853)];
const PASSED: [(&str, u16); 2] = [("http/tcp", 80), ("https/tcp", 443)];

/// Established connections of one kind.
struct Connections {
    row: Row,
    target: SocketAddr,
    streams: Vec<TcpStream>,
    /// Their other ends, which answer with acknowledgements only.
    _accepted: Vec<TcpStream>,
}

impl Connections {
    fn establish(
        bench: &Bench,
        place: (Place, &str),
        family: usize,
        kind: (&'static str, u16),
    ) -> Self {
        let target = isp(family, kind.1);
        let listener = bench.listen(target);
        let streams = bench.origin(place.0).tcp(target.ip(), N);
        let accepted = streams
            .iter()
            .map(|stream| {
                connect(stream, target).unwrap();
                stream.set_nodelay(true).unwrap();
                listener.accept().unwrap().0
            })
            .collect();
        let row = Row {
            form: "established connection",
            path: format!("{}: write", place.1),
            family: FAMILIES[family],
            class: kind.0,
            sent: N,
            without: 0,
            with: 0,
        };
        Self {
            row,
            target,
            streams,
            _accepted: accepted,
        }
    }

    fn write(&mut self) {
        for stream in &mut self.streams {
            stream.write_all(b"more").unwrap();
        }
    }

    /// How many of the connections have a packet among these frames.
    fn seen(&self, frames: &[Vec<u8>]) -> usize {
        let own = |frame: &Frame| frame.is_tcp() && frame.destination == self.target;
        let frames = frames.iter().filter_map(|bytes| Frame::parse(bytes));
        let ports: Vec<u16> = frames
            .filter(own)
            .map(|frame| frame.source.port())
            .collect();
        let is_seen = |stream: &&TcpStream| {
            let port = stream.local_addr().unwrap().port();
            ports.contains(&port)
        };
        self.streams.iter().filter(is_seen).count()
    }

    /// Whether the kernel has tried all of them once more, or has given up.
    fn tried_again(&self) -> bool {
        /// `TCP_ESTABLISHED` of the kernel.
        const ESTABLISHED: u8 = 1;
        let tried_again = |stream: &TcpStream| {
            let info = tcp_info(stream);
            // What was refused at once is not sent again, but probed for.
            info.tcpi_total_retrans > 0 || info.tcpi_probes > 0 || info.tcpi_state != ESTABLISHED
        };
        self.streams.iter().all(tried_again)
    }
}

/// What the kernel knows of a connection.
fn tcp_info(stream: &TcpStream) -> libc::tcp_info {
    // SAFETY: a plain C structure, for which all zeroes are valid.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of_val(&info)).unwrap();
    // SAFETY: a live structure of the length given, which the kernel fills.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    Errno::result(result).unwrap();
    info
}

/// Establishes connections of these kinds from everywhere.
fn establish(bench: &Bench, kinds: &[(&'static str, u16)]) -> Vec<Connections> {
    let mut all = Vec::new();
    for place in PLACES {
        for family in 0..FAMILIES.len() {
            for kind in kinds {
                all.push(Connections::establish(bench, place, family, *kind));
            }
        }
    }
    all
}

#[test]
fn established_connections_carry_no_dns_any_more() {
    let mut bench = Bench::new();
    let mut blocked = establish(&bench, &BLOCKED);
    let mut passed = establish(&bench, &PASSED);
    for protected in [false, true] {
        if protected {
            bench.protect(&[]);
        }
        // What has led here does not count.
        bench.frames(Place::Host);
        bench.frames(Place::Client);
        for connections in blocked.iter_mut().chain(&mut passed) {
            connections.write();
        }
        if protected {
            wait_until("everything is sent again", LIMIT, || {
                Ok(blocked.iter().all(Connections::tried_again))
            })
            .unwrap();
        }
        let mut frames = bench.frames(Place::Client);
        frames.extend(bench.frames(Place::Host));
        for connections in blocked.iter_mut().chain(&mut passed) {
            let seen = connections.seen(&frames);
            if protected {
                connections.row.with = seen;
            } else {
                connections.row.without = seen;
            }
        }
    }
    for (table, connections, right) in [("blocked", blocked, 0), ("passed", passed, N)] {
        let rows: Vec<Row> = connections.into_iter().map(|kind| kind.row).collect();
        report(table, "connections", &rows);
        for row in rows {
            assert_eq!((row.without, row.with), (N, right), "{row:?}");
        }
    }
}
