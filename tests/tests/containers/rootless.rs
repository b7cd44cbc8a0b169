//! Rootless containers: a program of an unprivileged user opens sockets on the host for what its container sends.

use std::fs;
use std::net::{IpAddr, Ipv6Addr, TcpListener, UdpSocket};
use std::process::Command;

use leakguard::lab::{
    Cgroup, Daemon, Netns, Resolver, WHO_NAME, address, carries_name, wait_until,
};
use leakguard_tests::{Bench, Origin, Place, Podman, Shape};
use tempfile::TempDir;

use super::{BOTH, LIMIT, caught_by, inside};

/// `nobody`.
const USER: &str = "65534";
/// How podman names its network by slirp4netns.
const SLIRP: &str = "slirp4netns:enable_ipv6=true";
/// The resolver that slirp4netns plays for its container, which asks the first of the host's `resolv.conf`.
const SLIRP_RESOLVER: &str = "10.0.2.3";

/// A container of `nobody` by pasta, which Debian's podman does not know yet.
struct ByPasta {
    netns: Netns,
    cgroup: Cgroup,
    _pasta: Daemon,
    _holder: Daemon,
    _directories: [TempDir; 2],
}

impl ByPasta {
    fn new(host: &Netns, cgroup: &Cgroup) -> Self {
        let directories = [0; 2].map(|_| tempfile::tempdir().unwrap());
        let [holder_logs, logs] = directories.each_ref().map(TempDir::path);
        let mut unshare = Command::new("setpriv");
        unshare.args(as_user());
        unshare.args(["unshare", "--user", "--map-root-user", "--net"]);
        unshare.args(["sleep", "infinity"]);
        cgroup.attach(&mut unshare);
        let mut holder = Daemon::start(unshare, holder_logs).unwrap();
        let comm = format!("/proc/{}/comm", holder.pid());
        wait_until("the namespaces are there", LIMIT, || {
            holder.check_running()?;
            Ok(fs::read_to_string(&comm).is_ok_and(|comm| comm == "sleep\n"))
        })
        .unwrap();
        let netns = Netns::of_process("pasta", holder.pid()).unwrap();

        let mut start = host.command("unshare");
        start.args(["--mount", "sh", "-c", START, "sh"]);
        start.args(as_user());
        start.args(["pasta", "--config-net", "--foreground", "--no-map-gw"]);
        start.arg(holder.pid().to_string());
        cgroup.attach(&mut start);
        let mut pasta = Daemon::start(start, logs).unwrap();
        await_routes(&netns, || pasta.check_running().unwrap());
        Self {
            netns,
            cgroup: Cgroup::of_process(holder.pid()).unwrap(),
            _pasta: pasta,
            _holder: holder,
            _directories: directories,
        }
    }
}

/// Starts setpriv with its arguments, with a TUN device that is anybody's, as udev makes it.
const START: &str = r#"
set -e
mount -t tmpfs tmpfs /dev/net
mknod -m 666 /dev/net/tun c 10 200
exec setpriv "$@"
"#;

/// The options of setpriv for an unprivileged user whose programs end with the test.
fn as_user() -> [&'static str; 6] {
    // The kernel forgets the signal when the user changes.
    [
        "--reuid",
        USER,
        "--regid",
        USER,
        "--clear-groups",
        "--pdeathsig=KILL",
    ]
}

/// Waits until a container has a default route of each family, and may send from its addresses.
fn await_routes(netns: &Netns, mut check: impl FnMut()) {
    wait_until("the container has routes", LIMIT, || {
        check();
        let has = |family| netns.ip(&[family, "route", "show", "default"]);
        let undecided = netns.ip(&["-6", "address", "show", "tentative"])?;
        Ok(!has("-4")?.is_empty() && !has("-6")?.is_empty() && undecided.is_empty())
    })
    .unwrap();
}

/// Sockets at the ISP that take what comes.
///
/// Where nobody listens, slirp4netns loses a datagram for each ICMP error, and pasta lets a connection hang that was
/// refused (versions 1.2.0 and of March 2023).
fn listen(isp: &Netns) -> Vec<(UdpSocket, TcpListener)> {
    let bind = |port: u16| {
        let address = (Ipv6Addr::UNSPECIFIED, port);
        (
            UdpSocket::bind(address).unwrap(),
            TcpListener::bind(address).unwrap(),
        )
    };
    // The fence, what is waited for, and what is probed.
    isp.run_in(|| [4, 9, 53, 443, 853, 8080].map(bind).into())
        .unwrap()
}

/// Protects the bench, and shows that DNS of a container got out before and does not any more.
fn check(bench: &mut Bench, name: &str, origin: Origin<'_>) {
    let shape = Shape {
        name,
        origin,
        families: BOTH,
    };
    shape.leaks(&mut bench.observer, "without leakguard");
    bench.protect(&[]);
    shape.is_kept_in(&mut bench.observer, "with leakguard");
    shape.resolves_through_the_tunnel();
    caught_by(bench, "cgroup_skb");
}

#[test]
fn a_rootless_podman_container_resolves_through_the_tunnel_only() {
    let mut bench = Bench::with_tunnel();
    let _sockets = listen(bench.topology.isp());
    let podman = Podman::rootless(bench.topology.host(), &bench.cgroup, &[]);
    let container = podman.container("one", SLIRP);
    await_routes(container.origin().netns, || {});
    check(&mut bench, "slirp4netns", container.origin());
}

#[test]
fn a_rootless_container_by_pasta_resolves_through_the_tunnel_only() {
    let mut bench = Bench::with_tunnel();
    let _sockets = listen(bench.topology.isp());
    let container = ByPasta::new(bench.topology.host(), &bench.cgroup);
    let origin = inside(&container.netns, &container.cgroup);
    check(&mut bench, "pasta", origin);
}

#[test]
fn the_resolver_of_slirp4netns_asks_through_the_tunnel_or_nobody() {
    for (upstream, who) in [
        (address::TUNNEL_RESOLVER_V4, "vpn"),
        (address::ISP_RESOLVER_V4, "isp"),
    ] {
        let mut bench = Bench::with_tunnel();
        let _isp = Resolver::new(bench.topology.isp(), "isp").unwrap();
        let host = bench.topology.host();
        let podman = Podman::rootless(host, &bench.cgroup, &[upstream.to_string()]);
        let container = podman.container("one", SLIRP);
        let shape = Shape {
            name: "slirp4netns",
            origin: container.origin(),
            families: BOTH,
        };
        let resolver: IpAddr = SLIRP_RESOLVER.parse().unwrap();
        for protected in [false, true] {
            if protected {
                bench.protect(&[]);
            }
            bench.frames(Place::Host);
            if protected && who == "isp" {
                shape.is_refused(resolver);
            } else {
                shape.hears(resolver, who);
            }
            let frames = bench.frames(Place::Host);
            let seen = frames.iter().any(|frame| carries_name(frame, WHO_NAME));
            let expected = who == "isp" && !protected;
            assert_eq!(seen, expected, "{who}, protected: {protected}");
        }
    }
}
