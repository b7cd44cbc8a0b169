//! What is blocked and surprises, as docs/known-issues.md says it: how long whoever asks waits.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use leakguard::lab::{LAB_NAME, Query, Resolver, WHO_NAME, output_within};
use leakguard_tests::{Bench, Place, connect, isp, musl_program, with_resolver};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Longer than anything takes that is not waited for in vain.
const WHILE: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(30);

/// Whether a connection has come about, or has been refused, within a while.
fn is_decided(bench: &Bench, target: SocketAddr) -> bool {
    let stream: TcpStream = bench.origin(Place::Host).tcp(target.ip(), 1).remove(0);
    stream.set_nonblocking(true).unwrap();
    assert_eq!(
        connect(&stream, target),
        Err(Errno::EINPROGRESS),
        "{target}"
    );
    let mut ready = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
    poll(&mut ready, PollTimeout::try_from(WHILE).unwrap()).unwrap() == 1
}

#[test]
fn a_connection_off_the_tunnel_hangs_and_a_datagram_fails_at_once() {
    let mut bench = Bench::new();
    for protected in [false, true] {
        if protected {
            bench.protect(&[]);
        }
        for port in [53, 853, 443] {
            let target = isp(0, port);
            let hangs = protected && port != 443;
            assert_ne!(is_decided(&bench, target), hangs, "{target}: {protected}");
            let socket = bench.origin(Place::Host).udp(target.ip());
            let sent = socket.send_to(b"a question", target);
            let refused = sent.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
            assert_eq!(refused, hangs, "{target}: {protected}");
        }
    }
}

/// What the host's `resolv.conf` says of time.
const TIME_OUT: Duration = Duration::from_secs(5);

/// Runs a program that resolves a name by its C library, which is told of this resolver; says whether it has, and how
/// long that took.
fn resolves(bench: &Bench, resolver: &str, program: &[&str]) -> (bool, Duration) {
    let host = bench.topology.host();
    let command = with_resolver(bench, host, resolver, TIME_OUT, program);
    let started = Instant::now();
    let output = output_within(command, LIMIT).unwrap();
    (output.status.success(), started.elapsed())
}

#[test]
fn dig_and_musl_wait_for_their_time_outs_and_glibc_fails_at_once() {
    let mut bench = Bench::new();
    let server = isp(0, 53).ip();
    let _resolver = Resolver::new(bench.topology.isp(), "isp").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let musl = musl_program(directory.path());
    let musl = musl.to_str().unwrap();
    let dig = |bench: &Bench| {
        let query = Query::new(server, WHO_NAME, "TXT").timeout(WHILE);
        let started = Instant::now();
        let lookup = query.run(bench.topology.host(), Some(&bench.cgroup));
        (lookup.unwrap().is("isp"), started.elapsed())
    };
    let libraries = |bench: &Bench| {
        [vec!["getent", "ahosts", LAB_NAME], vec![musl, LAB_NAME]]
            .map(|program| resolves(bench, &server.to_string(), &program))
    };
    assert!(dig(&bench).0, "control");
    for (answered, elapsed) in libraries(&bench) {
        assert!(answered && elapsed < TIME_OUT, "control: {elapsed:?}");
    }
    bench.protect(&[]);
    // The host's resolv.conf is as it was, and names a resolver that is not reached.
    let (answered, elapsed) = dig(&bench);
    assert!(!answered && elapsed >= WHILE, "dig: {elapsed:?}");
    let [(by_glibc, of_glibc), (by_musl, of_musl)] = libraries(&bench);
    assert!(!by_glibc && of_glibc < TIME_OUT, "glibc: {of_glibc:?}");
    assert!(!by_musl && of_musl >= TIME_OUT, "musl: {of_musl:?}");
}
