//! What is blocked and surprises, as docs/known-issues.md says it: how long whoever asks waits.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use leakguard::lab::{Query, Resolver, WHO_NAME, output_within};
use leakguard_tests::{Bench, Place, connect, isp};
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

/// Resolves a name by glibc, which is told of this resolver with a time-out of ten seconds.
fn glibc(bench: &Bench, resolver: &str) -> (bool, Duration) {
    const SCRIPT: &str = r#"
printf 'nameserver %s\noptions timeout:10 attempts:1\n' "$1" >"$2/resolv.conf"
resolv=$(readlink -m /etc/resolv.conf)
[ -e "$resolv" ] || { mount -t tmpfs tmpfs "${resolv%/*}" && : >"$resolv"; }
mount --bind "$2/resolv.conf" "$resolv"
printf 'hosts: dns\n' >"$2/nsswitch.conf"
mount --bind "$2/nsswitch.conf" /etc/nsswitch.conf
exec getent ahostsv4 www.lab.test
"#;
    let scratch = tempfile::tempdir().unwrap();
    let mut command: Command = bench.topology.host().command("unshare");
    bench.cgroup.attach(&mut command);
    command
        .args(["--mount", "sh", "-ec", SCRIPT, "sh", resolver])
        .arg(scratch.path());
    let started = Instant::now();
    let output = output_within(command, LIMIT).unwrap();
    (output.status.success(), started.elapsed())
}

#[test]
fn dig_waits_for_its_time_out_and_glibc_fails_at_once() {
    let mut bench = Bench::new();
    let server = isp(0, 53).ip();
    let _resolver = Resolver::new(bench.topology.isp(), "isp").unwrap();
    let dig = |bench: &Bench| {
        let query = Query::new(server, WHO_NAME, "TXT").timeout(WHILE);
        let started = Instant::now();
        let lookup = query.run(bench.topology.host(), Some(&bench.cgroup));
        (lookup.unwrap().is("isp"), started.elapsed())
    };
    assert!(dig(&bench).0, "control");
    assert!(glibc(&bench, &server.to_string()).0, "control");
    bench.protect(&[]);
    // The host's resolv.conf is as it was, and names a resolver that is not reached.
    let (answered, elapsed) = dig(&bench);
    assert!(!answered && elapsed >= WHILE, "dig: {elapsed:?}");
    let (answered, elapsed) = glibc(&bench, &server.to_string());
    let limit = Duration::from_secs(5);
    assert!(!answered && elapsed < limit, "glibc: {elapsed:?}");
}
